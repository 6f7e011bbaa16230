"""Set pictures side by side, each under its caption."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from flowfeat.drawing.canvas import BLACK, Colour, Picture, checked, font_of, magnified, resized

PAPER: Colour = (245, 245, 245)


def panel(
    pictures: Sequence[Picture],
    captions: Sequence[str],
    title: str = "",
    columns: int | None = None,
    cell: tuple[int, int] = (256, 640),
) -> Picture:
    """Set pictures side by side in a grid, each under its caption.

    Args:
        pictures: N pictures of any sizes; each is fitted into a cell, its aspect kept.
        captions: N captions.
        title: A line above the grid.
        columns: Pictures per row; the root of N, rounded up, where omitted.
        cell: The least and the largest length of a cell's longer side: small pictures are enlarged
            by whole factors without interpolation, large ones are reduced.

    Returns:
        One picture.

    Raises:
        ValueError: No pictures, or not one caption per picture.
    """
    if not pictures or len(pictures) != len(captions):
        raise ValueError(
            f"a panel needs pictures with one caption each, found {len(pictures)} pictures "
            f"and {len(captions)} captions"
        )
    columns = columns or math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    longest = min(cell[1], max(max(checked(picture).shape[:2]) for picture in pictures))
    longest *= math.ceil(cell[0] / longest)
    fitted = [_fitted(picture, longest) for picture in pictures]
    height, width = (max(picture.shape[axis] for picture in fitted) for axis in (0, 1))
    font, strip, gap = font_of(max(12, longest // 24)), max(20, longest // 14), 6
    top = gap + (strip if title else 0)
    canvas = Image.new(
        "RGB",
        (gap + columns * (width + gap), top + rows * (strip + height + gap)),
        PAPER,
    )
    pen = ImageDraw.Draw(canvas)
    if title:
        pen.text((gap, top - strip / 2), title, fill=BLACK, font=font, anchor="lm")
    for index, (picture, caption) in enumerate(zip(fitted, captions, strict=True)):
        row, column = divmod(index, columns)
        x, y = gap + column * (width + gap), top + row * (strip + height + gap)
        pen.text((x, y + strip / 2), caption, fill=BLACK, font=font, anchor="lm")
        canvas.paste(Image.fromarray(picture), (x, y + strip))
    return np.asarray(canvas).copy()


def _fitted(picture: Picture, longest: int) -> Picture:
    """Resize until the longer side fits: sharply by a whole factor upwards, smoothly downwards."""
    factor = longest / max(picture.shape[:2])
    if factor >= 1:
        return magnified(picture, int(factor))
    height, width = (max(1, round(side * factor)) for side in picture.shape[:2])
    return resized(picture, (height, width), Image.Resampling.BOX)
