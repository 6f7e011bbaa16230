"""Time whole streams: parts and s from the same calls, switches, many streams; and memory."""

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from flowfeat.acceleration import Acceleration
from flowfeat.key_frames.schedules import Fixed
from flowfeat.metering import synchronize
from flowfeat.speed import PartCosts, key_frame_interval, part_flops, part_seconds
from flowfeat.stream_speed import StreamSpeed, measure_stream
from flowfeat.streaming import Result, Stream
from flowfeat.tasks.video_task import VideoTask

SWITCHES = {
    "inference_mode": (Acceleration(inference_mode=False), Acceleration()),
    "channels_last": (Acceleration(), Acceleration(channels_last=True)),
    "autocast": (Acceleration(), Acceleration(autocast=True)),
    "cuda_graphs": (Acceleration(), Acceleration(cuda_graphs=True)),
    "compile_key": (Acceleration(), Acceleration(compile=("key",))),
    "compile_non_key": (Acceleration(), Acceleration(compile=("non_key",))),
}
"""A switch off and on, all others as they are by default."""


class Parts(NamedTuple):
    """What a method costs at one size."""

    flops: PartCosts
    seconds: PartCosts
    stream: StreamSpeed


def measure_parts(
    task: VideoTask, frames: Tensor, sizes: Tensor, seconds: float, running: Acceleration
) -> Parts:
    """Time the parts and s measured, on a CPU from the very same calls.

    Where the stream itself does not run every part (at l = 1 the flow network), the parts are timed
    behind it.

    Args:
        task: On its device.
        frames: (1, T, 3, H, W).
        sizes: (1, 2).
        seconds: To spend; one turn of l frames always runs.
        running: The switches; the task is changed by them.
    """
    device = frames.device
    stream = (task.temporal, task.head, frames, sizes)
    key_frames = task.temporal.key_frames
    alone = key_frames is not None and key_frames.interval == 1
    with key_frame_interval(task.temporal, 2) if alone else nullcontext():
        flops = part_flops(*stream)  # before compiling: what is compiled hides its operations
    running.prepare(task, device)
    with running.at_work(device):
        speed = measure_stream(*stream, seconds=seconds)
        if set(flops.costs) <= set(speed.costs):
            return Parts(flops, replace(flops, costs=speed.costs), speed)
        with key_frame_interval(task.temporal, 2) if alone else nullcontext():
            return Parts(flops, part_seconds(*stream, seconds=seconds / 4), speed)


def switch_times(
    task: VideoTask, frames: Tensor, sizes: Tensor, names: Sequence[str], turns: int
) -> dict[str, float]:
    """Time every switch off and on, frame by frame in turn.

    Returns:
        ``switch/<name>/<key or non_key>``: how many times faster the frame is with it on.

    Raises:
        ValueError: An unknown switch.
    """
    unknown = [name for name in names if name not in SWITCHES]
    if unknown:
        raise ValueError(
            f"benchmark.switches: {', '.join(unknown)} unknown, expected some of "
            f"{', '.join(SWITCHES)}"
        )
    figures = {}
    for name in names:
        sides = [
            (side.prepare(copy.deepcopy(task), frames.device), side) for side in SWITCHES[name]
        ]
        _frame_times(sides, frames, sizes)  # warm-up
        taken = [_frame_times(sides, frames, sizes) for _ in range(turns)]
        for kind, chosen in (("key", True), ("non_key", False)):
            off, on = (
                [s for turn in taken for s, is_key in turn[side] if is_key is chosen]
                for side in (0, 1)
            )
            if off and on:
                figures[f"switch/{name}/{kind}"] = statistics.median(off) / statistics.median(on)
    return figures


def _frame_times(
    sides: Sequence[tuple[VideoTask, Acceleration]], frames: Tensor, sizes: Tensor
) -> list[list[tuple[float, bool]]]:
    """Return for each side the seconds of every frame, and whether it was a key frame."""
    streams: list[Stream[None]] = [Stream(task.temporal, task.head) for task, _ in sides]
    times: list[list[tuple[float, bool]]] = [[] for _ in sides]
    for t in range(frames.shape[1]):
        for stream, (_, running), taken in zip(streams, sides, times, strict=True):
            with running.at_work(frames.device):
                starts = torch.full((len(frames),), t == 0)
                push = partial(stream.push, frames[:, t], starts, sizes, None)
                seconds, results = timed(push, frames.device)
            taken += [(seconds, bool(result.is_key.any())) for result in results]
    return times


