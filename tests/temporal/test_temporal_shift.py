"""Temporal shift against its published formula, in clips and in streams."""

import copy

import pytest
import torch
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

from flowfeat.features.timm_features import TimmFeatures
from flowfeat.interfaces import FeatureNetwork
from flowfeat.metering import count_flops
from flowfeat.temporal.per_frame import PerFrame
from flowfeat.temporal.temporal_shift import TemporalShift

LENGTH = 4
ALL = torch.ones(2, LENGTH, dtype=torch.bool)
EVERY = torch.arange(LENGTH).expand(2, -1)


class ReferenceShift(nn.Module):
    """The formula of the paper's authors, on whole clips of LENGTH frames."""

    def __init__(self, fold: int, both: bool) -> None:
        super().__init__()
        self.fold, self.both = fold, both

    def forward(self, maps: Tensor) -> Tensor:
        x = maps.view(-1, LENGTH, *maps.shape[1:])
        out, fold = x.clone(), self.fold
        out[:, 0, :fold] = 0
        out[:, 1:, :fold] = x[:, :-1, :fold]
        if self.both:
            out[:, -1, fold : 2 * fold] = 0
            out[:, :-1, fold : 2 * fold] = x[:, 1:, fold : 2 * fold]
        return out.view_as(maps)


def network(model: str = "test_resnet") -> TimmFeatures:
    torch.manual_seed(0)
    features = TimmFeatures(model, levels=(-2, -1), reduce_to=None)
    for module in features.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # timm starts the last of a branch at zero
    return features.eval()


def clip() -> Tensor:
    return torch.rand(2, LENGTH, 3, 32, 48, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("both", [False, True])
def test_clips_follow_the_published_formula(both: bool) -> None:
    features = network()
    reference = copy.deepcopy(features)
    for block in [m for m in reference.modules() if isinstance(m, BasicBlock | Bottleneck)]:
        fold = block.conv1.in_channels // 8
        block.conv1 = nn.Sequential(ReferenceShift(fold, both), block.conv1)  # type: ignore[assignment]
    expected = reference(clip().flatten(0, 1))
    found = TemporalShift(features, bidirectional=both)(clip(), ALL, EVERY)
    plain = PerFrame(network())(clip(), ALL, EVERY)
    for ours, theirs, unshifted in zip(found.features, expected, plain.features, strict=True):
        torch.testing.assert_close(ours, theirs)
        assert not torch.allclose(ours, unshifted)


@torch.no_grad()
def test_forward_is_unrolled_steps_and_starts_forget() -> None:
    shift, state = TemporalShift(network()), None
    starts = torch.zeros(2, LENGTH, dtype=torch.bool)
    starts[1, 2] = True
    outputs = []
    for t in range(LENGTH):
        output, state = shift.step(clip()[:, t], starts[:, t], state)
        outputs.append(output)
    first = shift(clip()[:1], ALL[:1], EVERY[:1])
    halves = [shift(part, ALL[:1, :2], EVERY[:1, :2]) for part in torch.split(clip()[1:], 2, dim=1)]
    for level in range(2):
        streamed = torch.stack([output.features[level] for output in outputs], dim=1)
        torch.testing.assert_close(first.features[level], streamed[0])
        second = torch.cat([half.features[level] for half in halves])
        torch.testing.assert_close(second, streamed[1])


@torch.no_grad()
def test_targets_are_chosen_and_later_frames_change_nothing() -> None:
    shift = TemporalShift(network())
    targets = torch.tensor([[2, 0], [1, 2]])
    some, every = shift(clip(), ALL, targets), shift(clip(), ALL, EVERY)
    torch.testing.assert_close(some.features[1], every.features[1][[2, 0, 5, 6]])
    assert torch.equal(some.frames, clip().flatten(0, 1)[[2, 0, 5, 6]])


@torch.no_grad()
def test_a_clip_of_one_frame_and_another_resolution() -> None:
    for both in (False, True):
        shift = TemporalShift(network(), bidirectional=both)
        assert shift(clip()[:, :1], ALL[:, :1], EVERY[:, :1]).features[1].isfinite().all()
    shift = TemporalShift(network())
    _, state = shift.step(clip()[:, 0], torch.tensor([True, True]), None)
    small = clip()[:, 1, :, :16, :16]
    after, _ = shift.step(small, torch.tensor([False, False]), state)
    fresh, _ = shift.step(small, torch.tensor([True, True]), None)
    torch.testing.assert_close(after.features[1], fresh.features[1])


def test_it_costs_nothing_and_keeps_the_names_of_the_weights() -> None:
    shift, plain = TemporalShift(network()), PerFrame(network())
    assert list(shift.state_dict()) == list(plain.state_dict())
    costs = [count_flops(lambda m=m: m(clip(), ALL, EVERY)) for m in (shift, plain)]  # type: ignore[misc]
    assert costs[0] == costs[1] > 0


def test_gradients_flow_through_time() -> None:
    shift = TemporalShift(network())
    frames = clip().requires_grad_()
    total = shift(frames, ALL, EVERY[:, 3:]).features[1].sum()
    (slope,) = torch.autograd.grad(total, frames)
    assert slope[:, 2].abs().sum() > 0


def test_looking_ahead_does_not_stream() -> None:
    shift = TemporalShift(network(), bidirectional=True)
    with pytest.raises(ValueError, match="bidirectional=true: needs the next frame") as refusal:
        shift.step(clip()[:, 0], torch.tensor([True, True]), None)
    assert "\n" not in str(refusal.value)


def test_other_backbones_are_refused(features: FeatureNetwork) -> None:
    with pytest.raises(ValueError, match="residual blocks of a timm ResNet, found none"):
        TemporalShift(features)
    with pytest.raises(ValueError, match=r"temporal.share=1: expected 2"):
        TemporalShift(network(), share=1, bidirectional=True)
