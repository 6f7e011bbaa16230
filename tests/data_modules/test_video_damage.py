"""Damage in the middle of a video moves no later frame, and what it took is said."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from data_modules.video import Source, decord_obstacle, open_video
from data_modules.video import decord_source as decord_module
from data_modules.video.mpeg4 import clock_bits, holds_picture

BITS, SIDE, FRAMES, GOP = 8, 16, 100, 10


def numbered(number: int) -> NDArray[np.uint8]:
    """Draw a picture (32, 128, 3) that shows its number in binary, above noise."""
    row = np.repeat([np.uint8((number >> bit & 1) * 200 + 20) for bit in range(BITS)], SIDE)
    noise = np.random.default_rng(number).integers(90, 150, (SIDE, SIDE * BITS), dtype=np.uint8)
    return np.repeat(np.concatenate([np.tile(row, (SIDE, 1)), noise])[..., None], 3, axis=2)


def numbers(pictures: NDArray[np.uint8]) -> list[int]:
    """Read the numbers of pictures (T, 32, 128, 3)."""
    bits = pictures[:, SIDE // 2, SIDE // 2 :: SIDE, 1] > 120
    return (bits @ (1 << np.arange(BITS))).tolist()


def encode(path: Path, codec: str = "libx264", b_frames: int = 2, **options: str) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = 32, 128, "yuv420p", GOP
        stream.codec_context.thread_count = 1
        stream.codec_context.max_b_frames = b_frames
        for number in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(numbered(number), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def packets(path: Path) -> list[tuple[int, int]]:
    """Return where every packet lies in the file, and its bytes."""
    with av.open(str(path)) as container:
        return [(p.pos or 0, p.size) for p in container.demux(video=0) if p.size]


def overwrite(path: Path, start: int, content: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[start : start + len(content)] = content
    path.write_bytes(data)


def noise(size: int, seed: int) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8).tobytes()


KINDS: dict[str, dict[str, Any]] = {
    "h264.mp4": {},
    "h264.mkv": {},
    "h264.ts": {},
    "h264.avi": {},
    "sp.avi": {"codec": "mpeg4", "b_frames": 0, "qmax": "4"},
    "asp.avi": {"codec": "mpeg4", "qmax": "4"},
    "asp.mp4": {"codec": "mpeg4", "qmax": "4"},
}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", KINDS)
def test_later_frames_keep_their_numbers(
    name: str, seed: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = encode(tmp_path / name, **KINDS[name])
    places = packets(path)
    first = 42 + seed
    # Several packets with what stands between them are gone.
    size = places[first + 5][0] - places[first][0]
    overwrite(path, places[first][0] + 3, noise(size, seed) if seed else bytes(size))
    for source in (open_video(path), open_video(path, access="sparse")):
        assert isinstance(source, Source)
        assert source.reader == "pyav"
        assert len(source) == FRAMES
        assert 1 <= len(source.holes) <= 3 * GOP
        assert 40 <= source.holes[0] <= source.holes[-1] < 70
        whole = [*range(40), *range(70, FRAMES)]
        assert numbers(source.read(whole)) == whole
        for index in np.random.default_rng(seed).permutation(whole).tolist():
            assert numbers(source.read([index])) == [index]
        np.testing.assert_allclose(source.times, np.arange(FRAMES) / 25, atol=1e-3)
    some = f"{len(source.holes)} of {FRAMES} frames are holes ({source.holes[0]}"
    assert caplog.text.count(some) == 1
    if not decord_module.decord_missing():
        with pytest.raises(ValueError, match="decord cannot read this file exactly: "):
            open_video(path, "decord")


def test_hole_shows_the_frame_before_it_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = encode(tmp_path / "a.mp4", b_frames=0)
    place, size = packets(path)[49]  # the last of its group: nothing refers to it
    overwrite(path, place, bytes(size))
    source = open_video(path)
    assert isinstance(source, Source)
    assert source.holes.tolist() == [49]
    for _ in range(2):
        assert numbers(source.read([49, 50, 48])) == [48, 50, 48]
        assert numbers(source.read(range(FRAMES))) == [*range(49), 48, *range(50, FRAMES)]
    announced = f"{FRAMES} frames are announced, {FRAMES - 1} can be decoded"
    assert f"{path}: damaged (packet 49 holds no whole picture): {announced}" in caplog.text
    assert "1 of 100 frames are holes (49)" in caplog.text
    assert caplog.text.count(f"{path}: frame 49 cannot be decoded") == 1


def test_beginning_that_does_not_decode_shows_the_first_frame_that_does(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", b_frames=0)
    first, last = packets(path)[0], packets(path)[GOP]
    overwrite(path, first[0], bytes(last[0] - first[0]))  # the whole first group
    source = open_video(path)
    assert isinstance(source, Source)
    assert source.holes.tolist() == list(range(GOP))
    assert numbers(source.read([0, 10, 9, 99])) == [GOP, GOP, GOP, FRAMES - 1]


def test_uneven_times_are_kept_and_are_no_holes(tmp_path: Path) -> None:
    path = tmp_path / "uneven.mp4"
    times = np.cumsum([1, 2, 5, 1, 1, 9, 2] * 5) - 1
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 128, "yuv420p"
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(numbered(number), format="rgb24")
            frame.pts, frame.time_base = int(time), Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    for reader in ("auto", "pyav"):
        source = open_video(path, reader)
        assert isinstance(source, Source)
        assert source.holes.size == 0
        np.testing.assert_allclose(source.times, times / 25)
        assert numbers(source.read(range(35))) == list(range(35))


def test_damaged_sample_misses_the_entry_that_no_decoded_frame_carries(samples: Path) -> None:
    path = samples / "video/corrupted.mp4"
    with av.open(str(path)) as container:
        entries = sorted(p.pts for p in container.demux(video=0) if p.pts is not None)
    carried = {}
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        for packet in container.demux(stream):
            try:
                for frame in packet.decode():
                    carried[entries.index(frame.pts)] = frame.to_ndarray(format="rgb24")
            except av.FFmpegError:
                continue
    source = open_video(path)
    assert isinstance(source, Source)
    assert source.holes.tolist() == sorted(set(range(50)) - set(carried)) == [30]
    assert len(source) == len(entries) == 50
    for index in (*range(50), 7, 49, 31, 29):
        assert (source.read([index])[0] == carried.get(index, carried[29])).all()


def test_picture_header_that_only_decord_would_pass_over_goes_to_pyav(tmp_path: Path) -> None:
    path = encode(tmp_path / "sp.avi", **KINDS["sp.avi"])
    place, _ = packets(path)[43]
    if not decord_module.decord_missing():
        assert not decord_obstacle(path)
    overwrite(path, place + 4, bytes(3))  # its start code stays
    assert decord_obstacle(path) == "damaged"
    source = open_video(path)
    assert numbers(source.read(range(50, FRAMES))) == list(range(50, FRAMES))


def test_truncated_video_keeps_the_numbers_of_its_last_frames(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4")
    whole = tmp_path / "faststart.mp4"
    with (
        av.open(str(path)) as source,
        av.open(str(whole), "w", options={"movflags": "faststart"}) as sink,
    ):
        stream = sink.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                sink.mux(packet)
    for kept in range(40, 52):
        place, _ = packets(whole)[kept]
        cut = tmp_path / f"{kept}.mp4"
        cut.write_bytes(whole.read_bytes()[:place])
        video = open_video(cut)
        assert isinstance(video, Source)
        held = [index for index in range(len(video)) if index not in video.holes]
        assert len(held) == kept
        shown = numbers(video.read(held))
        # Pictures between two others may lack one of them; those that others need are whole.
        assert sum(a != b for a, b in zip(shown, held, strict=True)) <= 2
        assert shown[-1] == held[-1]


def test_header_of_an_mpeg4_picture(tmp_path: Path) -> None:
    path = encode(tmp_path / "sp.avi", **KINDS["sp.avi"])
    with av.open(str(path)) as container:
        first, second = (bytes(p) for p in list(container.demux(video=0))[:2])
    assert clock_bits(first) == (25 - 1).bit_length()  # 25 ticks a second
    assert clock_bits(second) is None
    assert holds_picture(second, 5)
    assert holds_picture(second, None)
    # The fields of the standard: type P, no second gone by, marker, time 7, marker, coded.
    for fields, whole in (
        ("01 0 1 00111 1 1", True),
        ("01 0 0 00111 1 1", False),
        ("01 0 1 00111 0 1", False),
        ("01 0 1 00111 1 0", False),
    ):
        bits = fields.replace(" ", "").ljust(16, "0")
        header = b"\0\0\1\xb6" + int(bits, 2).to_bytes(2, "big")
        assert holds_picture(header, 5) is whole, fields
    assert not holds_picture(b"\0\0\1\xb3", 5)
