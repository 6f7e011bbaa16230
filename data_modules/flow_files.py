"""Read and write the files of Flying Chairs: `.flo` flow fields and binary `.ppm` pictures."""

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MAGIC = np.float32(202021.25).tobytes()
"""The first four bytes of a `.flo` file, in either reading: a number, or the letters PIEH."""

UNKNOWN = 1e9
"""From here on a component says, by the format's own rule, that the flow is not known."""

_GAP = rb"(?:\s|#[^\n]*\n)+"  # between the fields of a PPM header: blanks, newlines, comments
_HEADER = re.compile(
    rb"P6" + _GAP + rb"(\d+)" + _GAP + rb"(\d+)" + _GAP + rb"(\d+)(?:#[^\n]*\n|\s)"
)


def read_flo(path: Path) -> NDArray[np.float32]:
    """Read a flow field (H, W, 2): (dx, dy) in pixels, NaN where it is not known.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Another magic number, sides below 1, or a length that does not fit them.
    """
    content = path.read_bytes()
    if content[:4] != MAGIC:
        raise ValueError(
            f"{path}: not a .flo file, expected it to begin with {MAGIC!r}, found {content[:4]!r}"
        )
    if len(content) < 12:
        raise ValueError(f"{path}: expected a header of 12 bytes, found {len(content)} bytes")
    width, height = (int(side) for side in np.frombuffer(content, "<i4", 2, offset=4))
    if width < 1 or height < 1:
        raise ValueError(f"{path}: expected sides of 1 or more, found {width} x {height}")
    expected = 12 + 8 * width * height
    if len(content) != expected:
        raise ValueError(
            f"{path}: expected {expected} bytes for a flow of {width} x {height}, "
            f"found {len(content)}"
        )
    flow = np.frombuffer(content, "<f4", offset=12).reshape(height, width, 2)
    # Not 1e9: interpolated, that would spoil what is known beside it.
    return np.where(np.abs(flow) < UNKNOWN, flow, np.nan).astype(np.float32)


def write_flo(path: Path, flow: NDArray[np.float32]) -> None:
    """Write a flow field (H, W, 2).

    Raises:
        ValueError: Another shape.
    """
    if flow.ndim != 3 or flow.shape[2] != 2:
        raise ValueError(f"{path}: expected a flow of shape (H, W, 2), found {flow.shape}")
    sides = np.array([flow.shape[1], flow.shape[0]], "<i4")
    path.write_bytes(MAGIC + sides.tobytes() + np.ascontiguousarray(flow, "<f4").tobytes())


def read_ppm(path: Path) -> NDArray[np.uint8]:
    """Read a binary PPM (H, W, 3) RGB, its header on one line or on several, with comments or not.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Another format or depth, or a length that does not fit the sides.
    """
    content = path.read_bytes()
    header = _HEADER.match(content)
    if header is None:
        raise ValueError(
            f"{path}: not a binary PPM, expected a header 'P6 width height 255', "
            f"found {content[:16]!r}"
        )
    width, height, depth = (int(field) for field in header.groups())
    if depth != 255 or width < 1 or height < 1:
        raise ValueError(
            f"{path}: expected a width and height of 1 or more and the maximum 255, "
            f"found {width}, {height} and {depth}"
        )
    found = len(content) - header.end()
    if found != 3 * width * height:
        raise ValueError(
            f"{path}: expected {3 * width * height} bytes of pixels for {width} x {height}, "
            f"found {found}"
        )
    pixels = np.frombuffer(content, np.uint8, offset=header.end())
    return pixels.reshape(height, width, 3).copy()


def write_ppm(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write a picture (H, W, 3) RGB, with the header on three lines.

    Raises:
        ValueError: Another shape.
    """
    if picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"{path}: expected a picture of shape (H, W, 3), found {picture.shape}")
    height, width = picture.shape[:2]
    header = f"P6\n{width} {height}\n255\n".encode()
    path.write_bytes(header + np.ascontiguousarray(picture, np.uint8).tobytes())
