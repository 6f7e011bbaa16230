"""Draw boxes with classes and scores, and mark key frames.

Drawn with Pillow itself: ``torchvision.utils.draw_bounding_boxes`` needs a font file for letters of
another size than its fixed one, and converts a full HD picture several times.
"""

import colorsys
import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from flowfeat.drawing.canvas import (
    BLACK,
    WHITE,
    Colour,
    Picture,
    checked,
    font_of,
    letter_height,
    line_width,
    magnified,
    write_plate,
)
from flowfeat.interfaces import Detections

KEY: Colour = (255, 196, 0)

SHOWN_FROM = 0.3
"""Least score of detections in pictures, unless another is asked for."""


def class_colour(label: int) -> Colour:
    """Return a bright colour per class, always the same; neighbours lie far apart on the wheel."""
    golden = (math.sqrt(5) - 1) / 2
    red, green, blue = colorsys.hsv_to_rgb((0.33 + label * golden) % 1, 0.85, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_boxes(
    picture: Picture,
    boxes: Tensor,
    colours: Sequence[Colour],
    texts: Sequence[str] | None = None,
) -> Picture:
    """Outline boxes, later ones on top, each with its text on a plate of its colour.

    Args:
        picture: (H, W, 3) uint8.
        boxes: (N, 4) xyxy, half-open, in pixels of the picture. The line lies inside the box. Boxes
            that miss the picture or are not finite are left out.
        colours: N colours.
        texts: N texts; none where omitted or empty.

    Returns:
        A new picture of the same size.

    Raises:
        ValueError: ``picture`` is not (H, W, 3) uint8.
    """
    canvas = Image.fromarray(checked(picture))
    _outline(canvas, boxes, colours, texts if texts is not None else [""] * len(boxes))
    return np.asarray(canvas).copy()


def draw_detections(
    picture: Picture,
    detections: Detections,
    classes: Sequence[str],
    threshold: float = SHOWN_FROM,
    truth: Tensor | None = None,
    key: bool | None = None,
    zoom: int = 1,
) -> Picture:
    """Draw detections with class and score, the most certain on top.

    Args:
        picture: (H, W, 3) uint8.
        detections: In pixels of the picture.
        classes: Name of each label.
        threshold: Detections of a lower score are left out.
        truth: (G, 4) ground truth boxes, drawn as white lines under the detections.
        key: Whether this is a key frame, shown in the upper right corner: a full disc with the word
            for a key frame, a ring for any other; None shows neither.
        zoom: Whole factor by which the picture is magnified first, for small ones.

    Returns:
        A new picture (zoom * H, zoom * W, 3).

    Raises:
        ValueError: ``picture`` is not (H, W, 3) uint8, or ``zoom`` is below 1.
    """
    picture = magnified(picture, zoom)
    boxes, scores, labels = (field.detach().cpu() for field in detections)
    kept = torch.nonzero(scores >= threshold)[:, 0]
    kept = kept[torch.sort(scores[kept], stable=True).indices]
    names = labels[kept].tolist()
    texts = [f"{classes[n]} {s:.2f}" for n, s in zip(names, scores[kept].tolist(), strict=True)]
    canvas = Image.fromarray(picture)
    if truth is not None:
        _outline(canvas, truth.detach().cpu() * zoom, [WHITE] * len(truth), [""] * len(truth))
    _outline(canvas, boxes[kept] * zoom, [class_colour(n) for n in names], texts)
    if key is not None:
        mark_key(canvas, key)
    return np.asarray(canvas).copy()


def draw_truth(
    picture: Picture, boxes: Tensor, labels: Tensor, classes: Sequence[str], zoom: int = 1
) -> Picture:
    """Draw ground truth boxes (G, 4) with their class names, in the colours of the detections."""
    names = labels.tolist()
    return draw_boxes(
        magnified(picture, zoom),
        boxes.detach().cpu() * zoom,
        [class_colour(n) for n in names],
        [classes[n] for n in names],
    )


def _outline(
    canvas: Image.Image, boxes: Tensor, colours: Sequence[Colour], texts: Sequence[str]
) -> None:
    pen = ImageDraw.Draw(canvas)
    width, font = line_width(canvas.size), font_of(letter_height(canvas.size))
    plates: list[tuple[tuple[int, int], Colour, str]] = []
    for box, colour, text in zip(boxes.tolist(), colours, texts, strict=True):
        corners = _pixels(box, canvas.size)
        if corners is not None:
            pen.rectangle(corners, outline=colour, width=width)
            plates.append((corners[:2], colour, text))
    for corner, colour, text in plates:  # last, so that no line crosses a text
        if text:
            write_plate(pen, text, corner, font, colour, canvas.size, above=True)


def _pixels(box: Sequence[float], size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """Return the first and last pixels of a half-open box in the picture; None if it has none."""
    if not all(math.isfinite(value) for value in box):
        return None
    left, top = max(0, math.floor(box[0])), max(0, math.floor(box[1]))
    right, bottom = min(size[0], math.ceil(box[2])) - 1, min(size[1], math.ceil(box[3])) - 1
    return (left, top, right, bottom) if left <= right and top <= bottom else None


def mark_key(canvas: Image.Image, key: bool) -> None:
    """Mark the upper right corner: a disc and the word for a key frame, a ring for any other."""
    pen = ImageDraw.Draw(canvas)
    high = letter_height(canvas.size)
    gap = max(2, high // 3)
    x, y = canvas.width - gap - high, gap
    line = max(1, high // 8)
    pen.ellipse((x, y, x + high, y + high), fill=KEY if key else None, outline=BLACK, width=line)
    if key:
        font = font_of(high)
        wide = pen.textlength("key", font=font)
        write_plate(pen, "key", (x - gap - wide - 3, y), font, KEY, canvas.size, above=False)
    else:  # a white ring in a black one is seen on any ground
        pen.ellipse((x + line, y + line, x + high - line, y + high - line), None, WHITE, line)
