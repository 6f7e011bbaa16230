"""Eight streams in one batch, with key frames at different times, give what eight runs give."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowfeat.interfaces import FeatureNetwork, Features, Flow, FlowNetwork, TaskHead
from flowfeat.key_frames.adaptive import FlowMagnitude, Photometric
from flowfeat.key_frames.learned import Learned
from flowfeat.key_frames.schedules import Fixed
from flowfeat.streaming import Stream
from flowfeat.temporal.clockwork import Clockwork
from flowfeat.temporal.feature_flow import FeatureFlow
from flowfeat.temporal.fgfa import FlowGuidedAggregation
from flowfeat.temporal.hold import Hold
from flowfeat.temporal.move import Move
from flowfeat.temporal.per_frame import PerFrame

STREAMS, LENGTH, SIZE = 8, 11, (16, 24)
STARTS = torch.zeros(STREAMS, LENGTH, dtype=torch.bool)
STARTS[:, 0] = True
for row in range(1, STREAMS):
    STARTS[row, row] = True  # stream r begins another video at step r


class Convolutions(FeatureNetwork):
    """Two convolutions, the second a tail; the first, alone, is shallow."""

    def __init__(self) -> None:
        super().__init__()
        self.channels, self.strides = (6,), (4,)
        self.first = nn.Conv2d(3, 4, 4, stride=4)
        self.second = nn.Conv2d(4, 6, 3, padding=1)

    @property
    def trunk_channels(self) -> tuple[int, ...]:
        return (4,)

    def trunk(self, frames: Tensor) -> Features:
        return self.deepen(self.shallow(frames, 1), frames, 1)

    def shallow(self, frames: Tensor, stages: int) -> Tensor:
        return frames

    def deepen(self, maps: Tensor, frames: Tensor, stages: int) -> Features:
        return (self.first(maps),)

    def tail(self, features: Features) -> Features:
        return (self.second(features[0]),)


class PairFlow(FlowNetwork):
    """A flow, a scale and coarse features that differ for every pair of frames."""

    coarse_channels = 5

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(6, 2 + 4 + 5, 4, stride=4)

    def pyramid(self, current: Tensor, key: Tensor) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def forward(self, current: Tensor, key: Tensor) -> Flow:
        move, scale, coarse = self.convolution(torch.cat((current, key), 1)).split((2, 4, 5), 1)
        return Flow(3 * move, 1 + scale, 9 * coarse)


class Scores(TaskHead):
    """The scores of the label maps, so that they can be compared closely, and the maps."""

    def forward(self, features: Features, frames: Tensor) -> Tensor:
        return features[0]

    def postprocess(self, raw: Tensor, sizes: Tensor) -> list[Tensor]:
        full = F.interpolate(raw, SIZE, mode="nearest").argmax(1).byte()
        return list(full)

    def loss(self, raw: Any, labels: Any) -> dict[str, Tensor]:
        raise NotImplementedError


def networks() -> tuple[Convolutions, PairFlow]:
    torch.manual_seed(0)
    return Convolutions().eval(), PairFlow().eval()


def adaptive(kind: type, **settings: Any) -> Callable[[], FeatureFlow]:
    return lambda: FeatureFlow(*networks(), kind(interval=5, times_age=False, **settings))


def learned() -> FeatureFlow:
    """Take the middle of what it expects of unrelated frames for its threshold."""
    module = adaptive(Learned, coarse_channels=5, threshold=0.5)()
    with torch.no_grad():
        pictures = torch.rand(32, 3, *SIZE, generator=torch.Generator().manual_seed(2))
        expected = 1 - module.expected_agreement(*pictures.chunk(2)).sigmoid()
    module.key_frames = replace(module.key_frames, threshold=expected.median().item())
    return module


METHODS: dict[str, Callable[[], Any]] = {
    "per_frame": lambda: PerFrame(networks()[0]),
    "feature_flow": lambda: FeatureFlow(*networks(), Fixed(3)),
    "copying": lambda: FeatureFlow(*networks(), Fixed(3)).controls()["copy"],
    "photometric": adaptive(Photometric, stride=4, threshold=1.1),
    "flow_magnitude": adaptive(FlowMagnitude, stride=4, threshold=8.0),
    "learned": learned,
    "hold": lambda: Hold(networks()[0], Fixed(3)),
    "move": lambda: Move(*networks(), Fixed(3)),
    "clockwork": lambda: Clockwork(networks()[0], Fixed(3)),
    "clockwork_adaptive": lambda: Clockwork(networks()[0], Fixed(5), 0.66),
    "clockwork_pipelined": lambda: Clockwork(networks()[0], Fixed(5), 0.66, pipelined=True),
    "fgfa": lambda: FlowGuidedAggregation(*networks(), before=2, after=2).eval(),
    "fgfa_causal": lambda: FlowGuidedAggregation(*networks(), before=3, after=0).eval(),
}


def run(module: Any, clips: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Return the label maps (B, T, H, W) and key frames (B, T) of a pass."""
    passing: Stream[int] = Stream(module, Scores())
    sizes = torch.tensor([SIZE]).expand(len(clips), -1)
    results = []
    for t in range(clips.shape[1]):
        results += passing.push(clips[:, t], starts[:, t], sizes, t)
    results += passing.finish()
    assert [result.tag for result in results] == list(range(clips.shape[1]))
    maps = torch.stack([torch.stack(result.predictions) for result in results], 1)
    return maps, torch.stack([result.is_key for result in results], 1)


@pytest.mark.parametrize("name", METHODS)
def test_eight_streams_equal_eight_runs(name):
    module = METHODS[name]()
    generator = torch.Generator().manual_seed(1)
    clips = torch.rand(STREAMS, LENGTH, 3, *SIZE, generator=generator)
    maps, is_key = run(module, clips, STARTS)
    for row in range(STREAMS):
        videos = [*STARTS[row].nonzero().flatten().tolist(), LENGTH]
        alone = [
            run(module, clips[row, a:b][None], STARTS[row, a:b][None]) for a, b in pairwise(videos)
        ]
        assert torch.equal(is_key[row], torch.cat([keys[0] for _, keys in alone])), row
        found = torch.cat([labels[0] for labels, _ in alone])
        assert (maps[row] == found).float().mean() > 0.999, row  # batches may round otherwise
    if module.key_frames is not None:
        staggered = {tuple(row) for row in is_key.tolist()}
        assert len(staggered) > 2
        assert 0.1 < is_key.float().mean() < 0.9
