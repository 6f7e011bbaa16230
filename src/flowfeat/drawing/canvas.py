"""Pictures as arrays, and letters on plates that grow with the picture.

Pictures are (H, W, 3) RGB uint8 arrays; no function of this package changes its input.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

WHITE: Colour = (255, 255, 255)
BLACK: Colour = (0, 0, 0)


def picture_of(frame: Tensor) -> Picture:
    """Turn a frame (3, H, W), RGB in [0, 1], on any device, into a picture."""
    levels = (frame.detach().float().clamp(0, 1) * 255).round().byte()
    return levels.permute(1, 2, 0).contiguous().cpu().numpy()


def checked(picture: Picture) -> Picture:
    """Return the picture itself; ValueError unless it is (H, W, 3) uint8."""
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise ValueError(
            f"a picture must be (H, W, 3) uint8, found {picture.shape} {picture.dtype}"
        )
    return picture


def line_width(size: tuple[int, int]) -> int:
    """Return the width of lines for a picture of this size (1 pixel up to 540 rows, 3 at 1080)."""
    return max(1, round(min(size) / 360))


def letter_height(size: tuple[int, int]) -> int:
    """Return the font size for a picture of this size: 9 at least, 28 at 1080 rows."""
    return max(9, round(4 + min(size) / 45))


@lru_cache(maxsize=32)
def font_of(height: int) -> Font:
    """Return Pillow's own font, which needs no file; made once per size."""
    return ImageFont.load_default(height)


def resized(picture: Picture, size: tuple[int, int], how: Image.Resampling) -> Picture:
    """Resize to (height, width)."""
    return np.asarray(Image.fromarray(picture).resize((size[1], size[0]), how)).copy()


def magnified(picture: Picture, zoom: int) -> Picture:
    """Repeat every pixel ``zoom`` times each way; ValueError where ``zoom`` is below 1."""
    if zoom < 1:
        raise ValueError(f"zoom must be a whole number of at least 1, found {zoom}")
    checked(picture)
    return picture if zoom == 1 else picture.repeat(zoom, axis=0).repeat(zoom, axis=1)


def write_plate(
    pen: ImageDraw.ImageDraw,
    text: str,
    corner: tuple[float, float],
    font: Font,
    plate: Colour,
    size: tuple[int, int],
    above: bool,
) -> None:
    """Write a text on a plate that touches a corner, moved so that all of it is in the picture."""
    _, _, right, bottom = pen.textbbox((0, 0), text, font=font)
    wide, high = right + 3, bottom + 2
    x = max(0, min(corner[0], size[0] - wide))
    y = corner[1] - high if above and corner[1] >= high else max(0, min(corner[1], size[1] - high))
    pen.rectangle((x, y, x + wide - 1, y + high - 1), fill=plate)
    bright = 0.299 * plate[0] + 0.587 * plate[1] + 0.114 * plate[2]
    pen.text((x + 2, y), text, fill=BLACK if bright > 110 else WHITE, font=font)
