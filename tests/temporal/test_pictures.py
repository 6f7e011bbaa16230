"""A clip that repeats pictures gives what a stream of its different pictures gives."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flowfeat.build import build_task
from flowfeat.cli import compose_config
from flowfeat.features.timm_features import TimmFeatures
from flowfeat.interfaces import TemporalModule
from flowfeat.key_frames.schedules import Fixed
from flowfeat.temporal.fgfa import FlowGuidedAggregation
from flowfeat.temporal.flow_guided import FlowGuided
from flowfeat.temporal.off_fusion import OffFusion
from flowfeat.temporal.off_layer import OffLayer
from flowfeat.temporal.off_motion import MotionMerge
from flowfeat.temporal.off_network import Refinement
from flowfeat.temporal.off_propagation import OffPropagation
from flowfeat.temporal.off_restoration import OffRestoration
from flowfeat.temporal.pictures import neighbours, number_pictures
from flowfeat.temporal.temporal_shift import TemporalShift

CLIPS = ([0, 0, 0], [0, 0, 1], [3, 4, 4], [0, 0, 0, 1, 2, 2])
"""A still or a video's first frame; clamped at the start; at the end; at both."""
LAYER = partial(OffLayer, reduce_to=5)


def one_level() -> TimmFeatures:
    torch.manual_seed(0)
    return TimmFeatures("test_resnet", reduce_to=8, norm="group").eval()


def merging(module: Any) -> Any:
    """Let a module's motion count, unlike a fresh one's."""
    nn.init.normal_(module.off_network.join.weight, std=0.3)
    return module


def made(method: str, features: Any, flow: Any) -> TemporalModule:
    torch.manual_seed(2)
    motion = partial(MotionMerge, width=4, blocks=1, ratio=2)
    if method == "off":
        small = partial(
            Refinement, widths=(2, 3), blocks=(1, 1), kernels=(3, 3), last_kernels=(1, 1)
        )
        return FlowGuided(features, LAYER, small)
    if method == "dff_off":
        return merging(OffPropagation(features, flow, Fixed(9), LAYER, motion))
    if method.startswith("off_fusion"):
        reach = {"off_fusion_1_0": (1, 0), "off_fusion_2_1": (2, 1)}[method]
        return merging(OffFusion(features, LAYER, motion, *reach))
    if method == "off_restoration":
        return OffRestoration(one_level(), LAYER)
    if method == "tsm":
        shifted = one_level()
        for module in shifted.modules():
            if isinstance(module, nn.GroupNorm):
                nn.init.ones_(module.weight)
        return TemporalShift(shifted)
    return FlowGuidedAggregation(features, flow, 2, 1)


METHODS = ("off", "off_fusion_1_0", "off_fusion_2_1", "off_restoration", "dff_off", "fgfa", "tsm")


@torch.no_grad()
@pytest.mark.parametrize("indices", CLIPS, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_a_repeated_picture_is_no_pair(method: str, indices: list[int], features, flow) -> None:
    module = made(method, features, flow).eval()
    different = sorted(set(indices))
    video = torch.rand(1, len(different), 3, 32, 48)
    clip = video[:, [different.index(i) for i in indices]]
    state, streamed = None, []
    for t in range(len(different)):
        output, state = module.step(video[:, t], torch.tensor([t == 0]), state)
        streamed += [] if output is None else [output]
    streamed += module.flush(state)
    numbers, targets = torch.tensor([indices]), torch.arange(len(indices))[None]
    output = module(clip, module.training_keys(numbers), targets, numbers)
    for row, index in enumerate(indices):
        expected = streamed[different.index(index)]
        assert torch.equal(output.valid[row], expected.valid[0])
        for ours, theirs in zip(output.features, expected.features, strict=True):
            torch.testing.assert_close(ours[row], theirs[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_still_with_motion_would_be_another_map(features, flow) -> None:
    """What is tested above matters: taken for a pair, two copies of a still change its map."""
    module = made("off_fusion_1_0", features, flow).eval()
    clip, still = torch.rand(1, 1, 3, 32, 48).expand(1, 2, -1, -1, -1), torch.zeros(1, 2).long()
    keys, target = module.training_keys(still), torch.tensor([[1]])
    alone = features(clip[:, 0])[-1]
    assert torch.allclose(module(clip, keys, target, still).features[-1], alone, atol=1e-6)
    assert not torch.allclose(module(clip, keys, target).features[-1], alone, atol=1e-2)


@torch.no_grad()
def test_looking_ahead_skips_repetitions() -> None:
    shift = TemporalShift(one_level(), bidirectional=True)
    video, every = torch.rand(1, 2, 3, 32, 48), torch.arange(4)[None]
    numbers = torch.tensor([[4, 4, 5, 5]])
    keys = shift.training_keys(numbers)
    found = shift(video[:, [0, 0, 1, 1]], keys, every, numbers).features[-1]
    expected = shift(video, keys[:, :2], every[:, :2]).features[-1]
    torch.testing.assert_close(found, expected[[0, 0, 1, 1]])


def test_neighbours_are_counted_in_pictures() -> None:
    clip = torch.zeros(2, 5, 1, 1, 1)
    pictures = number_pictures(torch.tensor([[0, 0, 0, 1, 2], [7, 6, 7, 7, 8]]), clip)
    assert pictures.tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 2, 3]]
    assert number_pictures(None, clip).tolist() == [[0, 1, 2, 3, 4]] * 2
    targets = torch.tensor([[2, 3, 4], [1, 3, 4]])

    def found(offset: int) -> tuple[list[list[int]], list[list[bool]]]:
        steps, there = neighbours(pictures, targets, offset)
        return steps.tolist(), there.tolist()

    assert found(-1) == ([[2, 2, 3], [0, 1, 3]], [[False, True, True], [True, True, True]])
    assert found(1) == ([[3, 4, 4], [2, 4, 4]], [[True, True, False], [True, True, False]])
    assert found(0)[1] == [[True] * 3] * 2


@pytest.mark.parametrize("word", ["vid", "cityscapes"])
def test_training_hands_the_frame_numbers_on(word: str) -> None:
    """On a still, of which a clip holds two copies, no weight of the OFF sub-network learns."""
    words = [f"task={word}", "method=off", "features.model=test_resnet"]
    task: Any = build_task(compose_config(words), ("a", "b"))
    merging(task.temporal)
    seen: list[Tensor] = []
    task.losses = lambda output, batch: {"sum": output.features[-1].square().sum()}
    for indices in ([[0, 0]], [[0, 1]]):
        task.zero_grad()
        batch = {
            "frames": torch.rand(1, 2, 3, 32, 48),
            "indices": torch.tensor(indices),
            "targets": torch.tensor([[1]]),
        }
        task.training_step(batch, 0).backward()
        grads = [p.grad.abs().sum() for p in task.temporal.off_network.parameters()]
        seen.append(torch.stack(grads).sum())
    assert seen[0] == 0
    assert seen[1] > 0
