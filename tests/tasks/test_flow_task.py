"""Flow training: the loss counts what it says, and halving keeps motion true."""

import pytest
import torch
from torch import Tensor, nn

from flowfeat.interfaces import Flow, FlowNetwork
from flowfeat.optimization import CosineDecay, Optimization, StepDecay
from flowfeat.tasks.flow_task import FlowBatch, FlowTask

PLAN = Optimization(torch.optim.SGD, StepDecay(()))


class Constant(FlowNetwork):
    """Predicts one displacement everywhere, at strides 4 and 2."""

    def __init__(self, dx: float, dy: float) -> None:
        super().__init__()
        self.move = nn.Parameter(torch.tensor([dx, dy]))

    def pyramid(self, current: Tensor, key: Tensor) -> tuple[Tensor, ...]:
        batch, _, height, width = current.shape
        flow = self.move.view(1, 2, 1, 1)
        return tuple(flow.expand(batch, 2, height // s, width // s) for s in (4, 2))

    def forward(self, current: Tensor, key: Tensor) -> Flow:
        raise NotImplementedError


def batch(dx: float, dy: float, valid: Tensor | None = None) -> FlowBatch:
    flow = torch.tensor([dx, dy]).view(1, 2, 1, 1).expand(2, 2, 16, 24).contiguous()
    frames = torch.rand(2, 3, 16, 24)
    known = torch.ones(2, 16, 24, dtype=torch.bool) if valid is None else valid
    return FlowBatch(current=frames, key=frames, flow=flow, valid=known)


def task(dx: float, dy: float, **options) -> FlowTask:
    return FlowTask(Constant(dx, dy), PLAN, **options)


def test_the_loss_is_the_end_point_error_at_every_scale():
    # Off by (3, 4) everywhere: five pixels at both scales, whatever their weights.
    assert task(5.0, 1.0).loss(batch(2.0, -3.0)).item() == pytest.approx(5.0)


def test_unknown_pixels_do_not_count():
    truth = batch(2.0, 0.0, torch.zeros(2, 16, 24, dtype=torch.bool))
    truth["valid"][:, :, :12] = True
    truth["flow"][:, :, :, 12:] = float("nan")
    assert task(2.0, 0.0).loss(truth).item() == pytest.approx(0.0, abs=1e-5)


def test_halving_halves_motion_and_keeps_what_is_known():
    truth = batch(6.0, -2.0, torch.zeros(2, 16, 24, dtype=torch.bool))
    truth["valid"][:, :8] = True
    truth["flow"][:, :, 8:] = float("nan")
    halved = task(0.0, 0.0, halve=True).prepare(truth)
    assert halved["valid"][:, :4].all()
    assert not halved["valid"][:, 4:].any()
    torch.testing.assert_close(
        halved["flow"][:, :, :4], torch.tensor([3.0, -1.0]).view(1, 2, 1, 1).expand(2, 2, 4, 12)
    )


def test_more_scales_than_weights_are_refused():
    with pytest.raises(ValueError, match="expected 2 values, one per scale, found 1"):
        task(0.0, 0.0, weights=(1.0,)).loss(batch(0.0, 0.0))


def test_schedules_follow_their_formulas():
    step = StepDecay(drops=(0.5, 0.75), gamma=0.1, warmup=4)
    assert [step(s, 100) for s in (0, 3, 49)] == pytest.approx([0.25, 1.0, 1.0])
    assert [step(s, 100) for s in (50, 75)] == pytest.approx([0.1, 0.01])
    cosine = CosineDecay(warmup=10)
    assert [cosine(s, 110) for s in (0, 10, 60, 110)] == pytest.approx([0.1, 1.0, 0.5, 0.0])


def test_factors_scale_rates_and_zero_freezes():
    parts = {"features": nn.Linear(1, 1), "head": nn.Linear(1, 1), "flow": nn.Linear(1, 1)}
    plan = Optimization(
        lambda groups: torch.optim.SGD(groups, lr=0.5), StepDecay(()), {"head": 4, "flow": 0}
    )
    optimizer, _ = plan.configure(parts, total=10)
    assert {g["name"]: g["initial_lr"] for g in optimizer.param_groups} == {
        "features": 0.5,
        "head": 2.0,
    }
    with pytest.raises(ValueError, match="unknown part 'heed'"):
        Optimization(torch.optim.SGD, StepDecay(()), {"heed": 1}).configure(parts, 10)


@pytest.mark.parametrize(("reach", "warned"), [(None, False), (8.0, False), (7.0, True)])
@pytest.mark.parametrize("halve", [False, True])
def test_motion_beyond_the_reach_is_said_with_its_figure(reach, warned, halve, caplog):
    given = task(0.0, 0.0, halve=halve)
    given.flow.reach = reach
    factor = 2 if halve else 1
    known = torch.ones(2, 16, 24, dtype=torch.bool)
    known[:, :, 12:] = False
    pair = batch(3.0 * factor, -8.0 * factor, known)
    pair["flow"][:, :, :, 12:] = 100
    given.on_validation_epoch_start()
    given.validation_step(pair, 0)
    given._warn_of_reach()
    said = "things move by up to 8 px, the network sees 7 px per axis"
    assert (said in caplog.text) == warned
