"""`.flo` and `.ppm`: checked against OpenCV's own reader and writer, and refused when broken."""

import struct

import cv2
import numpy as np
import pytest

from data_modules.flow_files import read_flo, read_ppm, write_flo, write_ppm

RNG = np.random.default_rng(0)
FLOW = RNG.normal(size=(5, 7, 2)).astype(np.float32)
PICTURE = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)


def test_flo_is_what_opencv_reads_and_writes(tmp_path):
    write_flo(tmp_path / "ours.flo", FLOW)
    np.testing.assert_array_equal(cv2.readOpticalFlow(str(tmp_path / "ours.flo")), FLOW)
    cv2.writeOpticalFlow(str(tmp_path / "theirs.flo"), FLOW)
    np.testing.assert_array_equal(read_flo(tmp_path / "theirs.flo"), FLOW)


def test_ppm_is_what_opencv_reads_and_writes(tmp_path):
    write_ppm(tmp_path / "ours.ppm", PICTURE)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "ours.ppm"))[..., ::-1], PICTURE)
    cv2.imwrite(str(tmp_path / "theirs.ppm"), np.ascontiguousarray(PICTURE[..., ::-1]))
    np.testing.assert_array_equal(read_ppm(tmp_path / "theirs.ppm"), PICTURE)


@pytest.mark.parametrize(
    "header", [b"P6 7 5 255\n", b"P6\n7 5\n255\n", b"P6\n# by hand\n7  5 # sides\n255\n"]
)
def test_both_header_styles_and_comments(header, tmp_path):
    path = tmp_path / "x.ppm"
    pixels = PICTURE.copy()
    pixels[0, 0] = ord("\n"), ord("#"), ord(" ")  # the header ends where the pixels begin
    path.write_bytes(header + pixels.tobytes())
    np.testing.assert_array_equal(read_ppm(path), pixels)


def flo(magic=202021.25, width=7, height=5, values=70) -> bytes:
    return struct.pack("<fii", magic, width, height) + b"\0" * 4 * values


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (flo(magic=1.0), "not a .flo file, expected it to begin with b'PIEH', found "),
        (b"", "not a .flo file"),
        (flo()[:9], "expected a header of 12 bytes, found 9"),
        (flo(width=-7), "expected sides of 1 or more, found -7 x 5"),
        (flo(values=69), "expected 292 bytes for a flow of 7 x 5, found 288"),
        (flo(values=71), "expected 292 bytes for a flow of 7 x 5, found 296"),
    ],
)
def test_a_broken_flo_is_one_line(content, said, tmp_path):
    path = tmp_path / "00001_flow.flo"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=said) as refusal:
        read_flo(path)
    assert str(refusal.value).startswith(str(path))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"P6 7 5 255\n" + b"\0" * 104, "expected 105 bytes of pixels for 7 x 5, found 104"),
        (b"P6 7 5 255\n" + b"\0" * 106, "expected 105 bytes of pixels for 7 x 5, found 106"),
        (b"P6\n7 5", "not a binary PPM, expected a header"),
        (b"P3 7 5 255\n", "not a binary PPM, expected a header"),
        (b"P6 7 5 65535\n", "maximum 255, found 7, 5 and 65535"),
        (b"", "not a binary PPM"),
    ],
)
def test_a_broken_ppm_is_one_line(content, said, tmp_path):
    path = tmp_path / "00001_img1.ppm"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=said) as refusal:
        read_ppm(path)
    assert str(refusal.value).startswith(str(path))
    assert "\n" not in str(refusal.value)


def test_other_shapes_are_not_written(tmp_path):
    with pytest.raises(ValueError, match=r"expected a flow of shape \(H, W, 2\)"):
        write_flo(tmp_path / "x.flo", FLOW.transpose(2, 0, 1))
    with pytest.raises(ValueError, match=r"expected a picture of shape \(H, W, 3\)"):
        write_ppm(tmp_path / "x.ppm", PICTURE[..., :2])
