"""Looks at a video file once, mostly without decoding, and says what can be relied on."""

import functools
import logging
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from data_modules.video.packets import PacketTable, read_packets
from data_modules.video.stamped import (
    first_video_stream,
    open_container,
    stamped_frames,
    video_stream,
    whole_packets,
)

DEFAULT_FPS = 25.0
_ONE_FRAME_PER_PACKET = frozenset(
    (
        *("h264", "hevc", "mpeg4", "vp9", "av1", "libdav1d", "mjpeg", "prores", "dnxhd", "ffv1"),
        *("rawvideo", "huffyuv", "ffvhuff", "png", "gif"),
    )
)
_EMPTY_MPEG4_PICTURE = 20  # bytes: MPEG-4 packets below hold "nothing coded", at most
_PICTURES = ("image2", "tty")  # demuxers that take a single picture, or any text, for a video

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VideoIndex:
    """What is known of one video stream: enough to read any frame exactly. Cheap to pickle."""

    path: Path
    stream: int
    container: str
    codec: str
    pixels: str  # format of the decoded pictures
    video_streams: int
    fps: float
    size: tuple[int, int]  # height, width, after rotation
    rotation: int  # degrees counter-clockwise by which decoded pictures have to be turned
    length: int  # frames that decode
    packets: PacketTable
    rank: NDArray[np.int64] | None  # (P,) frame of each packet, -1 for none; None: cannot seek
    counted: str  # why the frames had to be decoded to be counted; "" where they had not

    def start(self, frame: int) -> int:
        """Return the last packet from which decoding is known to reach ``frame`` exactly.

        That is a key frame stored and shown no later than the frame; 0 where seeking is unsafe.
        """
        if self.rank is None:
            return 0
        number, shown = self.starts
        packet = int(self.order[frame])
        at = int(np.searchsorted(shown, frame, side="right")) - 1
        while at >= 0 and number[at] > packet:
            at -= 1
        return int(number[at]) if at >= 0 else 0

    @functools.cached_property
    def order(self) -> NDArray[np.int64]:
        """(N,) packet of each frame."""
        if self.rank is None:
            return np.arange(self.length)
        shown = np.flatnonzero(self.rank >= 0)
        return shown[np.argsort(self.rank[shown])]

    @functools.cached_property
    def starts(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Packets of the shown key frames, and the frames they are; both ascending."""
        if self.rank is None:
            return np.zeros(1, np.int64), np.zeros(1, np.int64)
        number = np.flatnonzero(self.packets.keys & (self.rank >= 0))
        shown = self.rank[number]
        ascending = shown == np.maximum.accumulate(shown)
        return number[ascending], shown[ascending]


def probe(path: Path) -> VideoIndex:
    """Index a video file; the answer is remembered while the file stays the same.

    One warning names a damaged file, the frames that it announces and those that it holds.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not a video, or a video of zero frames.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such video file")
    stat = path.stat()
    return _probe(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=1024)
def _probe(path: Path, modified: int, size: int) -> VideoIndex:
    try:
        with open_container(path) as container:
            stream = first_video_stream(container)
            kind = container.format.name
            if stream is None:
                raise ValueError(f"{path}: not a video (it has no video stream)")
            if kind.startswith(_PICTURES) or kind.endswith("_pipe"):
                raise ValueError(f"{path}: not a video (read as {kind})")
            return _index(path, container, stream)
    except av.FFmpegError as error:
        raise ValueError(f"{path}: not a video that can be read ({error.strerror})") from error


def _index(
    path: Path, container: av.container.InputContainer, stream: av.VideoStream
) -> VideoIndex:
    table = read_packets(container, stream)
    with open_container(path) as again:
        same = video_stream(again, stream.index)
        first = next(stamped_frames(whole_packets(again, same), same, 0), None)
    if first is None:
        raise ValueError(f"{path}: a video of zero frames ({len(table)} packets, none decodes)")
    counted = _why_count(table, container.format.name, stream, first)
    rank, length = _count(path, stream.index, table) if counted else _by_time(table)
    if table.damage:
        _log.warning(
            "%s: damaged (%s): %d frames are announced, %d can be decoded",
            *(path, table.damage, stream.frames or len(table), length),
        )
    turned = first.rotation % 180 != 0
    rate = stream.average_rate or stream.guessed_rate or DEFAULT_FPS
    return VideoIndex(
        path=path,
        stream=stream.index,
        container=container.format.name,
        codec=stream.codec_context.name,
        pixels=first.format.name,
        video_streams=len(container.streams.video),
        fps=float(rate),
        size=(first.width, first.height) if turned else (first.height, first.width),
        rotation=first.rotation,
        length=length,
        packets=table,
        rank=rank,
        counted=counted,
    )


def _why_count(
    table: PacketTable, container: str, stream: av.VideoStream, first: av.VideoFrame
) -> str:
    """Say why packets do not tell the frames and their order; "" where they do."""
    codec = stream.codec_context.name
    if table.damage:
        return "damaged"
    if codec not in _ONE_FRAME_PER_PACKET:
        return f"{codec} packets may hold no frame or several"
    if codec == "mpeg4" and table.smallest <= _EMPTY_MPEG4_PICTURE:
        return "packed B-frames or empty pictures"
    if container == "avi" and stream.codec_context.has_b_frames:
        return "AVI keeps no presentation times for B-frames"
    if not table.timed:
        return "presentation times are missing or repeated"
    if not table.keys[0] or table.pts[0] != table.pts[~table.hidden].min(initial=table.pts[0]):
        return "frames before the first key frame"
    if first.interlaced_frame:
        return "interlaced, a packet may hold one field"
    return ""


def _by_time(table: PacketTable) -> tuple[NDArray[np.int64], int]:
    """Rank packets by presentation time: (P,) frame numbers and their count."""
    shown = np.flatnonzero(~table.hidden)
    rank = np.full(len(table), -1, dtype=np.int64)
    rank[shown[np.argsort(table.pts[shown])]] = np.arange(len(shown))
    return rank, len(shown)


def _count(path: Path, index: int, table: PacketTable) -> tuple[NDArray[np.int64] | None, int]:
    """Decode everything once; ranks only where presentation times agree with what was shown."""
    with open_container(path) as container:
        stream = video_stream(container, index)
        frames = stamped_frames(whole_packets(container, stream), stream, 0)
        order = np.array([-1 if f.pts is None else f.pts for f in frames], dtype=np.int64)
    if not table.timed or (order < 0).any() or len(np.unique(order)) < len(order):
        return None, len(order)
    times = table.pts[order]
    if (times[1:] <= times[:-1]).any():
        return None, len(order)
    rank = np.full(len(table), -1, dtype=np.int64)
    rank[order] = np.arange(len(order))
    return rank, len(order)
