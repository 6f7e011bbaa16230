"""Clips of clean frames, which restoration learns to give back: folders of pictures, or videos."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_modules.pictures import read_pictures
from data_modules.resize import Frames
from data_modules.video import open_video
from data_modules.video_data import OpenVideos, read_clip

_CHUNK = 8  # frames decoded at a time


class CleanClip(NamedTuple):
    """One clip; its degraded frames lie in the folder ``name`` of a degraded tree."""

    name: str  # with / between folders
    path: Path  # a folder, or a video file
    pictures: tuple[str, ...] = ()  # names in the folder, in order; () for a video file

    def degraded(self, frame: int) -> str:
        """Return the name of a degraded frame: that of the clean PNG, else its number."""
        if self.pictures and self.pictures[frame].endswith(".png"):
            return self.pictures[frame]
        return f"{frame:06}.png"


class CleanFrames:
    """Reads clips; every process and thread has its own.

    Args:
        reader: Of ``open_video``, for video files.
    """

    def __init__(self, reader: str = "auto") -> None:
        self._videos = OpenVideos(partial(open_video, reader=reader))

    def length(self, clip: CleanClip) -> int:
        """Return the number of frames."""
        return len(clip.pictures) or len(self._videos(clip.path))

    def read(self, clip: CleanClip, indices: Sequence[int]) -> Frames:
        """Return frames (T, H, W, 3) in the order asked for.

        Raises:
            FileNotFoundError: A picture is missing.
            ValueError: One cannot be read, is not 8-bit RGB, or has another size than the others.
        """
        if not clip.pictures:
            return read_clip(self._videos(clip.path), indices)
        return read_pictures(clip.path, [clip.pictures[frame] for frame in indices])

    def chunks(self, clip: CleanClip) -> Iterator[Frames]:
        """Yield a whole clip in order, in constant memory.

        Raises:
            ValueError: See ``read``.
        """
        length, size = self.length(clip), None
        for start in range(0, length, _CHUNK):
            frames = self.read(clip, range(start, min(start + _CHUNK, length)))
            if size is not None and frames.shape[1:3] != size:
                raise ValueError(
                    f"{clip.path}: frame {start} has {frames.shape[1:3]} pixels (height, width): "
                    f"expected {size}, as before"
                )
            size = frames.shape[1:3]
            yield frames


def read_degraded(tree: Path, clip: CleanClip, indices: Sequence[int]) -> Frames:
    """Return degraded frames (T, H, W, 3) in the order asked for, each read once.

    Raises:
        FileNotFoundError, ValueError: See ``CleanFrames.read``.
    """
    unique, places = np.unique(np.asarray(indices), return_inverse=True)
    frames = read_pictures(tree / clip.name, [clip.degraded(int(frame)) for frame in unique])
    return frames[places]
