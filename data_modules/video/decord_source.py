"""Reads a video file with decord, for files on which decord is known to seek exactly."""

import functools
import logging
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_modules.video.indices import gathered, plan
from data_modules.video.per_process import PerProcess
from data_modules.video.probe import VideoIndex
from data_modules.video.pyav_source import PyavSource

_log = logging.getLogger(__name__)

DECORD_CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi")


@functools.cache
def decord_missing() -> str:
    """Say why decord cannot be used here; "" where it can. Logged once per process."""
    try:
        import decord
    except (ImportError, OSError) as error:  # OSError: a wheel for another machine
        _log.warning("decord cannot be imported (%s): videos are read by PyAV", error)
        return f"decord cannot be imported ({error})"
    decord.logging.set_level(decord.logging.QUIET)  # damage is reported by the index, once
    return ""


def decord_distrust(index: VideoIndex) -> str:
    """Say what in a file decord 0.6 is known to read wrongly; "" where it is exact.

    decord counts packets as frames, seeks to packets flagged as key frames, counts on from there,
    and picks the largest stream. That is exact only where every packet is one shown frame, every
    key frame starts afresh, and there is one stream.
    """
    if index.video_streams > 1:
        return f"{index.video_streams} video streams, of which decord picks the largest"
    if index.counted:
        return index.counted
    if index.container not in DECORD_CONTAINERS or index.codec not in ("h264", "mpeg4"):
        return f"decord is not known to be exact on {index.codec} in {index.container}"
    if index.pixels != "yuv420p":
        return f"decord converts {index.pixels} pictures in its own way"
    if index.packets.hidden.any():
        return "an edit list hides frames that decord would count"
    if not index.packets.closed:
        return "frames are shown before the key frame that they are stored behind"
    if index.codec == "h264" and not index.packets.all_idr:
        return "key frames that do not start afresh"
    return ""


class DecordSource:
    """A video file read by decord, by the contract of ``VideoSource``.

    Where decord fails all the same, PyAV takes over with one warning; indices stay the same.
    """

    def __init__(self, index: VideoIndex, reason: str, fps: float | None = None) -> None:
        self.index = index
        self.reader = "decord"
        self.stream: int | None = index.stream
        self.reason = reason
        self.fps = fps or index.fps
        self.size = index.size
        self.times = index.times if fps is None else np.arange(index.length) / fps
        self.holes = index.frames.holes
        self._open = PerProcess(functools.partial(_open_reader, str(index.path)))
        self._other: PyavSource | None = None

    def __len__(self) -> int:
        return self.index.length

    def read(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        order = plan(indices, len(self), self.index.path)
        if not order.frames:
            return np.empty((0, *self.size, 3), dtype=np.uint8)
        if self._other is None:
            pictures = self._decord(order.frames)
            if pictures is not None:
                return gathered(pictures, order)
            self._other = PyavSource(self.index, self.reason, self.fps)
        return self._other.read(indices)

    def _decord(self, frames: list[int]) -> NDArray[np.uint8] | None:
        """Read ascending frames; None, and never again, where decord fails or disagrees."""
        import decord

        try:
            reader = self._open()
            pictures: NDArray[np.uint8] = reader.get_batch(frames).asnumpy()
        except decord.DECORDError as error:
            why = re.split(r"\.cc:\d+: ", str(error).strip().splitlines()[-1])[-1]
        else:
            if len(reader) == len(self) and pictures.shape[1:3] == self.size:
                return pictures
            why = f"it finds {len(reader)} frames of {pictures.shape[1:3]}"
        _log.warning("%s: decord fails, PyAV takes over (%s)", self.index.path, why)
        self.reader, self.reason = "pyav", f"decord failed: {why}"
        return None


def _open_reader(path: str) -> Any:
    import decord

    return decord.VideoReader(path, num_threads=1)
