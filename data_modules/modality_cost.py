"""What a modality costs beyond decoding: the differences or the flow of a segment."""

import statistics
import time

import numpy as np
from numpy.typing import NDArray

from data_modules.modalities import Modality
from data_modules.video_data import read_clip
from flowfeat.batches import VideoSource

_MOST = 5  # segments that are timed
_ENOUGH = 1.0  # seconds after which no other one begins


def opening(video: VideoSource, modality: Modality) -> NDArray[np.uint8]:
    """Return the frames of a video's first segment; a short one ends in repetitions."""
    last = len(video) - 1
    return read_clip(video, [min(n, last) for n in range(modality.frames_needed)])


def time_segment(modality: Modality, frames: NDArray[np.uint8], size: int) -> float:
    """Return the seconds of a segment's own computation, the median over some times.

    Args:
        modality: Of the segment.
        frames: (``frames_needed``, H, W, 3), as decoded.
        size: Side of what the network sees.
    """
    spent: list[float] = []
    while len(spent) < _MOST and sum(spent) < _ENOUGH:
        begin = time.perf_counter()
        modality.compute(frames, size)
        spent.append(time.perf_counter() - begin)
    return statistics.median(spent)
