"""What a method costs: FLOPs and times of its parts, r and s of Eq. 5-7, and s on a real stream.

Decoding and resizing are never counted; post-processing always is.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowfeat.interfaces import TaskHead, TemporalModule
from flowfeat.metering import FlopMeter, Meter, Stopwatch, metering, next_frame, synchronize
from flowfeat.streaming import Stream, steps_of

NON_KEY = ("shallow", "F", "W", "tail", "N_task", "post")
KEY = ("shallow", "N_feat", "tail", "N_task", "post")
CARRYING = ("F", "W")  # all that runs on other frames where results are carried, not features


def speedup_eq7(interval: int, ratio: float) -> float:
    """Return s = l / (1 + (l - 1) r) of Eq. 7 for l = ``interval`` and r = ``ratio``."""
    return interval / (1 + (interval - 1) * ratio)


@contextmanager
def key_frame_interval(temporal: TemporalModule, interval: int) -> Iterator[None]:
    """Run a method at another l inside the block.

    Raises:
        ValueError: A method without key frames.
    """
    before = temporal.key_frames
    if before is None:
        raise ValueError(f"{type(temporal).__name__} has no key frames, so no interval to set")
    temporal.key_frames = replace(before, interval=interval)  # type: ignore[type-var]
    try:
        yield
    finally:
        temporal.key_frames = before


@dataclass(frozen=True)
class PartCosts:
    """Cost of one call of each part, in seconds or in FLOPs; parts that never ran are absent."""

    costs: Mapping[str, float]
    non_key: tuple[str, ...] = NON_KEY  # the parts that run on other frames than key frames

    @property
    def ratio(self) -> float:
        """Cost ratio r of Eq. 5; N_task counts its tail, convolutions and post-processing.

        Raises:
            ValueError: A method that never ran a flow network.
        """
        self._require("N_feat", "F")
        return self._sum(self.non_key) / self._sum(KEY)

    @property
    def inverse_ratio_eq6(self) -> float:
        """Inverse cost ratio 1/r of Eq. 6: N_feat over F with its scale; infinite if F is free."""
        self._require("N_feat", "F")
        flow = self.costs["F"]
        return self.costs["N_feat"] / flow if flow else math.inf

    def speedup(self, interval: int) -> float:
        """Return s of Eq. 7 at l = ``interval`` with r of Eq. 5; 1 at l = 1, whatever r is."""
        return 1.0 if interval == 1 else speedup_eq7(interval, self.ratio)

    def with_flow(self, cost: float) -> "PartCosts":
        """Return the costs with another flow network in the place of F."""
        return replace(self, costs={**self.costs, "F": cost})

    def _sum(self, parts: tuple[str, ...]) -> float:
        return sum(self.costs.get(part, 0.0) for part in parts)

    def _require(self, *parts: str) -> None:
        missing = [part for part in parts if part not in self.costs]
        if missing:
            raise ValueError(f"r of Eq. 5 needs the cost of {' and '.join(missing)}")


def without_gradients() -> AbstractContextManager[Any]:
    """Return inference mode, or nothing where gradients are off already in a way of its own."""
    return torch.inference_mode() if torch.is_grad_enabled() else nullcontext()


def run_stream(temporal: TemporalModule, head: TaskHead, frames: Tensor, sizes: Tensor) -> None:
    """Stream a clip (B, T, 3, H, W) from its first frame to its last, and drop the results."""
    stream: Stream[None] = Stream(temporal, head)
    starts = torch.ones(len(frames), dtype=torch.bool)
    with without_gradients():
        for _, step, first in steps_of(frames, starts):
            stream.push(step, first, sizes, None)
            next_frame()
        stream.finish()


def part_flops(
    temporal: TemporalModule, head: TaskHead, frames: Tensor, sizes: Tensor
) -> PartCosts:
    """Count the operations (2 per multiply-add) of each part on the first frames of a clip."""
    meter = FlopMeter()
    _run_metered(meter, temporal, head, _opening(temporal, frames), sizes)
    costs = {name: float(max(calls)) for name, calls in meter.flops.items()}
    return PartCosts(costs, _non_key(temporal))


def part_seconds(
    temporal: TemporalModule,
    head: TaskHead,
    frames: Tensor,
    sizes: Tensor,
    seconds: float = 2.0,
    passes: int = 8,
) -> PartCosts:
    """Time each part on the first frames of a clip, over and over; medians over the calls.

    Args:
        temporal: The method, at its own l.
        head: N_task.
        frames: (B, T, 3, H, W), T >= 2.
        sizes: (B, 2).
        seconds: Start no further pass that would end later; the first two always run.
        passes: At most so many.
    """
    clip = _opening(temporal, frames)
    run_stream(temporal, head, clip, sizes)  # warm-up
    watch = Stopwatch(frames.device)
    begin = time.perf_counter()
    for done in range(1, passes + 1):
        _run_metered(watch, temporal, head, clip, sizes)
        spent = time.perf_counter() - begin
        if done >= 2 and spent * (done + 1) / done > seconds:
            break
    costs = {name: statistics.median(calls) for name, calls in watch.seconds.items()}
    return PartCosts(costs, _non_key(temporal))


def _non_key(temporal: TemporalModule) -> tuple[str, ...]:
    return CARRYING if temporal.carries == "results" else NON_KEY


def _opening(temporal: TemporalModule, frames: Tensor) -> Tensor:
    """Return the first frames: a key frame, two others, and what a delay holds back."""
    return frames[:, : 3 + 2 * temporal.delay]


def _run_metered(
    meter: Meter, temporal: TemporalModule, head: TaskHead, frames: Tensor, sizes: Tensor
) -> None:
    with metering(meter):
        run_stream(temporal, head, frames, sizes)


@dataclass(frozen=True)
class StreamSpeed:
    """A method beside per-frame evaluation on the same frames, decoding and resizing excluded."""

    seconds_per_frame: float
    per_frame_seconds: float
    latencies: tuple[float, ...] = ()
    """Seconds from a frame's arrival until the method is done with it, of every frame timed."""

    def latency(self, share: float) -> float:
        """Return the seconds within which that share (0..1) of the frames was done."""
        return float(np.quantile(self.latencies, share))

    @property
    def fps(self) -> float:
        """Frames per second of the method."""
        return 1 / self.seconds_per_frame

    @property
    def speedup(self) -> float:
        """Measured s."""
        return self.per_frame_seconds / self.seconds_per_frame


