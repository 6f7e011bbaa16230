"""A folder of pictures is a video in the natural order of their names."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from data_modules.video import Source, open_video
from data_modules.video.folder_source import read_picture


def test_folder_is_in_natural_order(tmp_path: Path) -> None:
    suffixes = [".png", ".ppm", ".PNG"]
    for number in range(12):
        name = f"f{number}{suffixes[number % 3]}"
        cv2.imwrite(str(tmp_path / name), np.full((4, 6, 3), 20 * number, np.uint8))
    (tmp_path / "._f3.png").write_text("a file that some systems leave")
    (tmp_path / "notes.txt").write_text("no picture")
    source = open_video(tmp_path)
    assert isinstance(source, Source)
    assert (len(source), source.fps, source.size, source.reader) == (12, 25.0, (4, 6), "folder")
    wanted = [11, 0, 9, 10, 10]
    assert (source.read(wanted)[:, 0, 0, 0] // 20).tolist() == wanted
    assert open_video(tmp_path, fps=8).fps == 8


def test_folder_is_rgb(tmp_path: Path) -> None:
    picture = np.zeros((4, 6, 3), np.uint8)
    picture[..., 2] = 255  # red, in OpenCV's order
    cv2.imwrite(str(tmp_path / "0.png"), picture)
    assert open_video(tmp_path).read([0])[0, 0, 0].tolist() == [255, 0, 0]


def test_real_frame_folder(samples: Path) -> None:
    folder = samples / "ILSVRC2015/Data/VID/val/ILSVRC2015_val_00007010"
    source = open_video(folder)
    assert (len(source), source.size) == (96, (720, 1280))
    expected = cv2.imread(str(folder / "000095.JPEG"))[..., ::-1]
    assert (source.read([95])[0] == expected).all()


def test_a_jpeg_that_was_cut_short_is_no_picture(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole, cut = tmp_path / "whole.jpg", tmp_path / "cut.jpg"
    cv2.imwrite(str(whole), rng.integers(0, 256, (48, 64, 3), np.uint8))
    np.testing.assert_array_equal(read_picture(whole), cv2.imread(str(whole))[..., ::-1])
    cut.write_bytes(whole.read_bytes()[:-40])
    assert cv2.imread(str(cut)) is not None  # which is why it has to be looked for
    with pytest.raises(ValueError, match=r"cut\.jpg: cut short"):
        read_picture(cut)
    cut.write_bytes(b"")
    with pytest.raises(ValueError, match=r"cut\.jpg: not a picture that can be read"):
        read_picture(cut)
