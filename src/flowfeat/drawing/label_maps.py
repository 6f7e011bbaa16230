"""Lay a label map over its picture: a colour per class, and a legend of the classes that show."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from flowfeat.drawing.boxes import class_colour, mark_key
from flowfeat.drawing.canvas import (
    Colour,
    Picture,
    checked,
    font_of,
    letter_height,
    magnified,
    write_plate,
)

LabelMap = NDArray[np.uint8]
"""(H, W), 0 .. number of classes - 1; 255 has no colour."""

STREET: dict[str, Colour] = {
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "building": (70, 70, 70),
    "wall": (102, 102, 156),
    "fence": (190, 153, 153),
    "pole": (153, 153, 153),
    "traffic light": (250, 170, 30),
    "traffic sign": (220, 220, 0),
    "vegetation": (107, 142, 35),
    "terrain": (152, 251, 152),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "rider": (255, 0, 0),
    "car": (0, 0, 142),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "train": (0, 80, 100),
    "motorcycle": (0, 0, 230),
    "bicycle": (119, 11, 32),
}
"""The colours in which street scenes are usually shown."""

_BLANK = 255  # label without colour

BACKGROUND = "background"
"""A class of this name has no colour either: the rest of the picture is to be seen."""


def label_colours(classes: Sequence[str]) -> NDArray[np.uint8]:
    """Return colours (256, 3) by label: the usual ones of street scenes, else bright ones."""
    table = np.zeros((256, 3), np.uint8)
    for label, name in enumerate(classes):
        table[label] = STREET.get(name, class_colour(label))
    return table


def draw_label_map(
    picture: Picture,
    labels: LabelMap,
    classes: Sequence[str],
    opacity: float = 0.55,
    key: bool | None = None,
    zoom: int = 1,
    legend: bool = True,
) -> Picture:
    """Colour a picture by its label map, except for a class named background.

    Args:
        picture: (H, W, 3) uint8.
        labels: (H, W) uint8, 0 .. len(classes) - 1; the picture shows through 255 unchanged.
        classes: Name of each label.
        opacity: Of the colours, 0..1.
        key: Whether this is a key frame, shown in the upper right corner; None shows nothing.
        zoom: Whole factor by which the picture is magnified first, for small ones.
        legend: Name the classes on plates of their colours, those with the most pixels on top, as
            many as have room.

    Returns:
        A new picture (zoom * H, zoom * W, 3).

    Raises:
        ValueError: ``picture`` is not (H, W, 3) uint8, ``labels`` is not (H, W) uint8 of the same
            size or holds other labels, ``opacity`` is outside 0..1, or ``zoom`` is below 1.
    """
    if labels.shape != checked(picture).shape[:2] or labels.dtype != np.uint8:
        raise ValueError(
            f"a label map must be {picture.shape[:2]} uint8 as its picture is, "
            f"found {labels.shape} {labels.dtype}"
        )
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity={opacity}: expected 0..1")
    counts = np.bincount(labels.ravel(), minlength=256)
    unknown = np.flatnonzero(counts[len(classes) : _BLANK])
    if len(unknown):
        raise ValueError(
            f"label {unknown[0] + len(classes)}: expected 0 .. {len(classes) - 1} or {_BLANK}"
        )
    colours = label_colours(classes)
    clear = [label for label, name in enumerate(classes) if name == BACKGROUND]
    shown = ~np.isin(labels, [_BLANK, *clear])
    mixed = picture[shown] * (1 - opacity) + colours[labels[shown]] * opacity
    overlaid = picture.copy()
    overlaid[shown] = np.rint(mixed).astype(np.uint8)
    canvas = Image.fromarray(magnified(overlaid, zoom))
    if legend:
        counts[clear] = 0
        _write_legend(canvas, counts[: len(classes)], classes, colours)
    if key is not None:
        mark_key(canvas, key)
    return np.asarray(canvas).copy()


def _write_legend(
    canvas: Image.Image,
    counts: NDArray[np.int64],
    classes: Sequence[str],
    colours: NDArray[np.uint8],
) -> None:
    pen, font = ImageDraw.Draw(canvas), font_of(letter_height(canvas.size))
    high = int(pen.textbbox((0, 0), "Ag", font=font)[3]) + 3
    order = [int(n) for n in np.argsort(-counts, kind="stable") if counts[n]]
    for row, label in enumerate(order[: canvas.height // high]):
        red, green, blue = colours[label].tolist()
        plate = (red, green, blue)
        corner = (0, row * high)
        write_plate(pen, classes[label], corner, font, plate, canvas.size, above=False)