def measure_stream(
    temporal: TemporalModule,
    head: TaskHead,
    frames: Tensor,
    sizes: Tensor,
    seconds: float = 4.0,
    turns: int = 5,
) -> StreamSpeed:
    """Time streams at the method's own l and at l = 1 beside each other; medians over the turns.

    Both streams take each frame in turn, so that a machine that changes its pace changes it for
    both, and each frame's result is waited for, as a live video would. The stream has a multiple of
    l frames (cut, or the clip over and over if it is shorter than l), since a broken last interval
    would count its key frame for too few others. Methods without key frames, and l = 1, are their
    own per-frame evaluation.

    Args:
        temporal: The method, at its own l.
        head: N_task.
        frames: (B, T, 3, H, W), ready for the network.
        sizes: (B, 2).
        seconds: Time to spend; chooses the length of the stream. One turn of l frames always runs.
        turns: At most so many.
    """
    interval = 1 if temporal.key_frames is None else temporal.key_frames.interval
    clip = _whole_intervals(temporal, head, frames, sizes, seconds / turns)
    own: list[float] = []
    per_frame: list[float] = []
    latencies: list[float] = []
    begin = time.perf_counter()
    for done in range(1, turns + 1):
        spent = _side_by_side(temporal, head, clip, sizes, (interval, 1)[: min(interval, 2)])
        own.append(sum(spent[0]))
        per_frame.append(sum(spent[-1]))
        latencies += spent[0][: clip.shape[1]]
        if (time.perf_counter() - begin) * (done + 1) / done > seconds:
            break
    count = clip.shape[1]
    return StreamSpeed(
        statistics.median(own) / count, statistics.median(per_frame) / count, tuple(latencies)
    )


def _side_by_side(
    temporal: TemporalModule,
    head: TaskHead,
    frames: Tensor,
    sizes: Tensor,
    intervals: tuple[int, ...],
) -> list[list[float]]:
    """Stream a clip once per interval, frame by frame in turn.

    Returns:
        For each interval the seconds of every frame, and behind them those of what was delayed.
    """
    streams: list[Stream[None]] = [Stream(temporal, head) for _ in intervals]
    spent: list[list[float]] = [[] for _ in intervals]
    starts = torch.ones(len(frames), dtype=torch.bool)
    with without_gradients():
        for _, step, first in steps_of(frames, starts):
            for index, (stream, interval) in enumerate(zip(streams, intervals, strict=True)):
                with _at(temporal, interval):
                    push = partial(stream.push, step, first, sizes, None)
                    spent[index].append(seconds_of(push, frames.device))
                next_frame()
        for index, stream in enumerate(streams):
            spent[index].append(seconds_of(stream.finish, frames.device))
    return spent


def _at(temporal: TemporalModule, interval: int) -> AbstractContextManager[None]:
    return nullcontext() if temporal.key_frames is None else key_frame_interval(temporal, interval)


def _whole_intervals(
    temporal: TemporalModule, head: TaskHead, frames: Tensor, sizes: Tensor, seconds: float
) -> Tensor:
    """Warm up, and return a clip of whole intervals whose turn takes about ``seconds``."""
    opening = _opening(temporal, frames)
    run_stream(temporal, head, opening, sizes)  # also F and W
    (spent,) = _side_by_side(temporal, head, opening, sizes, (1,))
    interval = 1 if temporal.key_frames is None else temporal.key_frames.interval
    affordable = int(seconds / (2 * sum(spent)) * opening.shape[1])
    count = min(frames.shape[1], affordable) // interval * interval
    count = max(count, interval, opening.shape[1] // interval * interval)
    if count > frames.shape[1]:
        frames = frames.repeat(1, -(-count // frames.shape[1]), 1, 1, 1)
    return frames[:, :count]


def seconds_of(function: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of a call, the device's queue included."""
    synchronize(device)
    begin = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - begin
