"""A change of the frames' size inside a stream: what was due comes first, then all begins anew."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flowfeat.interfaces import Features, TaskHead
from flowfeat.streaming import Result, Stream
from flowfeat.temporal.fgfa import FlowGuidedAggregation
from flowfeat.temporal.off_fusion import OffFusion
from flowfeat.temporal.off_layer import OffLayer
from flowfeat.temporal.off_motion import MotionMerge
from flowfeat.temporal.off_propagation import OffPropagation
from flowfeat.temporal.off_restoration import OffRestoration
from tests.temporal.test_joint_batches import METHODS as PLAIN
from tests.temporal.test_joint_batches import Fixed, networks

MOTION = partial(MotionMerge, width=4, blocks=1, ratio=2)
LAYER = partial(OffLayer, reduce_to=5)


def moving(module: Any) -> Any:
    """Let the motion count, which a fresh module leaves out."""
    nn.init.normal_(module.off_network.join.weight, std=0.3)
    return module.eval()


METHODS = PLAIN | {
    "fgfa_one_late": lambda: FlowGuidedAggregation(*networks(), before=1, after=1).eval(),
    "off": lambda: moving(OffFusion(networks()[0], LAYER, MOTION)),
    "off_late": lambda: moving(OffFusion(networks()[0], LAYER, MOTION, before=1, after=2)),
    "dff_off": lambda: moving(OffPropagation(*networks(), Fixed(3), LAYER, MOTION)),
    "off_restoration": lambda: OffRestoration(networks()[0], LAYER).eval(),
}


class Maps(TaskHead):
    """Gives every row's features, with the frame that they are said to belong to."""

    def forward(self, features: Features, frames: Tensor) -> tuple[Tensor, Tensor]:
        return features[-1], frames

    def postprocess(self, raw: tuple[Tensor, Tensor], sizes: Tensor) -> list[Any]:
        return list(zip(*raw, sizes.tolist(), strict=True))

    def loss(self, raw: Any, labels: Any) -> dict[str, Tensor]:
        raise NotImplementedError


class Boxes(Maps):
    """Gives what `move` can move."""

    def postprocess(self, raw: tuple[Tensor, Tensor], sizes: Tensor) -> list[Any]:
        return [maps.argmax(0) for maps in raw[0]]


def push(stream: Stream[int], clip: Tensor, tag: int, first: bool) -> list[Result[int]]:
    """Push a clip (T, B, 3, H, W), whose first frame may start the videos."""
    results, sizes = [], torch.tensor([clip.shape[-2:]]).expand(clip.shape[1], -1)
    for t, frames in enumerate(clip):
        starts = torch.full((clip.shape[1],), first and t == 0)
        results += stream.push(frames, starts, sizes, tag + t)
    return results


@pytest.mark.parametrize("lengths", [(3, 4), (1, 5), (5, 1)])
@pytest.mark.parametrize("name", METHODS)
def test_a_stream_whose_size_changes_is_two_streams(name, lengths):
    module, head = METHODS[name](), Boxes() if name == "move" else Maps()
    generator = torch.Generator().manual_seed(1)
    large = torch.rand(lengths[0], 2, 3, 24, 24, generator=generator)
    small = torch.rand(lengths[1], 2, 3, 16, 24, generator=generator)
    together: Stream[int] = Stream(module, head)
    before = push(together, large, 0, first=True)
    found = before + push(together, small, lengths[0], first=False) + together.finish()
    expected = []
    for clip, tag in ((large, 0), (small, lengths[0])):
        alone: Stream[int] = Stream(module, head)
        expected += push(alone, clip, tag, first=True) + alone.finish()
    assert [result.tag for result in found] == list(range(sum(lengths)))
    for ours, truth in zip(found, expected, strict=True):
        assert ours.tag == truth.tag
        assert torch.equal(ours.is_key, truth.is_key)
        assert torch.equal(ours.valid, truth.valid)
        torch.testing.assert_close(ours.predictions, truth.predictions, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["fgfa", "fgfa_one_late", "off_late", "off_restoration"])
def test_a_step_does_not_drop_what_is_due(name):
    module = METHODS[name]()
    _, state = module.step(torch.rand(2, 3, 24, 24), torch.tensor([True, True]), None)
    with pytest.raises(ValueError, match=r"\(2, 3, 16, 24\) after \(2, 3, 24, 24\).* flush before"):
        module.step(torch.rand(2, 3, 16, 24), torch.tensor([False, False]), state)
