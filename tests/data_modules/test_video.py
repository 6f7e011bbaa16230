"""Every frame that a video source returns is the frame that was asked for."""

import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from data_modules.video import Source, decord_obstacle, open_video
from data_modules.video import decord_source as decord_module
from flowfeat.batches import VideoSource
from flowfeat.video_writer import VideoWriter

BITS, SIDE = 8, 16
SIZE = (SIDE * 2, SIDE * BITS)


def numbered(number: int) -> NDArray[np.uint8]:
    """Draw a picture (32, 128, 3) that shows its number in binary, above noise."""
    bits = [(number >> bit & 1) * 200 + 20 for bit in range(BITS)]
    row = np.repeat(np.array(bits, np.uint8), SIDE)
    noise = np.random.default_rng(number).integers(90, 150, (SIDE, SIDE * BITS), dtype=np.uint8)
    picture = np.concatenate([np.tile(row, (SIDE, 1)), noise])
    return np.repeat(picture[..., None], 3, axis=2)


def numbers(pictures: NDArray[np.uint8]) -> list[int]:
    """Read back the numbers of pictures (T, 32, 128, 3)."""
    bits = pictures[:, SIDE // 2, SIDE // 2 :: SIDE, 1] > 120
    return [int(sum(1 << bit for bit in range(BITS) if row[bit])) for row in bits]


def encode(
    path: Path,
    codec: str = "libx264",
    frames: int = 60,
    rotation: int | None = None,
    options: dict[str, str] | None = None,
    gop: int = 10,
    time: Callable[[int], int] = lambda number: number,
    b_frames: int | None = None,
    pixels: str = "yuv420p",
) -> Path:
    """Write numbered pictures with an encoder's own settings."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width, stream.pix_fmt = (*SIZE, pixels)
        stream.gop_size = gop
        stream.codec_context.thread_count = 1
        if b_frames is not None:
            stream.codec_context.max_b_frames = b_frames
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(numbered(number), format="rgb24")
            frame.pts, frame.time_base = time(number), Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def requests(length: int, seed: int = 0) -> Iterator[list[int]]:
    """Yield random, repeated, reversed, strided and consecutive indices."""
    rng = np.random.default_rng(seed)
    yield from ([int(i)] for i in rng.integers(0, length, 6))
    yield rng.integers(0, length, 10).tolist()
    yield [length - 1, 0, length - 1, length // 2, length // 2]
    yield list(range(length))[::-7]
    yield list(range(0, length, 5))
    for start in range(0, min(length, 96), 16):
        yield list(range(start, min(length, start + 16)))
    yield list(range(max(0, length - 5), length))


def decoded(path: Path) -> list[NDArray[np.uint8]]:
    """Decode the first video stream from the beginning, one packet after the other."""
    pictures = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.FFmpegError:
                continue
            for frame in frames:
                pictures.append(np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90))
    return pictures


def opened(path: Path, reader: str) -> Source:
    """Open with a reader, or with PyAV where there is no decord."""
    return open_video(path, "pyav" if decord_module.decord_missing() else reader)


def exact(path: Path, reader: str) -> Source:
    """Open with decord where it is said to be exact, and see it refused where it is not."""
    if reader == "pyav" and not decord_module.decord_missing():
        assert decord_obstacle(path)
        with pytest.raises(ValueError, match="decord cannot read this file exactly: "):
            open_video(path, "decord")
    return opened(path, reader)


SAMPLES = {
    "UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi": ("pyav", 164),
    "UCF-101/Biking/v_Biking_g05_c02.avi": ("decord", 201),
    "UCF-101/SoccerJuggling/v_SoccerJuggling_g23_c01.avi": ("decord", 240),
    "hmdb51/wave/RATRACE_wave_f_nm_np1_fr_goo_37.avi": ("pyav", 72),
    "hmdb51/wave/SchoolRulesHowTheyHelpUs_wave_f_nm_np1_ba_med_0.avi": ("pyav", 74),
    "video/arm_wrestling.mp4": ("decord", 280),
    "video/bikes.mp4": ("decord", 250),
    "video/carphone_distorted.mp4": ("decord", 120),
    "video/carphone_pristine.mp4": ("decord", 120),
    "video/corrupted.mp4": ("pyav", 50),
    "video/h265_video.mp4": ("pyav", 10),
    "video/nasa_13013.mp4": ("pyav", 325),
    "video/street_1080p.mp4": ("decord", 8),
    "video/video_0.mov": ("decord", 3),
    "video/video_90.mov": ("decord", 3),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_every_sample_is_read_exactly(samples: Path, name: str) -> None:
    reader, length = SAMPLES[name]
    reference = decoded(samples / name)
    source = exact(samples / name, reader)
    assert isinstance(source, Source)
    assert isinstance(source, VideoSource)
    for hole in source.holes:
        reference.insert(hole, reference[hole - 1])
    assert len(source) == len(reference) == length
    assert source.size == reference[0].shape[:2]
    for indices in requests(length):
        for index, picture in zip(indices, source.read(indices), strict=True):
            # 2: versions of FFmpeg round the inverse transform of MPEG-4 differently.
            assert cv2.norm(picture, reference[index], cv2.NORM_INF) <= 2, (indices, index)


def test_no_sample_is_forgotten(samples: Path) -> None:
    files = {*samples.glob("video/*"), *samples.glob("UCF-101/*/*"), *samples.glob("hmdb51/*/*")}
    assert {str(file.relative_to(samples)) for file in files} == set(SAMPLES)


def test_upright_picture_agrees_with_opencv(samples: Path) -> None:
    path = samples / "video/video_90.mov"
    shown = cv2.VideoCapture(str(path)).read()[1][..., ::-1]
    for reader in ("decord", "pyav"):
        source = opened(path, reader)
        assert source.size == shown.shape[:2] == (568, 320)
        assert np.abs(source.read([0])[0].astype(int) - shown).mean() < 2


def test_rate_and_stream_are_the_first_streams(samples: Path) -> None:
    source = open_video(samples / "video/nasa_13013.mp4", access="sparse")
    assert (source.stream, source.fps, source.size) == (0, 25.0, (180, 320))
    assert "2 video streams" in source.reason
    assert open_video(samples / "video/arm_wrestling.mp4").fps == 28.0


KINDS = {
    "closed.mp4": ("decord", {}),
    "closed.mkv": ("decord", {}),
    "rates.mp4": ("decord", {"time": lambda number: 2 * number + number % 2}),
    "intra.mp4": ("decord", {"gop": 1}),
    "pairs.mp4": ("decord", {"options": {"x264-params": "keyint=2:min-keyint=1:bframes=2"}}),
    "asp.mp4": ("pyav", {"codec": "mpeg4", "b_frames": 2}),
    "sp.avi": ("decord", {"codec": "mpeg4", "options": {"qmax": "4"}}),
    "asp.avi": ("pyav", {"codec": "mpeg4", "b_frames": 2}),
    "h264.avi": ("pyav", {}),
    "h264.ts": ("pyav", {}),
    "raw.h264": ("pyav", {}),
    "mpeg2.mpg": ("pyav", {"codec": "mpeg2video", "b_frames": 2}),
    "ten.mp4": ("pyav", {"pixels": "yuv420p10le"}),
    "open.mp4": (
        "pyav",
        {"options": {"x264-params": "open-gop=1:keyint=10:bframes=3:scenecut=0"}},
    ),
    "refresh.mp4": ("pyav", {"options": {"x264-params": "intra-refresh=1:keyint=20"}}),
    "fields.mp4": ("pyav", {"options": {"x264-params": "tff=1"}}),
}


@pytest.mark.parametrize("name", KINDS)
def test_kinds_of_stream_are_read_exactly(tmp_path: Path, name: str) -> None:
    reader, settings = KINDS[name]
    path = encode(tmp_path / name, **settings)
    for source in (exact(path, reader), open_video(path), open_video(path, access="sparse")):
        assert len(source) == 60
        for indices in requests(60):
            assert numbers(source.read(indices)) == indices


def test_frames_cut_off_by_an_edit_list_do_not_count(tmp_path: Path) -> None:
    path = encode(tmp_path / "cut.mp4", time=lambda number: number - 5)
    source = open_video(path)
    assert len(source) == 55
    assert numbers(source.read(range(55))) == list(range(5, 60))


@pytest.mark.parametrize("degrees", [90, -90, 180])
def test_rotation_is_undone(tmp_path: Path, degrees: int) -> None:
    path = encode(tmp_path / "turned.mp4", rotation=degrees)
    for reader in ("decord", "pyav"):
        pictures = opened(path, reader).read([17, 41])
        stored = np.rot90(pictures, -degrees // 90, axes=(1, 2))
        assert numbers(stored) == [17, 41]


def test_reading_on_does_not_begin_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from data_modules.video import pyav_source

    source = open_video(encode(tmp_path / "a.mp4"), "pyav")
    source.read([0])
    opened: list[Path] = []
    sought: list[int] = []
    monkeypatch.setattr(pyav_source, "open_container", opened.append)
    monkeypatch.setattr(pyav_source._Cursor, "_seek", lambda self, start: sought.append(start))
    chunks = [source.read(range(start, start + 7)) for start in range(0, 56, 7)]
    assert numbers(np.concatenate(chunks)) == list(range(56))
    assert opened == sought == []


class _Clips(torch.utils.data.Dataset[list[int]]):
    def __init__(self, sources: list[Source]) -> None:
        self.sources = sources

    def __len__(self) -> int:
        return 8

    def __getitem__(self, item: int) -> list[int]:
        return [n for source in self.sources for n in numbers(source.read([item * 7, item, 59]))]


def test_forked_workers_and_their_parent_read_apart(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4")
    sources = [opened(path, reader) for reader in ("decord", "pyav")]
    expected = [[i * 7, i, 59] * 2 for i in range(8)]
    assert numbers(sources[1].read([30])) == numbers(sources[0].read([30])) == [30]
    fork = multiprocessing.get_context("fork")
    loader = torch.utils.data.DataLoader(
        _Clips(sources), batch_size=None, num_workers=2, multiprocessing_context=fork, timeout=60
    )
    assert list(loader) == expected
    assert numbers(sources[1].read([31, 5])) == numbers(sources[0].read([31, 5])) == [31, 5]


def test_child_that_only_drops_a_source_ends(tmp_path: Path) -> None:
    source = opened(encode(tmp_path / "a.mp4"), "decord")
    source.read([3])
    child = os.fork()
    if child == 0:
        del source
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def test_pickled_source_opens_anew(tmp_path: Path) -> None:
    for reader in ("decord", "pyav"):
        source = opened(encode(tmp_path / "a.mp4"), reader)
        source.read([50])
        again = pickle.loads(pickle.dumps(source))  # noqa: S301
        assert (again.reader, again.size, again.fps) == (source.reader, source.size, source.fps)
        assert numbers(again.read([49, 2])) == [49, 2]


def test_decord_failing_unforeseen_hands_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    decord = pytest.importorskip("decord")

    def broken(path: str) -> None:
        raise decord.DECORDError("[1:2] /src/video.cc:12: Check failed: sending packet")

    monkeypatch.setattr(decord_module, "_open_reader", broken)
    source = open_video(encode(tmp_path / "a.mp4"), "decord")
    assert numbers(source.read([7, 3])) == [7, 3]
    assert numbers(source.read([9])) == [9]
    assert source.reader == "pyav"
    assert caplog.text.count("decord fails, PyAV takes over (Check failed: sending packet)") == 1


def test_without_decord_there_is_one_notice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "decord", None)
    decord_module.decord_missing.cache_clear()
    try:
        paths = [encode(tmp_path / f"{n}.mp4", frames=5) for n in range(3)]
        sources = [open_video(path, access="sparse") for path in paths]
    finally:
        decord_module.decord_missing.cache_clear()
    assert [source.reader for source in sources] == ["pyav"] * 3
    assert caplog.text.count("decord cannot be imported") == 1
    assert numbers(sources[0].read([4, 1])) == [4, 1]


def test_writer_and_reader_agree(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", 30, SIZE) as writer:
        for number in range(20):
            writer.write(numbered(number))
    assert numbers(open_video(tmp_path / "a.mp4").read(range(20))) == list(range(20))
