"""From a video file to the annotated one, beside its reading alone and the model alone."""

import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flowfeat.acceleration import Acceleration
from flowfeat.batches import VideoSource
from flowfeat.prediction import ModelClock, predict_stream
from flowfeat.speed import seconds_of
from flowfeat.tasks.video_task import VideoTask
from flowfeat.video_prediction import Drawing, Finals, Video, predict_video

DRAWING = Drawing(
    threshold=0.3, beside=False, crf=20, preset="veryfast"
)  # as `predict` draws by default


class Opening:
    """The first frames of a video."""

    def __init__(self, source: VideoSource, most: int) -> None:
        self.source, self.most = source, most
        self.fps, self.size = source.fps, source.size

    def __len__(self) -> int:
        return min(self.most, len(self.source))

    def read(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Read frames."""
        return self.source.read(indices)


def end_to_end_figures(
    task: VideoTask,
    data: Any,
    path: str,
    frames: int,
    turns: int,
    running: Acceleration,
    device: torch.device,
) -> dict[str, float]:
    """Predict a video's first frames as `flowfeat-predict` does, and its halves alone, in turns.

    Args:
        task: On its device, prepared.
        data: A data module that opens videos.
        path: A video file or a folder of frames.
        frames: At most so many; the model alone has them in memory.
        turns: How often, behind one that warms up.
        running: The switches.
        device: Of the task.

    Returns:
        ``end_to_end/fps_reading`` (decoding, resizing, moving to the device), ``fps_model``,
        ``fps`` (with drawing and encoding), ``of_slower``: the latter's share of the slower of the
        two; ``fps_in_line`` and ``of_slower_in_line``: the same work in one thread.
    """
    video = Video(Path(path), data, device)
    video.source = Opening(video.source, frames)
    count = len(video.source)
    kept = list(video.chunks())

    def model() -> None:
        for _ in predict_stream(task, kept, ModelClock(device)):
            pass

    def whole(folder: Path, overlapping: bool) -> None:
        finals = Finals(folder / "video.mp4", folder / "lines.jsonl")
        predict_video(task, video, ModelClock(device), finals, DRAWING, overlapping)

    spent: dict[str, list[float]] = {
        "fps_reading": [],
        "fps_model": [],
        "fps_in_line": [],
        "fps": [],
    }
    with tempfile.TemporaryDirectory() as name, running.at_work(device):
        works: Sequence[Callable[[], object]] = (
            lambda: [len(chunk.pictures) for chunk in video.chunks()],
            model,
            lambda: whole(Path(name), overlapping=False),
            lambda: whole(Path(name), overlapping=True),
        )
        for turn in range(turns + 1):
            for work, taken in zip(works, spent.values(), strict=True):
                seconds = seconds_of(work, device)
                if turn:  # the first one warms up
                    taken.append(seconds)
    fps = {name: count / statistics.median(taken) for name, taken in spent.items()}
    slower = min(fps["fps_reading"], fps["fps_model"])
    shares = {"of_slower_in_line": fps["fps_in_line"] / slower, "of_slower": fps["fps"] / slower}
    return {f"end_to_end/{name}": value for name, value in (fps | shares).items()}
