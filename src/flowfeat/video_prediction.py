"""One video from its file to the annotated one: read ahead of the model, written behind it."""

import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from flowfeat import cli
from flowfeat.batches import StreamChunk, VideoData, VideoSource
from flowfeat.label_writer import LabelWriter
from flowfeat.overlap import ahead, behind
from flowfeat.prediction import (
    Describing,
    FramePrediction,
    LabelMapping,
    ModelClock,
    predict_stream,
    whole_file,
)
from flowfeat.progress import tracked
from flowfeat.results import on_host
from flowfeat.tasks.video_task import VideoTask
from flowfeat.video_writer import VideoWriter

CHUNK = 8  # frames decoded at a time: memory does not depend on the length of the video
LISTED = 0.05  # least score in the JSON lines; `threshold` is for the pictures


class PredictData(VideoData, Protocol):
    """What `predict` needs of a data module: no dataset has to be there."""

    def open(self, path: Path) -> VideoSource:
        """Open a video file or a folder of frames, as the config reads videos."""

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Lightning's hook."""


class Video:
    """One video, read in chunks from its beginning as often as needed; its errors name it."""

    def __init__(self, path: Path, data: PredictData, device: torch.device) -> None:
        self.path = path
        self.name = path.name if path.is_dir() else path.stem
        self.source = data.open(path)
        self.read = 0  # frames, in the latest pass
        self._data = data
        self._device = device

    def chunks(self) -> Iterator[StreamChunk]:
        """Yield the video in chunks, on the device.

        Raises:
            ValueError: The video cannot be read to its end.
        """
        self.read = 0
        chunks = self._data.stream(self.source, self.name, CHUNK)
        while (chunk := self._next(chunks)) is not None:
            self.read += len(chunk.pictures)
            batch = chunk.batch
            if self._device.type == "cuda":  # from pinned memory the copy makes nobody wait
                batch["frames"] = batch["frames"].pin_memory()
            yield chunk._replace(batch=self._data.transfer_batch_to_device(batch, self._device, 0))

    def _next(self, chunks: Iterator[StreamChunk]) -> StreamChunk | None:
        try:
            return next(chunks, None)
        except (ValueError, OSError, IndexError) as error:
            raise ValueError(
                f"{self.path}: only {self.read} of {len(self.source)} frames could be read, "
                f"nothing was written ({cli.one_line(error)})"
            ) from error


class Drawing(NamedTuple):
    """What the written video looks like."""

    threshold: float  # least score of what is drawn
    beside: bool  # the frame as it came at the left, the result at the right
    crf: int  # constant quality, lower is better
    preset: str  # effort of the encoder


class Finals(NamedTuple):
    """What is written, all of it or nothing."""

    video: Path
    lines: Path
    maps: Path | None = None  # a folder of label maps


def predict_video(
    task: VideoTask,
    video: Video,
    clock: ModelClock,
    finals: Finals,
    drawing: Drawing,
    overlapping: bool = True,
) -> None:
    """Read the next chunk, run the model and write earlier frames at the same time.

    In memory are two chunks, the frames that wait to be written (a chunk of them at most), and what
    a method with a delay still owes.

    Args:
        task: On its device, ready to run.
        video: From its beginning.
        clock: Notes the model's seconds.
        finals: Where to.
        drawing: How.
        overlapping: False: all in one thread, one after the other.

    Raises:
        ValueError: The video cannot be read to its end, or the task cannot describe what it finds.
    """
    with ahead(video.chunks(), int(overlapping)) as chunks:
        found = predict_stream(task, chunks, clock)
        _write(found, task, video, finals, drawing, CHUNK if overlapping else 0)


def _write(
    found: Iterator[FramePrediction],
    task: VideoTask,
    video: Video,
    finals: Finals,
    drawing: Drawing,
    depth: int,
) -> None:
    """Write one picture and one JSON line per frame, as they come, and a label map if asked to."""
    describing = task
    if not isinstance(describing, Describing):
        raise ValueError(f"{type(task).__name__} cannot describe and draw its predictions")
    knows_keys = task.temporal.key_frames is not None
    source = video.source
    height, width = source.size
    size = (height, 2 * width if drawing.beside else width)
    with (
        whole_file(finals.lines) as lines,
        VideoWriter(
            finals.video, source.fps, size, crf=drawing.crf, preset=drawing.preset
        ) as pictures,
        nullcontext() if finals.maps is None else LabelWriter(finals.maps) as labels,
    ):

        @torch.inference_mode()  # of every thread's own
        def write(frame: FramePrediction) -> None:
            is_key = frame.is_key if knows_keys else None
            found = on_host(frame.predictions)  # this thread waits, and not the model's
            picture = describing.render(frame.picture, found, is_key, drawing.threshold)
            if drawing.beside:
                picture = np.concatenate((frame.picture, picture), axis=1)
            pictures.write(picture)
            line = {"frame": frame.number, "key_frame": frame.is_key}
            line |= describing.describe(found, min(LISTED, drawing.threshold))
            lines.write(json.dumps(line) + "\n")
            if labels is not None and isinstance(task, LabelMapping):
                labels.write(frame.number, task.label_map(found))

        with behind(write, depth) as hand_over:
            for frame in tracked(found, video.name, len(source), "frames"):
                hand_over(frame)
