"""What the parts of a method cost, in FLOPs and seconds, and what follows by Eq. 5-7: r and s.

Decoding and resizing are never counted; post-processing always is.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from flowfeat.interfaces import TaskHead, TemporalModule
from flowfeat.key_frames.schedules import Fixed
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

    def speedup_of(self, runs: Mapping[str, float]) -> float:
        """Return s of Eq. 7 where key frames fall by any schedule: by what really runs.

        With a share p of key frames s = 1 / (p c_k + (1 - p) c_i), c_k and c_i being the costs of
        key frames and of others over those of the per-frame network. A fixed l has p = 1 / l,
        c_k = 1 and c_i = r, which is Eq. 7; an adaptive schedule also asks F on key frames.

        Args:
            runs: Share of all frames (0..1) on which each part runs.

        Raises:
            ValueError: A part that ran, but whose cost is not known.
        """
        self._require(*runs)
        mean = sum(share * self.costs[part] for part, share in runs.items())
        return self._sum(KEY) / mean

    def with_flow(self, cost: float) -> "PartCosts":
        """Return the costs with another flow network in the place of F."""
        return replace(self, costs={**self.costs, "F": cost})

    def _sum(self, parts: tuple[str, ...]) -> float:
        return sum(self.costs.get(part, 0.0) for part in parts)

    def _require(self, *parts: str) -> None:
        missing = [part for part in parts if part not in self.costs]
        if missing:
            raise ValueError(f"Eq. 5 and 7 need the cost of {' and '.join(missing)}")


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
    _run_metered(meter, temporal, head, opening(temporal, frames), sizes)
    costs = {name: float(max(calls)) for name, calls in meter.flops.items()}
    return PartCosts(costs, non_key_parts(temporal))


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
    clip = opening(temporal, frames)
    _run_metered(Stopwatch(frames.device), temporal, head, clip, sizes)  # warm-up
    watch = Stopwatch(frames.device)
    begin = time.perf_counter()
    for done in range(1, passes + 1):
        _run_metered(watch, temporal, head, clip, sizes)
        spent = time.perf_counter() - begin
        if done >= 2 and spent * (done + 1) / done > seconds:
            break
    costs = {name: statistics.median(calls) for name, calls in watch.seconds.items()}
    return PartCosts(costs, non_key_parts(temporal))


def non_key_parts(temporal: TemporalModule) -> tuple[str, ...]:
    """Return the parts that a method runs on frames that are no key frames."""
    return CARRYING if temporal.carries == "results" else NON_KEY


def opening(temporal: TemporalModule, frames: Tensor) -> Tensor:
    """Return the first frames: a key frame, two others, and what a delay holds back."""
    return frames[:, : 3 + 2 * temporal.delay]


def _run_metered(
    meter: Meter, temporal: TemporalModule, head: TaskHead, frames: Tensor, sizes: Tensor
) -> None:
    with metering(meter), _fixed_keys(temporal):
        run_stream(temporal, head, frames, sizes)


@contextmanager
def _fixed_keys(temporal: TemporalModule) -> Iterator[None]:
    """Let key frames fall by l alone: an adaptive schedule may choose no other frame to measure."""
    before = temporal.key_frames
    if before is not None and before.needs_flow:
        temporal.key_frames = Fixed(before.interval)  # type: ignore[assignment]  # frozen, as all
    try:
        yield
    finally:
        temporal.key_frames = before


def seconds_of(function: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of a call, the device's queue included."""
    synchronize(device)
    begin = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - begin
