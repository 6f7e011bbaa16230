"""Decodes packets so that every frame names the packet it was coded in.

Presentation times are missing or misleading in some containers (AVI above all). Each packet is
therefore stamped with its number in the file before it is decoded, and decoders hand the stamp
of a packet to its picture, whatever order they show the pictures in.
"""

from __future__ import annotations  # av.Packet takes its type argument in its stubs only

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av


def open_container(path: Path) -> av.container.InputContainer:
    """Open a local file; playlists inside it may not lead to the network."""
    return av.open(f"file:{path}", options={"protocol_whitelist": "file"})


def video_stream(container: av.container.InputContainer, index: int) -> av.VideoStream:
    """Return the video stream with this index in its container, ready to be decoded.

    It gets one thread: several conceal damage differently, and data-loading workers share cores.
    """
    stream = next(stream for stream in container.streams.video if stream.index == index)
    stream.thread_type = "NONE"
    stream.codec_context.thread_count = 1
    return stream


def first_video_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """Return the default video stream, else the first; cover pictures do not count."""
    cover = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    default = [s for s in streams if s.disposition & av.stream.Disposition.default]
    return next(iter(default + streams), None)


def whole_packets(
    container: av.container.InputContainer, stream: av.VideoStream
) -> Iterator[av.Packet[av.VideoStream]]:
    """Yield the packets that ``read_packets`` counts; a broken file just ends."""
    try:
        for packet in container.demux(stream):
            if packet.size:
                yield packet
    except av.FFmpegError:
        return


@dataclass
class Progress:
    """How far decoding has come."""

    packet: int = -1  # number of the packet that the decoder has got last


def stamped_frames(
    packets: Iterator[av.Packet[av.VideoStream]],
    stream: av.VideoStream,
    first: int,
    progress: Progress | None = None,
) -> Iterator[av.VideoFrame]:
    """Decode packets number ``first``, ``first + 1``, ...: ``pts`` of a frame is its packet.

    Packets that cannot be decoded are left out.
    """
    progress = progress or Progress()
    for number, packet in enumerate(packets, start=first):
        packet.pts = number
        progress.packet = number
        try:
            frames = packet.decode()
        except av.FFmpegError:  # one bad packet; the decoder goes on with the next
            continue
        yield from frames
    try:
        yield from stream.codec_context.decode(None)
    except av.FFmpegError:
        return
