"""Pictures are read as they are, or refused in one line: grey, 16 bits, cut short, other sizes."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from data_modules.pictures import (
    PictureSource,
    picture_names,
    read_picture,
    read_pictures,
    write_png,
)


def picture(seed: int = 0, size: tuple[int, int] = (40, 56)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def save(path: Path, stored: np.ndarray) -> Path:
    assert cv2.imwrite(str(path), stored)
    return path


def cut(path: Path, share: float) -> Path:
    short = path.with_name(f"short_{path.name}")
    data = path.read_bytes()
    short.write_bytes(data[: int(len(data) * share)])
    return short


def test_png_comes_back_exactly_and_in_rgb_order(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", picture())
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), picture())
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), picture())


@pytest.mark.parametrize(
    ("stored", "found"),
    [
        (picture().astype(np.uint16) * 257, "16-bit RGB"),
        (picture()[..., 0], "8-bit grey"),
        (picture()[..., 0].astype(np.uint16), "16-bit grey"),
        (np.dstack([picture(), picture()[..., 0]]), "8-bit RGB with alpha"),
    ],
)
def test_other_kinds_are_refused(tmp_path: Path, stored: np.ndarray, found: str) -> None:
    path = save(tmp_path / "a.png", stored)
    with pytest.raises(ValueError, match=rf"a.png: expected an 8-bit RGB picture, found {found}$"):
        read_picture(path)


def test_a_grey_jpeg_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", picture()[..., 0])
    with pytest.raises(ValueError, match="found 8-bit grey"):
        read_picture(path)


@pytest.mark.parametrize("ending", ["png", "jpg", "jp2"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_files_cut_short_are_refused(tmp_path: Path, ending: str, share: float) -> None:
    whole = save(tmp_path / f"a.{ending}", picture())
    assert read_picture(whole).shape == (40, 56, 3)
    with pytest.raises(ValueError, match=rf"short_a.{ending}: not a picture .* cut short"):
        read_picture(cut(whole, share))


def test_the_real_jpeg2000_files(samples: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("cat-111793_640", "cat-300572_640"):
        lossy = read_picture(samples / "jp2" / f"{name}.jp2").astype(float)
        error = np.mean((lossy - read_picture(samples / "jp2" / f"{name}.png")) ** 2)
        assert 40.5 <= 10 * np.log10(255**2 / error) <= 42.5
    with pytest.raises(ValueError, match=r"not_enough_data.jp2: not a picture"):
        read_picture(samples / "jp2/not_enough_data.jp2")
    assert capfd.readouterr().err == ""  # OpenCV says nothing of its own


def test_pictures_of_one_folder_have_one_size(tmp_path: Path) -> None:
    write_png(tmp_path / "im1.png", picture())
    write_png(tmp_path / "im2.png", picture(size=(40, 48)))
    with pytest.raises(ValueError, match=r"im2.png: 48x40 pixels: expected 56x40, .* of im1.png"):
        read_pictures(tmp_path, ["im1.png", "im2.png"])
    with pytest.raises(FileNotFoundError, match=r"im3.png: no such picture"):
        read_pictures(tmp_path, ["im1.png", "im3.png"])


def test_a_folder_is_a_video_in_natural_order(tmp_path: Path) -> None:
    for number in (2, 10, 1):
        write_png(tmp_path / f"f{number}.png", np.full((8, 9, 3), number, np.uint8))
    (tmp_path / "notes.txt").write_text("")
    assert picture_names(tmp_path) == ("f1.png", "f2.png", "f10.png")
    source = PictureSource(tmp_path)
    assert (len(source), source.size) == (3, (8, 9))
    assert source.read([2, 0, 2])[:, 0, 0, 0].tolist() == [10, 1, 10]
    with pytest.raises(IndexError, match="frame 3"):
        source.read([3])
    write_png(tmp_path / "f3.png", picture())
    with pytest.raises(ValueError, match=r"f3.png: 56x40 pixels: expected 9x8"):
        PictureSource(tmp_path).read([2])


def test_one_picture_is_a_video_of_one_frame(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", picture())
    write_png(tmp_path / "b.png", picture(1))
    source = PictureSource(tmp_path / "b.png")
    assert len(source) == 1
    np.testing.assert_array_equal(source.read([0])[0], picture(1))


def test_an_empty_folder_is_no_video(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a folder without pictures"):
        PictureSource(tmp_path)
