"""Reads the packets of a video stream without decoding: times, key frames, and visible damage."""

import struct
from dataclasses import dataclass

import av
import numpy as np
from numpy.typing import NDArray

NO_TIME = np.iinfo(np.int64).min
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
    smallest: int  # bytes of the smallest packet
    damage: str  # what is visibly wrong; "" where nothing is
    all_idr: bool  # every key frame of this H.264 stream starts afresh

    def __len__(self) -> int:
        return len(self.pts)

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
    """Walk through the file once; H.264 and HEVC packets are checked for broken NAL units."""
    codec = stream.codec_context.name
    prefix = _nal_prefix(codec, bytes(stream.codec_context.extradata or b""))
    pts: list[int] = []
    dts: list[int] = []
    keys: list[bool] = []
    hidden: list[bool] = []
    damage, all_idr, smallest = "", codec == "h264" and prefix > 0, 1 << 62
    try:
        for packet in container.demux(stream):
            if packet.size == 0:  # the end, or an empty packet, which carries no frame
                continue
            number = len(pts)
            pts.append(NO_TIME if packet.pts is None else packet.pts)
            dts.append(NO_TIME if packet.dts is None else packet.dts)
            keys.append(packet.is_keyframe)
            hidden.append(packet.is_discard)
            smallest = min(smallest, packet.size)
            if packet.is_corrupt:
                damage = damage or f"packet {number} is incomplete"
            if prefix:
                kinds = _nal_kinds(memoryview(packet), prefix, codec)
                slices = _H264_SLICES if codec == "h264" else _HEVC_SLICES
                if kinds is None or not any(kind in slices for kind in kinds):
                    damage = damage or f"packet {number} holds no whole picture"
                elif packet.is_keyframe and _H264_IDR not in kinds:
                    all_idr = False
    except av.FFmpegError as error:
        damage = damage or f"reading stops after packet {len(pts)} ({error.strerror})"
    # AVI counts dropped frames, which have no packet, among its frames; its times count them too.
    found = max([dts[-1] + 1, len(pts)]) if container.format.name == "avi" and dts else len(pts)
    if not damage and found < stream.frames:
        damage = f"{found} of {stream.frames} packets are there"
    return PacketTable(
        np.array(pts, dtype=np.int64),
        np.array(dts, dtype=np.int64),
        np.array(keys, dtype=np.bool_),
        np.array(hidden, dtype=np.bool_),
        smallest,
        damage,
        all_idr,
    )


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
