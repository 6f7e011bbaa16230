"""Staggered key frames: even load, whenever streams start, and each stream's results as alone."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from flowfeat.flow.zero import ZeroFlow
from flowfeat.interfaces import FeatureNetwork, Features
from flowfeat.key_frames.schedules import Every, Fixed
from flowfeat.temporal.clockwork import Clockwork
from flowfeat.temporal.feature_flow import FeatureFlow
from flowfeat.temporal.hold import Hold


class Pixels(FeatureNetwork):
    """The mean of every 8 x 8 pixels; notes the frames of every call."""

    def __init__(self) -> None:
        super().__init__()
        self.channels, self.strides = (3,), (8,)
        self.calls: list[int] = []

    def trunk(self, frames: Tensor) -> Features:
        self.calls.append(len(frames))
        return (F.avg_pool2d(frames, 8),)


def method(schedule: Fixed) -> FeatureFlow:
    return FeatureFlow(Pixels(), ZeroFlow((3,), (8,)), schedule)


@torch.no_grad()
def stream(module, clips: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Stream clips (B, T, ...) and return is_key (B, T) and the first level (B, T, ...)."""
    state, keys, levels = None, [], []
    for t in range(clips.shape[1]):
        output, state = module.step(clips[:, t], starts[:, t], state)
        keys.append(output.is_key)
        levels.append(output.features[0])
    return torch.stack(keys, 1), torch.stack(levels, 1)


def begun(count: int, length: int, *others: tuple[int, int]) -> Tensor:
    """Say (B, T) where streams start: all at 0, and some (stream, step) again."""
    starts = torch.zeros(count, length, dtype=torch.bool)
    starts[:, 0] = True
    for row, step in others:
        starts[row, step] = True
    return starts


@pytest.mark.parametrize(("count", "interval"), [(8, 4), (4, 8), (3, 10), (10, 3), (5, 5), (2, 1)])
def test_the_load_is_even_in_one_call_per_tick(count: int, interval: int) -> None:
    module = method(Fixed(interval, stagger=True))
    length = 3 * interval + 1
    is_key, _ = stream(module, torch.rand(count, length, 3, 8, 8), begun(count, length))
    load = is_key.sum(0)[1:]  # at tick 0 all of them start
    assert load.max() <= math.ceil(count / interval)
    assert load.sum() == 3 * count
    assert module.features.calls == [n for n in is_key.sum(0).tolist() if n]
    for row in is_key.tolist():
        first, *rest = [t for t, key in enumerate(row) if key]
        assert first == 0
        assert rest == list(range(rest[0], length, interval))
        assert 1 <= rest[0] <= interval


def test_streams_that_start_later_find_their_ticks_again() -> None:
    starts = begun(4, 60, (0, 7), (2, 7), (2, 8), (3, 31))
    is_key, _ = stream(method(Fixed(8, stagger=True)), torch.rand(4, 60, 3, 8, 8), starts)
    assert is_key[starts].all()
    for row in range(4):
        own = (row + 1) * 8 // 4
        expected = [t for t in range(60) if starts[row, t] or (t >= own and (t - own) % 8 == 0)]
        assert is_key[row].nonzero().flatten().tolist() == expected


@pytest.mark.parametrize(
    "build", [method, lambda s: Hold(Pixels(), s), lambda s: Clockwork(Pixels(), s)]
)
def test_results_are_those_of_each_stream_alone_with_its_key_frames(build) -> None:
    clips = torch.rand(3, 17, 3, 16, 24)
    starts = begun(3, 17, (1, 6))
    module = build(Fixed(5, stagger=True))
    is_key, levels = stream(module, clips, starts)
    targets = torch.arange(17)[None]
    for row in range(3):
        with torch.no_grad():
            alone = module(clips[row : row + 1], is_key[row : row + 1], targets)
        assert torch.equal(alone.features[0], levels[row])
        assert torch.equal(alone.is_key, is_key[row])


@pytest.mark.parametrize("schedule", [Fixed(4, stagger=True), Fixed(4), Every(stagger=True)])
def test_one_stream_is_not_changed(schedule: Fixed) -> None:
    starts = begun(1, 20, (0, 7))
    is_key, _ = stream(method(schedule), torch.rand(1, 20, 3, 8, 8), starts)
    expected = [t for t in range(20) if (t if t < 7 else t - 7) % schedule.interval == 0]
    assert is_key[0].nonzero().flatten().tolist() == expected


def test_without_it_streams_keep_their_own_beat() -> None:
    starts = begun(3, 12, (1, 5))
    is_key, _ = stream(method(Fixed(4)), torch.rand(3, 12, 3, 8, 8), starts)
    assert is_key[1].nonzero().flatten().tolist() == [0, 4, 5, 9]
    assert is_key[0].nonzero().flatten().tolist() == [0, 4, 8]
