"""Written videos hold the pictures, play everywhere, and never lie there half-written."""

import re
import resource
import signal
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from flowfeat.video_writer import VideoWriter


def picture(number: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Draw a smooth, coloured picture that moves with its number."""
    y, x = np.mgrid[: size[0], : size[1]]
    channels = [np.sin((x + 3 * number) / 9), np.cos(y / 11), np.sin((x + y) / 17)]
    return (np.stack(channels, axis=-1) * 100 + 128).astype(np.uint8)


def write(
    path: Path, size: tuple[int, int] = (48, 64), frames: int = 12, **settings: object
) -> None:
    with VideoWriter(path, 30, size, **settings) as writer:  # type: ignore[arg-type]
        for number in range(frames):
            writer.write(picture(number, size))


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(10 * np.log10(255**2 / np.square(a.astype(float) - b).mean()))


@pytest.mark.parametrize("size", [(48, 64), (49, 65), (1, 3)])
def test_opencv_sees_the_pictures(tmp_path: Path, size: tuple[int, int]) -> None:
    write(tmp_path / "a.mp4", size, crf=10)
    capture = cv2.VideoCapture(str(tmp_path / "a.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 12
    height, width = size
    for number in range(12):
        shown = capture.read()[1][..., ::-1]
        assert shown.shape == (height + height % 2, width + width % 2, 3)
        if height > 1:
            assert psnr(shown[:height, :width], picture(number, size)) > 30
        if height % 2 and height > 1:
            assert psnr(shown[height, :width], picture(number, size)[-1]) > 25


def test_stream_plays_everywhere(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", 30000 / 1001, (48, 64)) as writer:
        for number in range(5):
            writer.write(picture(number, (48, 64)))
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == Fraction(30000, 1001)
        assert stream.codec_context.codec_tag == "avc1"


def test_settings_reach_the_encoder(tmp_path: Path) -> None:
    write(tmp_path / "a.avi", frames=12, codec="mpeg4", crf=3, gop=4)
    with av.open(str(tmp_path / "a.avi")) as container:
        assert container.streams.video[0].codec_context.name == "mpeg4"
        keys = [p.is_keyframe for p in container.demux(video=0) if p.size]
    assert keys == [True, False, False, False] * 3
    write(tmp_path / "fine.mp4", crf=10)
    write(tmp_path / "coarse.mp4", crf=40)
    fine, coarse = (cv2.VideoCapture(str(tmp_path / f"{n}.mp4")) for n in ("fine", "coarse"))
    first = picture(0, (48, 64))
    assert psnr(fine.read()[1][..., ::-1], first) > psnr(coarse.read()[1][..., ::-1], first) + 6


def test_a_fast_preset_keeps_the_quality(tmp_path: Path) -> None:
    """Of a textured picture that moves: as good as the encoder's own choice at the same crf."""
    rng = np.random.default_rng(0)
    wide = cv2.GaussianBlur(rng.integers(0, 256, (96, 256, 3), dtype=np.uint8), (0, 0), 1.5)
    moving = [np.ascontiguousarray(wide[:, 3 * t : 3 * t + 128]) for t in range(24)]
    quality, settings = {}, {}
    for preset in (None, "medium", "veryfast"):
        path = tmp_path / f"{preset}.mp4"
        with VideoWriter(path, 25, (96, 128), preset=preset, threads=1) as writer:
            for frame in moving:
                writer.write(frame)
        capture = cv2.VideoCapture(str(path))
        shown = [capture.read()[1][..., ::-1] for _ in moving]
        quality[preset] = np.mean([psnr(a, b) for a, b in zip(shown, moving, strict=True)])
        settings[preset] = re.search(rb"subme=(\d+)", path.read_bytes())[1]  # type: ignore[index]
    assert quality["veryfast"] > quality["medium"] - 0.5
    # x264 writes its settings into the file: effort of the search for motion within pixels.
    assert settings == {None: b"7", "medium": b"7", "veryfast": b"2"}


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
def test_one_thread_gives_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    for name in "ab":
        write(tmp_path / (name + suffix), threads=1)
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def interrupted(path: Path) -> None:
    with VideoWriter(path, 25, (48, 64)) as writer:
        writer.write(picture(0, (48, 64)))
        raise KeyError


def test_error_leaves_nothing_and_keeps_the_old_file(tmp_path: Path) -> None:
    old = tmp_path / "old.mp4"
    old.write_text("an older video")
    for path in (old, tmp_path / "new.mp4"):
        with pytest.raises(KeyError):
            interrupted(path)
    assert list(tmp_path.iterdir()) == [old]
    assert old.read_text() == "an older video"


def test_name_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.mp4"
    with VideoWriter(path, 25, (48, 64)) as writer:
        writer.write(picture(0, (48, 64)))
        assert not path.exists()
    assert list(path.parent.iterdir()) == [path]


def test_no_picture_no_video(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no picture"), VideoWriter(tmp_path / "a.mp4", 25, (4, 4)):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"fps": 0}, "fps 0"),
        ({"size": (0, 4)}, "size"),
        ({"crf": 52}, r"0 \.\. 51"),
        ({"gop": 0}, "gop 0"),
        ({"preset": "quick"}, "preset quick: expected one of ultrafast, .*, placebo"),
        ({"preset": "fast", "codec": "mpeg4", "crf": 4}, "preset fast: mpeg4 has none"),
        ({"codec": "cinepakk"}, "cinepakk"),
        ({"codec": "aac"}, "aac"),
        ({"path": "a.pictures"}, "cannot be written"),
    ],
)
def test_wrong_settings(tmp_path: Path, settings: dict[str, object], words: str) -> None:
    path = tmp_path / str(settings.pop("path", "a.mp4"))
    with pytest.raises(ValueError, match=words) as caught:
        VideoWriter(**{"path": path, "fps": 25, "size": (4, 4)} | settings)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_wrong_pictures(tmp_path: Path) -> None:
    good = picture(0, (48, 64))
    for wrong in (good[:-1], good[..., 0], good.astype(np.float32) / 255):
        with (
            pytest.raises(ValueError, match=r"expected \(48, 64, 3\) uint8"),
            VideoWriter(tmp_path / "a.mp4", 25, (48, 64)) as writer,
        ):
            writer.write(wrong)
    assert not list(tmp_path.iterdir())


def test_folder_that_cannot_be_written() -> None:
    with pytest.raises(OSError, match=r"/proc/a\.mp4"):
        VideoWriter("/proc/a.mp4", 25, (4, 4))


def too_much(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 96, 128, 3), dtype=np.uint8)
    with VideoWriter(path, 25, (96, 128), crf=5) as writer:
        for frame in noise:
            writer.write(frame)


def test_full_disk(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"a\.mp4: this video cannot be written"):
            too_much(tmp_path / "a.mp4")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())
