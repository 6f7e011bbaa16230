"""Degraded frames are what FFmpeg's command line makes, in order, at any size and length."""

import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from data_modules.degrade_codecs import PINNED, Degradation, ffmpeg
from data_modules.pictures import read_picture, write_png
from data_modules.synthetic.scenes import Scene, SceneSettings

ALL = (Degradation("jpeg2000", 20), Degradation("h264", 37), Degradation("h265", 37))


def frames(length: int, size: tuple[int, int] = (64, 80)) -> np.ndarray:
    scene = Scene(5, SceneSettings(size=size, noise=0, brightness=0, pan=(0.03, 0.03)))
    return np.stack([scene.render(t).image for t in range(length)])


def degraded(degradation: Degradation, clean: np.ndarray) -> np.ndarray:
    chunks = [clean[t : t + 3] for t in range(0, len(clean), 3)]
    return np.stack(list(degradation(chunks, clean.shape[1:3])))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(peak_signal_noise_ratio(a, b, data_range=255))


def test_the_pinned_binary_is_the_one_that_runs() -> None:
    assert ffmpeg().version.startswith(PINNED)


@pytest.mark.parametrize("quality", [20, 40])
def test_jpeg2000_is_toflows_command_to_the_bit(tmp_path: Path, quality: int) -> None:
    clean = frames(3)
    for number, frame in enumerate(clean, start=1):
        write_png(tmp_path / f"im{number}.png", frame)
    run = [ffmpeg().path, "-loglevel", "error", "-i"]
    encode = [*run, "im%d.png", "-c:v", "jpeg2000", "-q:v", str(quality), "-format", "j2k", "x.mov"]
    subprocess.run(encode, cwd=tmp_path, check=True)
    (tmp_path / "out").mkdir()
    subprocess.run([*run, "x.mov", "out/im%d.png"], cwd=tmp_path, check=True)
    found = degraded(Degradation("jpeg2000", quality), clean)
    for number, frame in enumerate(found, start=1):
        np.testing.assert_array_equal(frame, read_picture(tmp_path / f"out/im{number}.png"))


@pytest.mark.parametrize("degradation", ALL, ids=lambda d: d.codec)
@pytest.mark.parametrize(("length", "size"), [(1, (33, 47)), (2, (64, 80)), (9, (49, 64))])
def test_every_frame_comes_back_at_its_place(
    degradation: Degradation, length: int, size: tuple[int, int]
) -> None:
    clean = frames(length, size)
    found = degraded(degradation, clean)
    assert found.shape == clean.shape
    scores = np.array([[psnr(c, f) for c in clean] for f in found])
    assert scores.argmax(axis=1).tolist() == list(range(length))
    assert scores.diagonal().min() > 20
    assert scores.diagonal().max() < 45


@pytest.mark.parametrize("codec", ["jpeg2000", "h264", "h265"])
def test_higher_is_worse_and_the_same_again(codec: str) -> None:
    clean = frames(4)
    better, worse = degraded(Degradation(codec, 20), clean), degraded(Degradation(codec, 40), clean)
    assert psnr(clean, better) > psnr(clean, worse) + 1
    np.testing.assert_array_equal(worse, degraded(Degradation(codec, 40), clean))


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_colours_survive_the_way_to_yuv_and_back(codec: str) -> None:
    flat = np.broadcast_to(np.array([200, 40, 90], np.uint8), (2, 32, 32, 3))
    found = degraded(Degradation(codec, 10), flat)
    assert np.abs(found.astype(int) - flat).max() <= 4


@pytest.mark.parametrize(
    ("codec", "quality", "line"),
    [
        ("vp9", 20, "data.codec=vp9: expected one of jpeg2000, h264, h265"),
        ("jpeg2000", 0, "data.quality=0: expected 1 .. 255 for jpeg2000"),
        ("h264", 52, "data.quality=52: expected 0 .. 51 for h264"),
    ],
)
def test_wrong_values_are_refused(codec: str, quality: int, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        Degradation(codec, quality)


def test_names_say_codec_and_quality() -> None:
    assert [d.name for d in ALL] == ["jpeg2000_q20", "h264_crf37", "h265_crf37"]


def test_what_ffmpeg_cannot_do_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Degradation, "arguments", ["-c:v", "no_such_codec"])
    with pytest.raises(OSError, match=r"^FFmpeg \S+ failed: Unknown encoder 'no_such_codec'$"):
        degraded(Degradation(), frames(40, (128, 160)))  # more than a pipe holds


def test_no_process_outlives_an_error() -> None:
    def broken() -> object:
        yield frames(2)
        raise ValueError("the second chunk")

    with pytest.raises(ValueError, match="the second chunk"):
        list(Degradation()(broken(), (64, 80)))  # type: ignore[arg-type]


def test_input_psnr_of_the_real_septuplets(samples: Path) -> None:
    """The pinned binary on 448x256 photographs: what TOFlow's setting means today."""
    folder = samples / "vimeo_septuplet/sequences/00001/0001"
    clean = np.stack([read_picture(folder / "im4.png")])
    scores = [psnr(clean, degraded(Degradation("jpeg2000", q), clean)) for q in (20, 40)]
    assert scores == pytest.approx([34.65, 32.54], abs=0.01)


def test_opencv_reads_what_ffmpeg_codes(tmp_path: Path) -> None:
    """An independent decoder (OpenJPEG) sees the same picture to within a level or so."""
    clean = frames(1)
    write_png(tmp_path / "a.png", clean[0])
    words = ["-c:v", "jpeg2000", "-q:v", "20", "-format", "j2k", "-f", "image2", "a.j2k"]
    run = [ffmpeg().path, "-loglevel", "error", "-i", "a.png", *words]
    subprocess.run(run, cwd=tmp_path, check=True)
    decoded = cv2.imread(str(tmp_path / "a.j2k"))[..., ::-1]
    assert np.abs(decoded.astype(int) - degraded(Degradation(), clean)[0]).max() <= 2
