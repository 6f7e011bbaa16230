"""Looks at a video file once, mostly without decoding, and says what can be relied on."""

import functools
import logging
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from data_modules.video.numbering import Numbering, number_by_decoding, number_by_time
from data_modules.video.packets import EMPTY_MPEG4_PICTURE, PacketTable, read_packets
from data_modules.video.stamped import (
    first_video_stream,
    open_container,
    stamped_frames,
    video_stream,
    whole_packets,
)

DEFAULT_FPS = 25.0
_NAMED = 8  # holes that a warning lists
_ONE_FRAME_PER_PACKET = frozenset(
    (
        *("h264", "hevc", "mpeg4", "vp9", "av1", "libdav1d", "mjpeg", "prores", "dnxhd", "ffv1"),
        *("rawvideo", "huffyuv", "ffvhuff", "png", "gif"),
    )
)
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
    packets: PacketTable
    frames: Numbering  # which packet holds which frame, and the frames that none holds
    times: NDArray[np.float64]  # (N,) seconds at which the frames are shown, ascending from 0
    counted: str  # why the frames had to be decoded to be counted; "" where they had not

    @property
    def length(self) -> int:
        """The number of frames, those included that do not decode."""
        return self.frames.length

    def start(self, frame: int) -> int:
        """Return the last packet from which decoding is known to reach ``frame`` exactly.

        That is a key frame stored and shown no later than the frame; 0 where seeking is unsafe.
        """
        if not self.frames.seeks:
            return 0
        number, shown = self.starts
        packet = int(self.order[frame])
        at = int(np.searchsorted(shown, frame, side="right")) - 1
        while at >= 0 and number[at] > packet:
            at -= 1
        return int(number[at]) if at >= 0 else 0

    @functools.cached_property
    def order(self) -> NDArray[np.int64]:
        """(N,) packet of each frame; one behind all others for a frame that lost its packet."""
        order = np.full(self.length, len(self.packets), dtype=np.int64)
        if self.frames.rank is not None:
            shown = np.flatnonzero(self.frames.rank >= 0)
            order[self.frames.rank[shown]] = shown
        return order

    @functools.cached_property
    def starts(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Packets of the shown key frames that decode, and their frames; both ascending."""
        if self.frames.rank is None:
            return np.zeros(1, np.int64), np.zeros(1, np.int64)
        shown = (self.frames.rank >= 0) & ~np.isin(self.frames.rank, self.frames.holes)
        number = np.flatnonzero(self.packets.keys & shown)
        frames = self.frames.rank[number]
        ascending = frames == np.maximum.accumulate(frames)
        return number[ascending], frames[ascending]


def probe(path: Path) -> VideoIndex:
    """Index a video file; the answer is remembered while the file stays the same.

    One warning names a damaged file, the frames that it announces, those that it holds, and holes.

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
    frames = _by_decoding(path, stream, table, first) if counted else number_by_time(table)
    if table.damage or len(frames.holes):
        _log.warning("%s: %s", path, _damage(table, frames, stream.frames))
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
        packets=table,
        frames=frames,
        times=_seconds(frames, stream, float(rate)),
        counted=counted,
    )


def _damage(table: PacketTable, frames: Numbering, announced: int) -> str:
    """Say what is wrong with a file, and which frames cannot be shown."""
    held = frames.length - len(frames.holes)
    words = (
        f"damaged ({table.damage or 'pictures do not decode'}): "
        f"{announced or frames.length} frames are announced, {held} can be decoded"
    )
    if not len(frames.holes):
        return words
    some = ", ".join(map(str, frames.holes[:_NAMED]))
    more = ", ..." if len(frames.holes) > _NAMED else ""
    return f"{words}; {len(frames.holes)} of {frames.length} frames are holes ({some}{more})"


def _seconds(frames: Numbering, stream: av.VideoStream, fps: float) -> NDArray[np.float64]:
    if frames.times is None or stream.time_base is None or not frames.length:
        return np.arange(frames.length) / fps
    return (frames.times - frames.times[0]) * float(stream.time_base)


def _why_count(
    table: PacketTable, container: str, stream: av.VideoStream, first: av.VideoFrame
) -> str:
    """Say why packets do not tell the frames and their order; "" where they do."""
    codec = stream.codec_context.name
    if table.damage:
        return "damaged"
    if codec not in _ONE_FRAME_PER_PACKET:
        return f"{codec} packets may hold no frame or several"
    if codec == "mpeg4" and table.sizes.min(initial=1 << 62) <= EMPTY_MPEG4_PICTURE:
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


def _by_decoding(
    path: Path, stream: av.VideoStream, table: PacketTable, first: av.VideoFrame
) -> Numbering:
    """Decode everything once, and number the frames by what was shown."""
    with open_container(path) as container:
        same = video_stream(container, stream.index)
        frames = stamped_frames(whole_packets(container, same), same, 0)
        order = np.array([-1 if f.pts is None else f.pts for f in frames], dtype=np.int64)
    codec = stream.codec_context.name
    expected = ~table.hidden
    if codec not in _ONE_FRAME_PER_PACKET or first.interlaced_frame:
        expected[:] = False  # packets without a picture of their own are no holes
    elif codec == "mpeg4":
        expected &= table.sizes > EMPTY_MPEG4_PICTURE
    return number_by_decoding(table, order, expected, container.format.name == "avi")
