"""The learned schedule: its target is the agreement of results, which it then predicts."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from flowfeat.agreement import agreement_loss
from flowfeat.flow.correlation import CorrelationFlow
from flowfeat.flow.flownet import FlowNet
from flowfeat.flow.zero import ZeroFlow
from flowfeat.interfaces import FeatureNetwork, Features, Flow, TaskHead
from flowfeat.key_frames.learned import Agreement, Learned
from flowfeat.speed import key_frame_interval
from flowfeat.temporal.feature_flow import FeatureFlow


class Pixels(FeatureNetwork):
    """Each 8 x 8 pixels' mean."""

    def __init__(self) -> None:
        super().__init__()
        self.channels, self.strides = (3,), (8,)

    def trunk(self, frames: Tensor) -> Features:
        return (F.avg_pool2d(frames, 8),)


class Brightest(TaskHead):
    """Labels every cell by its brightest channel."""

    def forward(self, features: Features, frames: Tensor) -> Tensor:
        return features[0]

    def postprocess(self, raw: Tensor, sizes: Tensor) -> list[Tensor]:
        return list(raw.argmax(1))

    def loss(self, raw: Any, labels: Any) -> dict[str, Tensor]:
        raise NotImplementedError


class CopyingFlow(ZeroFlow):
    """No motion; its coarse features are the difference of the frames."""

    coarse_channels = 3

    def forward(self, current: Tensor, key: Tensor) -> Flow:
        difference = F.avg_pool2d((current - key).abs(), 8)
        return Flow(super().forward(current, key).displacement, None, difference)


def pairs(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return clips (B, 2, 3, 16, 24) whose second frame keeps a known share of the cells (B,)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (count, 2, 3), generator=generator)
    changed = torch.rand(count, 2, 3, generator=generator) < torch.rand(
        count, 1, 1, generator=generator
    )
    later = torch.where(changed, (labels + 1) % 3, labels)
    cells = F.one_hot(torch.stack((labels, later), 1), 3).permute(0, 1, 4, 2, 3).float()
    frames = cells.repeat_interleave(8, 3).repeat_interleave(8, 4)
    return frames, (~changed).float().mean((1, 2))


USUAL = {"coarse_channels": 3, "interval": 6, "threshold": 0.3, "times_age": False}


def method(**settings: float) -> FeatureFlow:
    torch.manual_seed(0)
    schedule = Learned(**(USUAL | settings))
    return FeatureFlow(Pixels(), CopyingFlow((3,), (8,)), schedule)


def loss_of(module: FeatureFlow, clips: Tensor) -> Tensor:
    is_key = torch.tensor([[True, False]]).expand(len(clips), -1)
    targets = torch.ones(len(clips), 1, dtype=torch.int64)
    output = module(clips, is_key, targets)
    sizes = torch.tensor([[16, 24]]).expand(len(clips), -1)
    return agreement_loss(module, Brightest(), clips, is_key, targets, output, sizes)


@pytest.fixture(scope="module")
def taught() -> FeatureFlow:
    module = method()
    optimizer = torch.optim.Adam(module.schedule.parameters(), lr=0.01)
    for step in range(150):
        optimizer.zero_grad()
        loss_of(module, pairs(16, step)[0]).backward()
        optimizer.step()
    return module


def test_it_learns_the_agreement_without_labels(taught):
    clips, agreed = pairs(64, 1000)
    with torch.no_grad():
        expected = taught.expected_agreement(clips[:, 1], clips[:, 0]).sigmoid()
        fresh = method().expected_agreement(clips[:, 1], clips[:, 0]).sigmoid()
    assert (expected - agreed).abs().mean() < 0.08
    assert (fresh - agreed).abs().mean() > 0.2


def test_it_decides_by_what_it_expects(taught):
    """Five of six cells the same; then one of six; then stillness up to the ceiling."""
    frames, _ = pairs(1, 3)
    first = torch.zeros(3, 16, 24)
    first[0] = 1
    little, much = first.clone(), first.clone()
    little[:, :8, :8] = torch.tensor([0.0, 1.0, 0.0])[:, None, None]
    much[:, :, :] = torch.tensor([0.0, 1.0, 0.0])[:, None, None]
    clip = torch.stack([first, little, much, *[much] * 7])
    state, keys = None, []
    with torch.no_grad():
        for t, frame in enumerate(clip):
            output, state = taught.step(frame[None], torch.tensor([t == 0]), state)
            keys += [t] if output.is_key.item() else []
    assert keys == [0, 2, 8]
    assert frames.shape[1] == 2


def test_nothing_but_the_schedule_gets_a_gradient():
    torch.manual_seed(0)
    flow = CorrelationFlow((3,), (8,), width=16, radius=1)
    module = FeatureFlow(
        Pixels(), flow, Learned(coarse_channels=flow.coarse_channels, interval=4, threshold=0.1)
    )
    loss_of(module, pairs(2, 0)[0]).backward()
    assert all(p.grad is None or not p.grad.any() for p in flow.parameters())
    assert all(p.grad is not None for p in module.parts()["schedule"].parameters())


def test_targets_that_are_their_own_key_frames_teach_nothing():
    module = method()
    clips, _ = pairs(2, 0)
    every = torch.ones(2, 2, dtype=torch.bool)
    targets = torch.ones(2, 1, dtype=torch.int64)
    sizes = torch.tensor([[16, 24]] * 2)
    output = module(clips, every, targets)
    loss = agreement_loss(module, Brightest(), clips, every, targets, output, sizes)
    loss.backward()
    assert loss == 0
    assert all(not p.grad.any() for p in module.schedule.parameters())


def test_its_weights_belong_to_the_method():
    module = method()
    assert set(module.parts()) == {"features", "flow", "schedule"}
    assert module.key_frames.network is module.schedule
    with key_frame_interval(module, 2):
        assert module.key_frames.network is module.schedule
    assert replace(module.key_frames, interval=3).network is module.schedule


@pytest.mark.parametrize(
    ("network", "size"),
    [
        (CorrelationFlow((4,), (16,), width=16, radius=1), (5, 7)),
        (FlowNet((4,), (16,), width=1 / 16), (1, 1)),
    ],
)
def test_flow_networks_say_how_many_coarse_channels_they_have(network, size):
    frames = torch.rand(2, 3, 40, 56)
    flow = network(frames, frames)
    assert flow.coarse.shape == (2, network.coarse_channels, *size)
    assert Agreement(network.coarse_channels)(flow.coarse).shape == (2,)


def test_a_flow_without_coarse_features_is_refused():
    channels = ZeroFlow((3,), (8,)).coarse_channels
    with pytest.raises(ValueError, match="key_frames=learned: this flow has no coarse features"):
        Learned(coarse_channels=channels, interval=3, threshold=0.1)
