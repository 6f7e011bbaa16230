"""Reads the packets of a video stream without decoding: times, key frames, and visible damage."""

import struct
from dataclasses import dataclass
from typing import NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

from data_modules.video.mpeg4 import clock_bits, holds_picture

NO_TIME = np.iinfo(np.int64).min
EMPTY_MPEG4_PICTURE = 20  # bytes: MPEG-4 packets below hold "nothing coded", at most
_AVI_CHUNK_HEADER = 8  # bytes between the place that an AVI's index names and the packet
_H264_SLICES = range(1, 6)
_H264_IDR = 5
_HEVC_SLICES = range(0, 32)


@dataclass(frozen=True)
class PacketTable:
    """Packets of one stream in the order of the file; entry p is packet number p."""

    pts: NDArray[np.int64]  # (P,) presentation times in the stream's time base, or NO_TIME
    dts: NDArray[np.int64]  # (P,) decoding times, or NO_TIME
    keys: NDArray[np.bool_]  # (P,) flagged as key frames
    hidden: NDArray[np.bool_]  # (P,) decoded but never shown (cut off by an edit list)
    sizes: NDArray[np.int64]  # (P,) bytes
    coded: NDArray[np.int64]  # (P,) place among all packets that were written, lost ones included
    dropped: NDArray[np.int64]  # places of frames that an AVI counts but never held
    announced: int  # frames by the container's own list; 0 where it keeps none
    damage: str  # what is visibly wrong; "" where nothing is
    all_idr: bool  # every key frame of this H.264 stream starts afresh

    def __len__(self) -> int:
        return len(self.pts)

    @property
    def complete(self) -> bool:
        """Whether every packet that the container lists is here."""
        # AVI counts dropped frames, which have no packet, among its frames.
        return 0 < self.announced <= len(self) + len(self.dropped)

    @property
    def timed(self) -> bool:
        """Whether presentation times name each packet uniquely."""
        present = bool((self.pts != NO_TIME).all())
        return present and len(np.unique(self.pts)) == len(self.pts)

    @property
    def closed(self) -> bool:
        """Whether no packet is shown on the other side of a key frame than it is stored."""
        rank = np.argsort(np.argsort(self.pts))
        number = np.arange(len(self))
        return bool(len(self) and self.keys[0] and (rank[self.keys] == number[self.keys]).all())


def read_packets(container: av.container.InputContainer, stream: av.VideoStream) -> PacketTable:
    """Walk through the file once; packets are checked for pictures that were overwritten."""
    kind = container.format.name
    index = _avi_index(stream) if kind == "avi" else {}  # before reading on extends it
    inspect = _Inspector(stream)
    rows: list[_Row] = []
    damage = ""
    try:
        for packet in container.demux(stream):
            if packet.size == 0:  # the end, or an empty packet, which carries no frame
                continue
            rows.append(_row(packet))
            if packet.is_corrupt:
                damage = damage or f"packet {len(rows) - 1} is incomplete"
            if not inspect.whole(packet):
                damage = damage or f"packet {len(rows) - 1} holds no whole picture"
    except av.FFmpegError as error:
        damage = damage or f"reading stops after packet {len(rows)} ({error.strerror})"
    if kind.startswith("matroska"):
        damage = damage or _lost_key_frames(container, stream, rows)
    return _table(rows, index, stream.frames, damage, inspect.all_idr)


class _Inspector:
    """Looks for pictures in the packets of one stream, as far as their headers tell."""

    def __init__(self, stream: av.VideoStream) -> None:
        extradata = bytes(stream.codec_context.extradata or b"")
        self._codec = stream.codec_context.name
        self._prefix = _nal_prefix(self._codec, extradata)
        self._clock = clock_bits(extradata)
        self._started = False
        self.all_idr = self._codec == "h264" and self._prefix > 0

    def whole(self, packet: "av.Packet[av.VideoStream]") -> bool:
        """Say whether a packet holds a picture, or nothing that could tell."""
        if self._codec == "mpeg4" and packet.size > EMPTY_MPEG4_PICTURE:
            data = bytes(packet)
            if not self._started:  # AVI keeps the stream's headers in the first packet
                self._started, self._clock = True, self._clock or clock_bits(data)
            return holds_picture(data, self._clock)
        if not self._prefix:
            return True
        kinds = _nal_kinds(memoryview(packet), self._prefix, self._codec)
        slices = _H264_SLICES if self._codec == "h264" else _HEVC_SLICES
        if kinds is None or not any(kind in slices for kind in kinds):
            return False
        if packet.is_keyframe and _H264_IDR not in kinds:
            self.all_idr = False
        return True


