"""Time a method on a stream, at several l and beside the per-frame network, in rounds.

A busy machine changes its pace from second to second. So all that is compared takes each frame in
turn, a speedup is the median of the rounds' ratios, and how far these lie apart stands beside it.
"""

import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from flowfeat.doubt import doubt
from flowfeat.interfaces import TaskHead, TemporalModule
from flowfeat.metering import Stopwatch, metering, next_frame
from flowfeat.speed import key_frame_interval, opening, seconds_of, without_gradients
from flowfeat.streaming import Stream, steps_of
from flowfeat.temporal.per_frame import PerFrame

FRAMES = 8
"""Of a round, at least: rounds are to be many and short."""


@dataclass(frozen=True)
class StreamSpeed:
    """A method beside the per-frame network on the same frames, decoding and resizing excluded."""

    seconds: tuple[float, ...]
    """Per frame of the method, one entry per round."""
    per_frame_seconds: tuple[float, ...]
    """Per frame of the per-frame network, in the same rounds."""
    interval: int | None = None
    """l; None for methods without key frames, which are compared with nothing."""
    latencies: tuple[float, ...] = ()
    """Seconds from a frame's arrival until the method is done with it, of every frame timed."""
    costs: Mapping[str, float] = field(default_factory=dict)
    """Median seconds of one call of each part that ran."""
    runs: Mapping[str, float] = field(default_factory=dict)
    """Share of the frames (0..1) on which each part ran."""

    def latency(self, share: float) -> float:
        """Return the seconds within which that share (0..1) of the frames was done."""
        return float(np.quantile(self.latencies, share))

    @property
    def fps(self) -> float:
        """Frames per second of the method."""
        return 1 / statistics.median(self.seconds)

    @property
    def speedup(self) -> float:
        """Measured s: the median of the rounds' ratios."""
        return statistics.median(self._ratios)

    @property
    def spread(self) -> float:
        """How far the middle half of the rounds lies apart, over their median; 0 for one round.

        Of the ratios, or of the seconds where there is nothing to compare with.
        """
        values = self.seconds if self.interval is None else self._ratios
        low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
        return float((high - low) / middle)

    @property
    def doubt(self) -> str:
        """What speaks against the figures, see ``doubt``."""
        return doubt(self.interval, self.speedup, self.spread)

    @property
    def _ratios(self) -> list[float]:
        pairs = zip(self.per_frame_seconds, self.seconds, strict=True)
        return [per_frame / own for per_frame, own in pairs]


class Speeds(NamedTuple):
    """What was measured in the same rounds."""

    at: Mapping[int | None, StreamSpeed]  # by l; the one key is None without key frames
    costs: Mapping[str, float]  # median seconds of one call of each part, over all l


class _Lane(NamedTuple):
    """One of those that take each frame in turn: the method at one l, or the per-frame network."""

    temporal: TemporalModule
    interval: int | None  # None: as it is
    frames: int  # of a round: whole intervals
    watch: Stopwatch  # of its parts

    def at_work(self) -> AbstractContextManager[None]:
        if self.interval is None:
            return nullcontext()
        return key_frame_interval(self.temporal, self.interval)


def measure_stream(
    temporal: TemporalModule,
    head: TaskHead,
    frames: Tensor,
    sizes: Tensor,
    seconds: float = 4.0,
    rounds: int = 9,
) -> StreamSpeed:
    """Time a method at its own l beside the per-frame network; see ``measure_streams``."""
    own = None if temporal.key_frames is None else temporal.key_frames.interval
    intervals = () if own is None else (own,)
    return measure_streams(temporal, head, frames, sizes, intervals, seconds, rounds).at[own]


