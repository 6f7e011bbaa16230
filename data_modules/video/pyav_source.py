"""Reads a video file exactly with PyAV: seek to a safe key frame, decode forward, count packets."""

from __future__ import annotations  # av.Packet takes its type argument in its stubs only

import functools
import logging
from collections.abc import Iterator, Sequence

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from data_modules.video.indices import gathered, plan
from data_modules.video.packets import NO_TIME
from data_modules.video.per_process import PerProcess
from data_modules.video.probe import VideoIndex
from data_modules.video.stamped import (
    Progress,
    open_container,
    stamped_frames,
    video_stream,
    whole_packets,
)

_log = logging.getLogger(__name__)

_NEARBY = 4  # packets that are decoded and thrown away rather than sought over


class PyavSource:
    """A video file read by PyAV, by the contract of ``VideoSource``.

    Keeps its place: consecutive reads go on decoding where the last one stopped. A frame that does
    not decode is replaced by the last one before it that does, with one warning per file.
    """

    reader = "pyav"

    def __init__(self, index: VideoIndex, reason: str, fps: float | None = None) -> None:
        self.index = index
        self.stream: int | None = index.stream
        self.reason = reason
        self.fps = fps or index.fps
        self.size = index.size
        self.times = index.times if fps is None else np.arange(index.length) / fps
        self.holes = index.frames.holes
        self._cursor = PerProcess(functools.partial(_Cursor, index))

    def __len__(self) -> int:
        return self.index.length

    def read(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        order = plan(indices, len(self), self.index.path)
        pictures = np.empty((len(order.frames), *self.size, 3), dtype=np.uint8)
        cursor = self._cursor()
        for place, frame in enumerate(order.frames):
            pictures[place] = cursor.picture(frame)
        return gathered(pictures, order)


class _Cursor:
    """A decoder and the place it has reached."""

    def __init__(self, index: VideoIndex) -> None:
        self._index = index
        self._holes = set(index.frames.holes.tolist())
        self._warned = False
        self._frames: Iterator[av.VideoFrame]
        self._origin = 0  # packet at which decoding began
        self._at = -1  # frame that the decoder has shown last
        self._current: av.VideoFrame | None = None
        self._next: av.VideoFrame | None = None  # decoded, beyond what was wanted
        self._progress = Progress()
        self._convert = VideoReformatter()
        self._container, self._stream = self._open()
        self._begin(whole_packets(self._container, self._stream), 0)

    def __del__(self) -> None:
        if hasattr(self, "_container"):  # PyAV keeps files open until its cycles are collected
            self._container.close()

    def picture(self, wanted: int) -> NDArray[np.uint8]:
        """Return frame number ``wanted`` as (H, W, 3) RGB, upright, in the first frame's size."""
        upright = self._index.rotation % 180 == 0
        height, width = self._index.size if upright else self._index.size[::-1]
        # A pool of converting threads would be inherited, dead, by forked workers.
        frame = self._convert.reformat(self.frame(wanted), width, height, "rgb24", threads=1)
        picture = np.asarray(frame.to_ndarray(), dtype=np.uint8)
        turns = round(self._index.rotation / 90) % 4
        return np.rot90(picture, turns) if turns else picture

    def frame(self, wanted: int) -> av.VideoFrame:
        """Return frame number ``wanted``, or what stands in for it where it does not decode."""
        found = None if wanted in self._holes else self._find(wanted)
        if found is None:
            self._holes.add(wanted)
            found = self._stand_in(wanted)
        return found

    def _find(self, wanted: int) -> av.VideoFrame | None:
        """Decode as little as is safe to reach a frame; None where it does not decode."""
        start = self._index.start(wanted)
        if wanted < self._at or start > self._progress.packet + _NEARBY:
            self._seek(start)
        found = self._forward(wanted)
        if found is None and self._origin > 0:  # e.g. a "key frame" that only starts a refresh
            self._restart()
            found = self._forward(wanted)
        return found

    def _stand_in(self, hole: int) -> av.VideoFrame:
        """Return the last frame before a hole that decodes, or else the first one after it."""
        if not self._warned:
            _log.warning("%s: frame %d cannot be decoded, its neighbour is shown instead",
                         self._index.path, hole)  # fmt: skip
            self._warned = True
        for other in (*range(hole - 1, -1, -1), *range(hole + 1, self._index.length)):
            if other not in self._holes:
                found = self._find(other)
                if found is not None:
                    return found
                self._holes.add(other)
        raise ValueError(f"{self._index.path}: frame {hole} cannot be decoded, nor can any other")

    def _forward(self, wanted: int) -> av.VideoFrame | None:
        """Decode up to ``wanted``; None when the decoder has gone past it."""
        while self._at < wanted:
            following = self._next or next(self._frames, None)
            if following is None:
                return None
            place, self._next = self._place(following), following
            if place > wanted:
                return None
            self._next = None
            if place > self._at:
                self._at, self._current = place, following
        return self._current if self._at == wanted else None

    def _place(self, frame: av.VideoFrame) -> int:
        """Return the number of a decoded frame."""
        if self._index.frames.rank is None:
            return self._at + 1
        return int(self._index.frames.rank[frame.pts])

    def _open(self) -> tuple[av.container.InputContainer, av.VideoStream]:
        container = open_container(self._index.path)
        return container, video_stream(container, self._index.stream)

    def _restart(self) -> None:
        """Go to the beginning, by opening anew: some files cannot seek even there."""
        self._container.close()
        self._container, self._stream = self._open()
        self._begin(whole_packets(self._container, self._stream), 0)

    def _seek(self, start: int) -> None:
        """Place the decoder at packet ``start`` or at a key frame before it."""
        table = self._index.packets
        for stamp in (table.pts[start], table.dts[start]) if start else ():
            if stamp == NO_TIME:
                continue
            self._container.seek(int(stamp), stream=self._stream, backward=True)
            packets = whole_packets(self._container, self._stream)
            first = next((packet for packet in packets if packet.is_keyframe), None)
            number = self._number(first)
            if first is not None and number is not None and number <= start:
                self._begin(_chain(first, packets), number)
                return
        self._restart()

    def _number(self, packet: av.Packet[av.VideoStream] | None) -> int | None:
        """Find a packet in the table by its presentation time, which is unique there."""
        if packet is None or packet.pts is None:
            return None
        found = np.flatnonzero(self._index.packets.pts == packet.pts)
        return int(found[0]) if len(found) else None

    def _begin(self, packets: Iterator[av.Packet[av.VideoStream]], number: int) -> None:
        self._origin, self._at, self._progress = number, -1, Progress(number - 1)
        rank = self._index.frames.rank
        if number and rank is not None:  # what is shown before a key frame is not whole
            self._at = int(rank[number]) - 1
        self._current = self._next = None
        self._frames = stamped_frames(packets, self._stream, number, self._progress)


def _chain(
    first: av.Packet[av.VideoStream], rest: Iterator[av.Packet[av.VideoStream]]
) -> Iterator[av.Packet[av.VideoStream]]:
    yield first
    yield from rest
