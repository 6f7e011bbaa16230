"""Recognise actions over a video of any length: windows of it, each scored as a test video is.

What overlapping windows share is computed again for each of them.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowfeat.action_windows import ActionWindows, Window
from flowfeat.batches import RecognitionBatch
from flowfeat.drawing.timeline import timeline, write_classes
from flowfeat.prediction import ModelClock, whole, whole_file
from flowfeat.progress import tracked
from flowfeat.scores import consensus, fuse_levels
from flowfeat.tasks.recognition import RecognitionTask
from flowfeat.video_writer import VideoWriter

TOP = 5  # classes in a JSON line
DRAWN = 3  # and on the pictures


class WindowPrediction(NamedTuple):
    """What a window shows."""

    window: Window
    segments: list[int]  # frames at which they begin, without those that only repeat the last one
    probabilities: NDArray[np.float32]  # (C,); NaN where nothing can be said

    def top(self, classes: Sequence[str], most: int = TOP) -> list[tuple[int, str, float]]:
        """Return label, name and probability of the most probable classes, the best first."""
        if np.isnan(self.probabilities).any():
            return []
        order = np.argsort(-self.probabilities, kind="stable")[:most].tolist()
        return [(label, classes[label], float(self.probabilities[label])) for label in order]


def score_clip(task: RecognitionTask, batch: RecognitionBatch) -> Tensor:
    """Return the fused scores (B, C) of whole clips as in testing; NaN where nothing is said."""
    steps, valid = task.score_steps(batch)  # (B, T, L, C), (B, T, L)
    scores, known = consensus(steps, valid & ~batch["repeats"][..., None])
    return fuse_levels(scores.masked_fill(~known[..., None], torch.nan), task.score_weights)


def predict_windows(
    task: RecognitionTask, video: ActionWindows, clock: ModelClock
) -> Iterator[WindowPrediction]:
    """Yield the probabilities of every window, in order.

    Args:
        task: On its device.
        video: Its windows; one of them is in memory.
        clock: Notes the model's seconds, without decoding, resizing and moving; it counts segments.
    """
    for number, window in enumerate(video.windows):
        starts = video.segments(window)
        batch = video.batch(starts)
        if number == 0:
            score_clip(task, batch)  # what happens once (memory, choice of kernels) is not timed
        with clock.timed(len(starts)):
            scores = score_clip(task, batch)
        probabilities = scores[0].float().softmax(0).cpu().numpy()
        yield WindowPrediction(window, sorted(set(starts)), probabilities)


def write_windows(
    task: RecognitionTask,
    video: ActionWindows,
    clock: ModelClock,
    finals: tuple[Path, Path, Path],
    threshold: float,
    crf: int,
    preset: str,
) -> None:
    """Write the video, the JSON lines and the timeline, all of them or none.

    Args:
        task: On its device.
        video: From its beginning.
        clock: See ``predict_windows``.
        finals: Where the video, the lines and the timeline go.
        threshold: Least probability of a class on the pictures.
        crf: Quality of the video.
        preset: Effort of its encoder.

    Raises:
        ValueError: The video cannot be read to its end.
    """
    length, fps = len(video.source), video.source.fps
    probabilities = []
    with (
        whole(finals[2]) as picture,
        whole_file(finals[1]) as lines,
        VideoWriter(finals[0], fps, video.source.size, crf=crf, preset=preset) as pictures,
    ):
        found = predict_windows(task, video, clock)
        for prediction in tracked(found, video.name, len(video.windows), "windows"):
            lines.write(json.dumps(describe(prediction, task.classes)) + "\n")
            probabilities.append(prediction.probabilities)
            best = prediction.top(task.classes, DRAWN)
            drawn = [each for each in best if each[2] >= threshold]
            begin, stop = (_frame_at(time, fps, length) for time in prediction.window.shown)
            for frame in video.show(begin):  # between windows
                pictures.write(frame)
            for frame in video.show(stop):
                pictures.write(write_classes(frame, drawn))
        for frame in video.show(length):
            pictures.write(frame)
        spans = np.array([window.shown for window in video.windows])
        figure = timeline(spans, np.stack(probabilities), task.classes)
        figure.savefig(picture, dpi=100, metadata={"Software": None})


def describe(prediction: WindowPrediction, classes: Sequence[str]) -> dict[str, Any]:
    """Return a JSON line: the window in seconds, its segments' frames, and the top classes."""
    window = prediction.window
    top = [{"class": n, "probability": round(p, 4)} for _, n, p in prediction.top(classes)]
    return {
        "window": window.number,
        "start": round(window.start, 3),
        "end": round(window.end, 3),
        "segments": prediction.segments,
        "classes": top,
    }


def _frame_at(time: float, fps: float, length: int) -> int:
    """Return the first frame that begins at a time or later."""
    return min(math.ceil(time * fps - 1e-6), length)


@dataclass(frozen=True)
class WindowsSummary:
    """What a run over a video cost."""

    name: str
    windows: int
    frames: int
    seconds: float  # decoding, drawing and encoding included
    clock: ModelClock
    modality: float = 0.0  # seconds that a segment's differences or flow take to compute

    def line(self) -> str:
        """Say it in one line."""
        model = self.clock.seconds + self.clock.frames * self.modality
        return (
            f"{self.name}: {self.windows} windows, {self.frames} frames, "
            f"{self.frames / max(self.seconds, 1e-9):.1f} fps end to end, "
            f"{self.clock.frames / max(model, 1e-9):.1f} fps of the model (segments)"
        )
