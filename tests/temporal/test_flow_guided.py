"""OFF as a temporal module: pairs, validity, streams, and what is left out of the work."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from flowfeat.draws import seeded
from flowfeat.interfaces import FeatureNetwork, Output
from flowfeat.temporal.flow_guided import FlowGuided
from flowfeat.temporal.off_layer import OffLayer
from flowfeat.temporal.off_network import Refinement

LENGTH, SIZE = 5, (24, 40)
SMALL = partial(Refinement, widths=(2, 3), blocks=(1, 1), kernels=(3, 3), last_kernels=(1, 1))
ALL = torch.ones(2, LENGTH, dtype=torch.bool)


def method(features: FeatureNetwork, **layer: Any) -> FlowGuided:
    torch.manual_seed(3)
    return FlowGuided(features, partial(OffLayer, reduce_to=4, **layer), SMALL).eval()


def clip() -> Tensor:
    return torch.rand(2, LENGTH, 3, *SIZE, generator=torch.Generator().manual_seed(2))


def steps(*wanted: int) -> Tensor:
    return torch.tensor([wanted] * 2)


def unrolled(off: FlowGuided, clip: Tensor, starts: tuple[int, ...] = (0,)) -> list[Output]:
    outputs, state = [], None
    for t in range(clip.shape[1]):
        begins = torch.full((len(clip),), t in starts)
        output, state = off.step(clip[:, t], begins, state)
        assert output is not None
        outputs.append(output)
    return outputs


@torch.no_grad()
@pytest.mark.parametrize(
    "layer",
    [
        {},
        {"spatial": False},
        {"temporal": False},
        {"spatial": False, "temporal": False, "maps": True},
        {"kernels": "cross", "own_spatial": 3, "relu": True, "bias": 0.2},
    ],
)
def test_forward_is_unrolled_steps(features: FeatureNetwork, layer: dict[str, Any]) -> None:
    off = method(features, **layer)
    targets = torch.tensor([[0, 2, 4], [3, 1, 2]])
    whole = off(clip(), ALL, targets)
    streamed = unrolled(off, clip())
    for row, t in enumerate(targets.flatten().tolist()):
        b = row // 3
        assert torch.equal(whole.valid[row], streamed[t].valid[b])
        assert torch.equal(whole.frames[row], clip()[b, t])
        for ours, theirs in zip(whole.features, streamed[t].features, strict=True):
            torch.testing.assert_close(ours[row], theirs[b])


@torch.no_grad()
def test_levels_are_the_feature_networks_last_then_off_fine_to_coarse(
    features: FeatureNetwork,
) -> None:
    off = method(features)
    output = off(clip(), ALL, steps(1))
    assert off.channels == (4, 8, 12)
    assert off.strides == (8, 8, 8)
    assert torch.allclose(output.features[0], features(clip()[:, 1])[-1], atol=1e-6)
    shapes = [tuple(level.shape) for level in output.features]
    assert shapes == [(2, c, -(-SIZE[0] // 8), -(-SIZE[1] // 8)) for c in off.channels]


@torch.no_grad()
def test_the_pair_belongs_to_its_second_frame(features: FeatureNetwork) -> None:
    off = method(features)
    frames = clip()
    expected = off.off_network(
        off.off_network.reduce(features(frames[:, 1])),
        off.off_network.reduce(features(frames[:, 2])),
    )
    for ours, theirs in zip(off(frames, ALL, steps(2)).features[1:], expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@torch.no_grad()
def test_a_first_frame_has_no_pair_and_later_ones_have(features: FeatureNetwork) -> None:
    output = method(features)(clip(), ALL, steps(0, 1))
    assert output.valid.tolist() == [[True, False, False], [True, True, True]] * 2
    assert all(level.isfinite().all() for level in output.features)
    assert output.is_key.all()


@torch.no_grad()
def test_a_hypercolumn_needs_no_pair(features: FeatureNetwork) -> None:
    output = method(features, spatial=False, temporal=False, maps=True)(clip(), ALL, steps(0))
    assert output.valid.all()


@torch.no_grad()
def test_streams_start_apart_and_do_not_mix(features: FeatureNetwork) -> None:
    off, frames = method(features), clip()
    _, state = off.step(frames[:, 0], torch.tensor([True, True]), None)
    both, _ = off.step(frames[:, 1], torch.tensor([True, False]), state)
    assert both.valid.tolist() == [[True, False, False], [True, True, True]]
    alone = unrolled(off, frames[1:, :2])[1]
    for ours, theirs in zip(both.features, alone.features, strict=True):
        torch.testing.assert_close(ours[1], theirs[0])


@torch.no_grad()
def test_another_resolution_starts_anew(features: FeatureNetwork) -> None:
    off, frames = method(features), clip()
    _, state = off.step(frames[:, 0], torch.tensor([True, True]), None)
    output, _ = off.step(frames[:, 1, :, :16, :16], torch.tensor([False, False]), state)
    assert not output.valid[:, 1:].any()


@torch.no_grad()
def test_the_feature_network_sees_only_what_the_targets_need(features: Any) -> None:
    method(features)(clip(), ALL, steps(0, 3, 4))
    assert features.frames_seen == 2 * 4  # 0, 2, 3 and 4
    features.frames_seen = 0
    method(features, spatial=False, temporal=False, maps=True)(clip(), ALL, steps(2))
    assert features.frames_seen == 2


def test_a_frozen_feature_network_runs_without_gradients(features: FeatureNetwork) -> None:
    off = method(features).train()
    assert off(clip(), ALL, steps(1)).features[0].requires_grad
    features.requires_grad_(False)
    output = off(clip(), ALL, steps(1))
    assert [level.requires_grad for level in output.features] == [False, True, True]
    sum(level.sum() for level in output.features[1:]).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None for p in off.off_network.parameters())


def test_a_clip_without_pairs_still_reaches_every_weight(features: FeatureNetwork) -> None:
    off = method(features).train()
    output = off(clip(), ALL, steps(0))
    sum(level.sum() for level in output.features).backward()  # type: ignore[union-attr]
    for parameter in off.off_network.parameters():
        assert parameter.grad is not None
        assert not parameter.grad.any()


@torch.no_grad()
def test_dropout_is_the_samples_own(features: FeatureNetwork) -> None:
    off, frames = method(features, spatial_dropout=0.5).train(), clip()
    with seeded(torch.tensor([7, 8])):
        both = off(frames, ALL, steps(0, 2, 3))
    with seeded(torch.tensor([8])):
        alone = off(frames[1:], ALL[1:], steps(0, 2, 3)[1:])
    with seeded(torch.tensor([9])):
        other = off(frames[1:], ALL[1:], steps(0, 2, 3)[1:])
    for one, whole, third in zip(alone.features, both.features, other.features, strict=True):
        torch.testing.assert_close(one, whole[3:])
        assert one is alone.features[0] or not torch.equal(one, third)