def throughput(
    task: VideoTask, frames: Tensor, sizes: Tensor, count: int, turns: int
) -> dict[str, float]:
    """Time one stream and ``count`` of them in one batch, in turns.

    Returns:
        ``streams/ms_frame_1`` and ``_<count>``, milliseconds per frame, and ``streams/gain``.
    """
    many = frames.expand(count, *frames.shape[1:]).contiguous()
    sides = ((frames, sizes), (many, sizes.expand(count, 2)))
    running = Acceleration()
    spent: tuple[list[float], list[float]] = ([], [])
    for turn in range(turns + 1):
        for (clip, size), taken in zip(sides, spent, strict=True):
            ((times),) = _frame_times([(task, running)], clip, size)
            if turn:  # the first one warms up
                taken.append(sum(seconds for seconds, _ in times) / (len(clip) * len(times)))
    one, batch = (statistics.median(taken) for taken in spent)
    return {
        "streams/ms_frame_1": 1e3 * one,
        f"streams/ms_frame_{count}": 1e3 * batch,
        "streams/gain": one / batch,
    }


def key_loads(
    task: VideoTask, size: tuple[int, int], count: int, device: torch.device
) -> dict[str, float]:
    """Count and time the key frames per tick of ``count`` streams that begin together.

    Returns:
        ``streams/key_frames_max``, ``_mean`` and ``streams/ms_tick_max`` (of all streams' frames
        together) over the two intervals after the common first tick, and the same with staggered
        key frames; nothing for methods whose schedule cannot.
    """
    before = task.temporal.key_frames
    if not isinstance(before, Fixed):
        return {}
    sizes = torch.tensor([size], device=device).expand(count, 2)
    figures = {}
    for name, stagger in (("", False), ("_staggered", True)):
        task.temporal.key_frames = replace(before, stagger=stagger)
        stream: Stream[None] = Stream(task.temporal, task.head)
        loads, ticks = [], []
        for tick in range(2 * before.interval + 1):
            frames = torch.rand(count, 3, *size, device=device)
            starts = torch.full((count,), tick == 0)
            with torch.inference_mode():
                push = partial(stream.push, frames, starts, sizes, None)
                seconds, results = timed(push, device)
            loads += [int(result.is_key.sum()) for result in results]
            ticks.append(1e3 * seconds)
        figures[f"streams/key_frames_max{name}"] = float(max(loads[1:]))
        figures[f"streams/key_frames_mean{name}"] = statistics.fmean(loads[1:])
        figures[f"streams/ms_tick_max{name}"] = max(ticks[1:])
    task.temporal.key_frames = before
    return figures


def memory_after(
    task: VideoTask, size: tuple[int, int], counts: Sequence[int], device: torch.device
) -> dict[str, float]:
    """Stream one long video of random frames and note the memory in use on the way.

    Args:
        task: On the device.
        size: Height, width.
        counts: After so many frames.
        device: Of the task.

    Returns:
        ``memory/mb_after_<count>``: MB in use, of this process or of the GPU; nothing where the
        system does not tell (macOS, Windows).
    """
    frames = torch.rand(8, 1, 3, *size, device=device)
    sizes = torch.tensor([size], device=device)
    stream: Stream[None] = Stream(task.temporal, task.head)
    figures = {}
    with torch.inference_mode():
        for number in range(max(counts, default=0)):
            stream.push(frames[number % 8], torch.tensor([number == 0]), sizes, None)
            used = memory_mb(device) if number + 1 in counts else None
            if used is not None:
                figures[f"memory/mb_after_{number + 1}"] = used
    return figures


def memory_mb(device: torch.device) -> float | None:
    """Return the memory in use now: of the GPU, else the resident one; None where nobody tells."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / 1e6
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    resident = [line.split()[1] for line in lines if line.startswith("VmRSS:")]
    return int(resident[0]) * 1024 / 1e6 if resident else None


def timed(
    function: Callable[[], list[Result[None]]], device: torch.device
) -> tuple[float, list[Result[None]]]:
    """Return the seconds of a call, the device's queue included, and its result."""
    synchronize(device)
    begin = time.perf_counter()
    result = function()
    synchronize(device)
    return time.perf_counter() - begin, result
