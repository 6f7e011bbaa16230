"""Run a task over one video of any length: predictions frame by frame, and how fast they came."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TextIO, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowfeat.batches import StreamChunk
from flowfeat.interfaces import TemporalModule
from flowfeat.metering import synchronize
from flowfeat.stream_speed import StreamSpeed, measure_stream
from flowfeat.streaming import Result, steps_of
from flowfeat.tasks.video_task import VideoTask
from flowfeat.written_aside import aside

Picture = NDArray[np.uint8]
"""(H, W, 3) RGB."""


@runtime_checkable
class Describing(Protocol):
    """What `predict` asks of a task beside its networks."""

    def to_original(self, predictions: Any, scale: Tensor) -> Any:
        """Return one frame's predictions in pixels of the original picture; scale (2,): sx, sy."""

    def describe(self, predictions: Any, least: float) -> dict[str, Any]:
        """Return plain values for one JSON line; of scored things, those from ``least`` on."""

    def render(
        self, picture: Picture, predictions: Any, is_key: bool | None, threshold: float
    ) -> Picture:
        """Draw predictions (original pixels) on a picture (H, W, 3), which keeps its size.

        ``is_key`` is None for methods without key frames; of scored things, those from
        ``threshold`` (0..1) on are drawn.
        """


@runtime_checkable
class LabelMapping(Protocol):
    """A task whose predictions are label maps, which `predict` also writes as PNG on request."""

    def label_map(self, predictions: Any) -> NDArray[np.uint8]:
        """Return one frame's labels (H, W), in the order of the task's classes."""


@runtime_checkable
class Restoring(Protocol):
    """A task whose predictions are pictures, which `predict` is not to spoil by encoding them."""

    crf: int  # constant quality of H.264 for them, 0 .. 51, lower is better


class FramePrediction(NamedTuple):
    """One frame and what was found on it."""

    number: int  # in its video
    picture: Picture  # as decoded
    predictions: Any  # in pixels of the picture
    is_key: bool


class _Tag(NamedTuple):
    number: int
    picture: Picture
    scale: Tensor  # (2,)


class ModelClock:
    """Sums the seconds of N_feat, F, W and N_task with its post-processing, per frame."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds, self.frames = 0.0, 0

    def time(self, work: Callable[[], list[Result[_Tag]]]) -> list[Result[_Tag]]:
        """Run one step and note its seconds and what it gave."""
        with self.timed(0):
            results = work()
        self.frames += len(results)
        return results

    @contextmanager
    def timed(self, frames: int) -> Iterator[None]:
        """Note the seconds of a block that works on so many frames."""
        synchronize(self.device)
        begin = time.perf_counter()
        yield
        synchronize(self.device)
        self.seconds += time.perf_counter() - begin
        self.frames += frames


def predict_stream(
    task: VideoTask,
    chunks: Iterable[StreamChunk],
    clock: ModelClock,
) -> Iterator[FramePrediction]:
    """Yield the predictions of every frame of one video, in order.

    Only one chunk and the frames that a method with a delay still owes are in memory.

    Args:
        task: On its device; its method decides on the key frames.
        chunks: The video from its first frame to its last, on the task's device.
        clock: Notes the model's seconds, without decoding, resizing and moving.

    Raises:
        ValueError: A task that cannot describe its predictions.
    """
    stream = task.stream()
    for chunk in chunks:
        batch = chunk.batch
        for t, frames, starts in steps_of(batch["frames"], batch["starts"]):
            tag = _Tag(int(batch["indices"][0, t]), chunk.pictures[t], batch["scales"][0])
            step = partial(stream.push, frames, starts, batch["sizes"], tag)
            yield from _original(task, clock.time(step))
    yield from _original(task, clock.time(stream.finish))


def _original(task: VideoTask, results: list[Result[_Tag]]) -> Iterator[FramePrediction]:
    if not isinstance(task, Describing):
        raise ValueError(f"{type(task).__name__} cannot describe and draw its predictions")
    for result in results:
        tag = result.tag
        predictions = task.to_original(result.predictions[0], tag.scale)
        yield FramePrediction(tag.number, tag.picture, predictions, bool(result.is_key[0]))


class Baseline(NamedTuple):
    """A method beside per-frame evaluation, on the first frames of the same clip."""

    frames: int
    speed: StreamSpeed


def measure_baseline(task: VideoTask, chunks: Iterable[StreamChunk], most: int) -> Baseline | None:
    """Compare with per-frame evaluation on the first frames of a clip, in about ten seconds.

    Args:
        task: On its device.
        chunks: The clip, read as far as needed.
        most: The most frames to compare on; their network inputs are in memory together.

    Returns:
        None for methods without key frames, and where ``most`` or the clip is empty.
    """
    if task.temporal.key_frames is None or most < 1:
        return None
    batches, count = [], 0
    for chunk in chunks:
        batches.append(chunk.batch)
        count += chunk.batch["frames"].shape[1]
        if count >= most:
            break
    if not batches:
        return None
    clip = torch.cat([batch["frames"] for batch in batches], dim=1)[:, :most]
    sizes = batches[0]["sizes"]
    speed = measure_stream(task.temporal, task.head, clip, sizes, seconds=10.0)
    return Baseline(clip.shape[1], speed)


@dataclass(frozen=True)
class Summary:
    """What a run over a video cost."""

    name: str
    frames: int
    seconds: float  # decoding, drawing and encoding included
    model_seconds: float
    baseline: Baseline | None

    def line(self, temporal: TemporalModule) -> str:
        """Say it in one line."""
        words = (
            f"{self.name}: {self.frames} frames, "
            f"{self.frames / max(self.model_seconds, 1e-9):.1f} fps of the model, "
            f"{self.frames / max(self.seconds, 1e-9):.1f} fps end to end"
        )
        if self.baseline is None or temporal.key_frames is None:
            return words
        doubt = self.baseline.speed.doubt
        return (
            f"{words}; the model is {self.baseline.speed.speedup:.2f} times as fast as per-frame "
            f"at l = {temporal.key_frames.interval} (on the first {self.baseline.frames} frames"
            f"{f'; doubtful: {doubt}' if doubt else ''})"
        )


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a hidden place to write a file at; it gets its name only when the block ends well."""
    partial = aside(path)
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """Write a text file that appears under its name only when the block ends well."""
    with whole(path) as partial, partial.open("w") as file:
        yield file
