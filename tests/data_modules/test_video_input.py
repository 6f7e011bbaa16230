"""Every wrong or damaged video ends with one clear line that names the file."""

import logging
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from data_modules.video import open_video
from flowfeat.video_writer import VideoWriter

SIZE = (48, 64)


def grey(level: int) -> NDArray[np.uint8]:
    return np.full((*SIZE, 3), level, np.uint8)


def noise(number: int) -> NDArray[np.uint8]:
    return np.random.default_rng(number).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def video(path: Path, frames: int = 30, **settings: object) -> Path:
    with VideoWriter(path, 25, SIZE, **settings) as writer:  # type: ignore[arg-type]
        for number in range(frames):
            writer.write(noise(number))
    return path


def streamable(path: Path) -> bytes:
    """Copy a video into an MP4 whose index stands before the pictures."""
    target = path.with_name("streamable.mp4")
    with av.open(str(path)) as source, av.open(str(target), "w", options={
        "movflags": "faststart"
    }) as sink:  # fmt: skip
        stream = sink.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                sink.mux(packet)
    return target.read_bytes()


def refuses(path: Path, words: str, kind: type[Exception] = ValueError, **settings: object) -> None:
    with pytest.raises(kind) as caught:
        open_video(path, **settings)  # type: ignore[arg-type]
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    assert words in text


def test_no_such_file(tmp_path: Path) -> None:
    refuses(tmp_path / "absent.mp4", "no such video file", FileNotFoundError)
    refuses(tmp_path / "absent.mp4", "no such video file", FileNotFoundError, reader="pyav")


@pytest.mark.parametrize("name", ["notes.txt", "notes.mp4", "notes"])
def test_text_is_not_a_video(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("These are not the frames that you are looking for.\n" * 50)
    refuses(tmp_path / name, "not a video")


def test_empty_file_and_picture_and_sound(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    refuses(tmp_path / "empty.mp4", "not a video")
    cv2.imwrite(str(tmp_path / "one.png"), noise(0))
    refuses(tmp_path / "one.png", "not a video")
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
    refuses(tmp_path / "sound.wav", "no video stream")


def test_folders(tmp_path: Path) -> None:
    refuses(tmp_path, "without pictures")
    cv2.imwrite(str(tmp_path / "0.png"), grey(1))
    cv2.imwrite(str(tmp_path / "1.png"), grey(2)[:-1])
    (tmp_path / "2.png").write_text("torn")
    source = open_video(tmp_path)
    with pytest.raises(ValueError, match=r"1\.png: a frame of \(47, 64\) .* with \(48, 64\)"):
        source.read([0, 1])
    with pytest.raises(ValueError, match=r"2\.png: not a picture"):
        source.read([2])
    refuses(tmp_path, "cannot read", reader="pyav")
    refuses(tmp_path / "0.png", "no such folder", FileNotFoundError, reader="folder")


@pytest.mark.parametrize("reader", ["auto", "pyav", "folder"])
def test_indices_outside(tmp_path: Path, reader: str) -> None:
    if reader == "folder":
        path = tmp_path
        for number in range(5):
            cv2.imwrite(str(path / f"{number}.png"), grey(9))
    else:
        path = video(tmp_path / "a.mp4", 5)
    source = open_video(path, reader)
    for index in (-1, 5, 99):
        with pytest.raises(IndexError, match=rf"frame {index} is outside 0 \.\. 4") as caught:
            source.read([0, index, 1])
        assert str(path) in str(caught.value)
    assert source.read([]).shape == (0, *SIZE, 3)


def test_settings(tmp_path: Path) -> None:
    path = video(tmp_path / "a.mp4", 3)
    with pytest.raises(ValueError, match="auto, decord, pyav, folder"):
        open_video(path, "opencv")
    for fps in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="fps"):
            open_video(path, fps=fps)
    assert open_video(path, fps=12).fps == 12


def test_zero_frames(tmp_path: Path) -> None:
    data = streamable(video(tmp_path / "a.mp4"))
    path = tmp_path / "cut.mp4"
    path.write_bytes(data[: data.index(b"mdat") + 60])
    refuses(path, "zero frames")


def test_truncated_video_counts_what_decodes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = video(tmp_path / "a.mp4")
    data = streamable(whole)
    path = tmp_path / "cut.mp4"
    path.write_bytes(data[: len(data) * 6 // 10])
    expected = open_video(whole, "pyav").read(range(30))
    with caplog.at_level(logging.WARNING):
        source = open_video(path)
        open_video(path)
    assert source.reader == "pyav"
    assert 5 < len(source) < 25
    assert caplog.text.count(str(path)) == 1
    held = len(source) - len(source.holes)  # type: ignore[attr-defined]
    assert f"30 frames are announced, {held} can be decoded" in caplog.text
    # The last frames before the cut lack those they refer to.
    shown = source.read(range(len(source)))
    assert (shown[: len(source) - 4] == expected[: len(source) - 4]).all()


def test_truncated_before_the_index(tmp_path: Path) -> None:
    path = video(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes()[:-3000])
    refuses(path, "not a video that can be read")


def test_damaged_sample_is_reported_once(samples: Path, caplog: pytest.LogCaptureFixture) -> None:
    from data_modules.video import probe

    probe._probe.cache_clear()
    for _ in range(3):
        assert len(open_video(samples / "video/corrupted.mp4")) == 50
    words = "50 frames are announced, 49 can be decoded; 1 of 50 frames are holes (30)"
    assert caplog.text.count(words) == 1


def test_frame_that_fails_unforeseen_shows_its_neighbour(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = video(tmp_path / "a.mp4", gop=10, threads=1)
    source = open_video(path, "pyav")
    whole = source.read(range(30))
    packets = source.index.packets  # type: ignore[attr-defined]
    assert packets.pts.argmax() == 29  # nothing refers to the last packet
    with av.open(str(path)) as container:
        packet = list(container.demux(video=0))[29]
        start, size = packet.pos, packet.size
    data = bytearray(path.read_bytes())
    data[start + 5 : start + size] = bytes(size - 5)  # its type stays, its slice header is gone
    path.write_bytes(data)
    damaged = open_video(path, "pyav")
    assert len(damaged) == 30  # nothing in the packets' frames tells
    for _ in range(2):
        shown = damaged.read([28, 29, 5])
        assert (shown == whole[[28, 28, 5]]).all()
    assert caplog.text.count("frame 29 cannot be decoded") == 1


def test_wrongly_read_files_are_refused_to_decord(samples: Path) -> None:
    name = "hmdb51/wave/RATRACE_wave_f_nm_np1_fr_goo_37.avi"
    pytest.importorskip("decord")
    refuses(samples / name, "packed B-frames", reader="decord")
    refuses(samples / "video/nasa_13013.mp4", "largest", reader="decord")
