"""Time decoding and preprocessing of a video, per frame, as prediction reads it."""

import time
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flowfeat.batches import VideoSource

CHUNK = 8  # frames at a time, as `predict` reads


class TimedSource:
    """A video that notes the seconds of its reading."""

    def __init__(self, source: VideoSource) -> None:
        self.source = source
        self.fps, self.size = source.fps, source.size
        self.seconds = 0.0

    def __len__(self) -> int:
        return len(self.source)

    def read(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Read, and note how long it took."""
        begin = time.perf_counter()
        frames = self.source.read(indices)
        self.seconds += time.perf_counter() - begin
        return frames


def reading_figures(data: Any, path: str, frames: int, device: torch.device) -> dict[str, float]:
    """Read a video's first frames.

    Args:
        data: A data module that opens videos.
        path: A video file or a folder of frames.
        frames: At most so many.
        device: Where they go; the way there counts as preprocessing.

    Returns:
        ``video/ms_decode`` and ``video/ms_preprocess`` per frame.

    Raises:
        ValueError: A task without videos.
        FileNotFoundError: No such video.
    """
    if not hasattr(data, "open"):
        raise ValueError(f"benchmark.video={path}: {type(data).__name__} opens no videos")
    source = TimedSource(data.open(path))
    chunks = data.stream(source, "video", CHUNK)
    next(chunks)  # the file is opened, the caches are warm
    source.seconds, count = 0.0, 0
    begin = time.perf_counter()
    for chunk in islice(chunks, max(1, frames // CHUNK)):
        data.transfer_batch_to_device(chunk.batch, device, 0)
        count += len(chunk.pictures)
    spent = time.perf_counter() - begin
    if not count:
        raise ValueError(f"benchmark.video={path}: expected more than {CHUNK} frames")
    return {
        "video/ms_decode": 1e3 * source.seconds / count,
        "video/ms_preprocess": 1e3 * (spent - source.seconds) / count,
    }