def measure_streams(
    temporal: TemporalModule,
    head: TaskHead,
    frames: Tensor,
    sizes: Tensor,
    intervals: Sequence[int],
    seconds: float = 4.0,
    rounds: int = 9,
    least: int = 1,
) -> Speeds:
    """Time a method at several l and the per-frame network beside each other, in rounds.

    In a round all of them take each frame in turn, so that a machine that changes its pace changes
    it for all, and each frame's result is waited for, as a live video would. Every l sees whole
    intervals (of a clip that is repeated if it is too short), since a broken last one would count
    its key frame for too few others, and is compared with the per-frame network on these frames.

    Args:
        temporal: The method.
        head: N_task.
        frames: (B, T, 3, H, W), ready for the network.
        sizes: (B, 2).
        intervals: The l to measure; unused by methods without key frames.
        seconds: Start no further round that would end later.
        rounds: At most so many.
        least: At least so many, however long they take.
    """
    own: list[int | None] = [None] if temporal.key_frames is None else [*intervals]
    clip = _clip_of_a_round(temporal, frames, [interval or 1 for interval in own])
    lanes = [_lane(temporal, interval, clip) for interval in own]
    if temporal.key_frames is not None:
        per_frame = PerFrame(temporal.parts()["features"]).eval()  # type: ignore[arg-type]
        lanes.insert(0, _lane(per_frame, None, clip))
    run = partial(_run, lanes, head, clip, sizes)
    _run(lanes, head, opening(temporal, frames), sizes, timing_parts=False)  # warm-up
    # An accelerator would have to wait at every part's end, which a measured s must not contain.
    at_once = frames.device.type == "cpu"
    spent: list[list[list[float]]] = []
    begin = time.perf_counter()
    while len(spent) < rounds:
        spent.append(run(timing_parts=at_once))
        done, taken = len(spent), time.perf_counter() - begin
        if done >= least and taken * (done + 1) / done > seconds:
            break
    if not at_once:
        run(timing_parts=True)
    first, rounds_of_parts = len(lanes) - len(own), len(spent) if at_once else 1
    at = {
        interval: _speed(lanes, spent, first + number, rounds_of_parts)
        for number, interval in enumerate(own)
    }
    return Speeds(at, _medians(lanes[first:]))


def _lane(temporal: TemporalModule, interval: int | None, clip: Tensor) -> _Lane:
    whole = clip.shape[1] // (interval or 1) * (interval or 1)
    return _Lane(temporal, interval, whole, Stopwatch(clip.device))


def _clip_of_a_round(temporal: TemporalModule, frames: Tensor, intervals: Sequence[int]) -> Tensor:
    """Return a short clip that holds every interval, or all frames where few would mislead.

    At the ends of a video a method with a delay has less to do, and an adaptive schedule has seen
    little of the content.
    """
    longest, least = max(intervals), max(FRAMES, opening(temporal, frames).shape[1])
    if temporal.delay or (temporal.key_frames is not None and temporal.key_frames.needs_flow):
        least = frames.shape[1]
    count = -(-least // longest) * longest
    if count > frames.shape[1]:
        frames = frames.repeat(1, -(-count // frames.shape[1]), 1, 1, 1)
    return frames[:, :count]


def _run(
    lanes: Sequence[_Lane], head: TaskHead, clip: Tensor, sizes: Tensor, timing_parts: bool
) -> list[list[float]]:
    """Stream a clip once per lane, frame by frame in turn.

    Returns:
        For each lane the seconds of every frame, and behind them those of what was delayed.
    """
    streams: list[Stream[None]] = [Stream(lane.temporal, head) for lane in lanes]
    spent: list[list[float]] = [[] for _ in lanes]
    starts = torch.ones(len(clip), dtype=torch.bool)
    with without_gradients():
        for t, step, first in steps_of(clip, starts):
            for lane, stream, taken in zip(lanes, streams, spent, strict=True):
                if t < lane.frames:
                    with lane.at_work(), metering(lane.watch) if timing_parts else nullcontext():
                        push = partial(stream.push, step, first, sizes, None)
                        taken.append(seconds_of(push, clip.device))
                        next_frame()
        for stream, taken in zip(streams, spent, strict=True):
            taken.append(seconds_of(stream.finish, clip.device))
    return spent


def _speed(
    lanes: Sequence[_Lane], spent: Sequence[list[list[float]]], number: int, rounds_of_parts: int
) -> StreamSpeed:
    """Compare a lane with the first one, over the frames that it had."""
    lane, count = lanes[number], lanes[number].frames
    own = [taken[number] for taken in spent]
    # The first lane has more frames where others end with a whole interval before it.
    theirs = [[*taken[0][:count], taken[0][-1]] for taken in spent]
    return StreamSpeed(
        tuple(sum(taken) / count for taken in own),
        tuple(sum(taken) / count for taken in theirs),
        lane.interval,
        tuple(seconds for taken in own for seconds in taken[:count]),
        _medians([lane]),
        {part: len(t) / (rounds_of_parts * count) for part, t in lane.watch.seconds.items()},
    )


def _medians(lanes: Iterable[_Lane]) -> dict[str, float]:
    """Return the median seconds of a call of each part, over all lanes together."""
    calls: dict[str, list[float]] = {}
    for lane in lanes:
        for name, taken in lane.watch.seconds.items():
            calls.setdefault(name, []).extend(taken)
    return {name: statistics.median(taken) for name, taken in calls.items()}