class _Row(NamedTuple):
    """One packet."""

    pts: int
    dts: int
    key: bool
    hidden: bool
    size: int
    place: int  # first byte in the file


def _row(packet: "av.Packet[av.VideoStream]") -> _Row:
    pts = NO_TIME if packet.pts is None else packet.pts
    dts = NO_TIME if packet.dts is None else packet.dts
    place = -1 if packet.pos is None else packet.pos
    return _Row(pts, dts, packet.is_keyframe, packet.is_discard, packet.size, place)


def _table(
    rows: list[_Row], index: dict[int, tuple[int, int]], announced: int, damage: str, all_idr: bool
) -> PacketTable:
    """Put packets together, those of an AVI with the numbers that its index gives them."""
    columns = np.array(rows, dtype=np.int64).reshape(len(rows), len(_Row._fields)).T
    pts, dts, keys, hidden, sizes = columns[:5]
    coded = np.arange(len(rows), dtype=np.int64)
    dropped = np.array([number for number, size in index.values() if not size], dtype=np.int64)
    if index and all(row.place in index and row.dts != NO_TIME for row in rows):
        # FFmpeg counts the packets that it meets; past lost ones its times are too small.
        coded = np.array([index[row.place][0] for row in rows], dtype=np.int64)
        pts, dts = np.where(pts == NO_TIME, NO_TIME, pts + coded - dts), coded.copy()
        held = len(index) - len(dropped)
        if held > len(rows):
            damage = damage or f"{held - len(rows)} of {held} packets are gone"
    found = len(rows) + len(dropped)
    if not damage and found < announced:
        damage = f"{found} of {announced} packets are there"
    flags = keys.astype(np.bool_), hidden.astype(np.bool_)
    return PacketTable(pts, dts, *flags, sizes, coded, dropped, announced, damage, all_idr)


def _avi_index(stream: av.VideoStream) -> dict[int, tuple[int, int]]:
    """Map the place in the file of every packet of an AVI to its number and its bytes."""
    entries = stream.index_entries
    return {entry.pos + _AVI_CHUNK_HEADER: (entry.timestamp, entry.size) for entry in entries}


def _lost_key_frames(
    container: av.container.InputContainer, stream: av.VideoStream, rows: list[_Row]
) -> str:
    """Say how many of the key frames that a Matroska file lists were not met; "" where all were."""
    try:
        container.seek(0, stream=stream)  # reads the list, which lies behind the pictures
    except av.FFmpegError:
        return ""
    lost = {entry.timestamp for entry in stream.index_entries} - {row.pts for row in rows}
    return f"{len(lost)} key frames of its index are gone" if lost else ""


def _nal_prefix(codec: str, extradata: bytes) -> int:
    """Return the bytes of a NAL unit's length field; 0 where units are not stored with lengths."""
    if codec == "h264" and len(extradata) > 4 and extradata[0] == 1:
        return (extradata[4] & 3) + 1
    if codec == "hevc" and len(extradata) > 21 and extradata[0] == 1:
        return (extradata[21] & 3) + 1
    return 0


def _nal_kinds(data: memoryview, prefix: int, codec: str) -> list[int] | None:
    """List the types of a packet's NAL units; None where their lengths do not add up."""
    kinds, at = [], 0
    while at + prefix < len(data):
        if prefix == 4:
            (length,) = struct.unpack_from(">I", data, at)
        else:
            length = int.from_bytes(data[at : at + prefix], "big")
        at += prefix
        if length == 0 or at + length > len(data):
            return None
        kinds.append(data[at] & 31 if codec == "h264" else data[at] >> 1 & 63)
        at += length
    return kinds
