"""What a method costs: FLOPs and times of its parts, r and s of Eq. 5-7, and s on a real stream."""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flowfeat.interfaces import TaskHead, TemporalModule
from flowfeat.metering import FlopMeter, Meter, Stopwatch, metering, synchronize
from flowfeat.streaming import Stream, steps_of

NON_KEY = ("F", "W", "tail", "N_task", "post")
KEY = ("N_feat", "tail", "N_task", "post")


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

    costs: dict[str, float]

    @property
    def ratio(self) -> float:
        """Cost ratio r of Eq. 5; N_task counts its tail, convolutions and post-processing."""
        return self._sum(NON_KEY) / self._sum(KEY)

    @property
    def inverse_ratio_eq6(self) -> float:
        """Inverse cost ratio 1/r of Eq. 6: N_feat over F with its scale output."""
        return self.costs["N_feat"] / self.costs["F"]

    def _sum(self, parts: tuple[str, ...]) -> float:
        return sum(self.costs.get(part, 0.0) for part in parts)


def run_stream(temporal: TemporalModule, head: TaskHead, frames: Tensor, sizes: Tensor) -> None:
    """Stream a clip (B, T, 3, H, W) from its first frame to its last, and drop the results."""
    stream: Stream[None] = Stream(temporal, head)
    starts = torch.ones(len(frames), dtype=torch.bool)
    with torch.inference_mode():
        for _, step, first in steps_of(frames, starts):
            stream.push(step, first, sizes, None)
        stream.finish()


def part_flops(
    temporal: TemporalModule, head: TaskHead, frames: Tensor, sizes: Tensor
) -> PartCosts:
    """Count the operations (2 per multiply-add) of each part on a clip of at least two frames."""
    meter = FlopMeter()
    _run_metered(meter, temporal, head, frames, sizes)
    return PartCosts({name: float(max(calls)) for name, calls in meter.flops.items()})


def part_seconds(
    temporal: TemporalModule, head: TaskHead, frames: Tensor, sizes: Tensor
) -> PartCosts:
    """Time each part on a clip, after one warm-up pass; medians over the calls."""
    run_stream(temporal, head, frames[:, :2], sizes)
    watch = Stopwatch(frames.device)
    _run_metered(watch, temporal, head, frames, sizes)
    return PartCosts({name: statistics.median(calls) for name, calls in watch.seconds.items()})


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

    @property
    def fps(self) -> float:
        """Frames per second of the method."""
        return 1 / self.seconds_per_frame

    @property
    def speedup(self) -> float:
        """Measured s."""
        return self.per_frame_seconds / self.seconds_per_frame


def measure_stream(
    temporal: TemporalModule, head: TaskHead, frames: Tensor, sizes: Tensor, repeats: int = 3
) -> StreamSpeed:
    """Time whole streams at the method's own l and at l = 1, in turns; medians over ``repeats``.

    Post-processing is included. Methods without key frames are their own per-frame evaluation.
    """
    run_stream(temporal, head, frames[:, : min(4, frames.shape[1])], sizes)
    own, per_frame = [], []
    for _ in range(repeats):
        own.append(_seconds(temporal, head, frames, sizes))
        if temporal.key_frames is None:
            per_frame.append(own[-1])
            continue
        with key_frame_interval(temporal, 1):
            per_frame.append(_seconds(temporal, head, frames, sizes))
    count = frames.shape[1]
    return StreamSpeed(statistics.median(own) / count, statistics.median(per_frame) / count)


def _seconds(temporal: TemporalModule, head: TaskHead, frames: Tensor, sizes: Tensor) -> float:
    synchronize(frames.device)
    begin = time.perf_counter()
    run_stream(temporal, head, frames, sizes)
    synchronize(frames.device)
    return time.perf_counter() - begin
