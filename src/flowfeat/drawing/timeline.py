"""What happens when in a video: a row per class over time, and the classes of a moment on it."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from flowfeat.drawing.boxes import class_colour
from flowfeat.drawing.canvas import Picture, checked, font_of, letter_height, write_plate

ROWS = 8


def timeline(
    spans: NDArray[np.float64], probabilities: NDArray[np.float32], classes: Sequence[str]
) -> Figure:
    """Chart the classes that are the best of the most windows, at most eight, over time.

    Args:
        spans: (N, 2), from and to which second each of N windows counts; ascending, not
            overlapping, with gaps perhaps.
        probabilities: (N, C) in 0..1; windows of NaN stay blank.
        classes: C names.

    Returns:
        A row per class, the most frequent on top; the darker, the more probable.

    Raises:
        ValueError: No windows, or numbers that do not fit.
    """
    if not len(spans) or probabilities.shape != (len(spans), len(classes)):
        raise ValueError(
            f"a timeline needs N >= 1 spans and (N, {len(classes)}) probabilities, found "
            f"{spans.shape} and {probabilities.shape}"
        )
    rows = top_rows(probabilities)
    edges, columns = _with_gaps(spans, probabilities[:, rows])
    figure = Figure(figsize=(10, 1.4 + 0.3 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    borders = np.arange(len(rows) + 1) - 0.5
    mesh = axes.pcolormesh(edges, borders, columns.T, cmap="Blues", vmin=0, vmax=1)
    axes.set_yticks(range(len(rows)), [classes[row] for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(edges[0], edges[-1])
    axes.set_xlabel("time, s")
    figure.colorbar(mesh, ax=axes, label="probability")
    return figure


def top_rows(probabilities: NDArray[np.float32], most: int = ROWS) -> list[int]:
    """Return the labels that are the best of the most windows (N, C), then the most probable."""
    said = probabilities[~np.isnan(probabilities).any(axis=1)]
    count = probabilities.shape[1]
    if not len(said):
        return list(range(min(most, count)))
    wins = np.bincount(said.argmax(axis=1), minlength=count)
    order = np.lexsort((-said.mean(axis=0), -wins))
    return [int(label) for label in order[:most]]


def _with_gaps(
    spans: NDArray[np.float64], values: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Return the edges (M + 1,) of columns (M, R): those of the spans, and blank ones between."""
    edges, columns = [float(spans[0, 0])], []
    for (begin, end), value in zip(spans.tolist(), values, strict=True):
        if begin > edges[-1]:
            edges.append(begin)
            columns.append(np.full_like(value, np.nan))
        edges.append(end)
        columns.append(value)
    return np.array(edges), np.stack(columns)


def write_classes(picture: Picture, top: Sequence[tuple[int, str, float]]) -> Picture:
    """Write classes on a picture (H, W, 3), in the upper left corner, each on its own colour.

    Args:
        picture: (H, W, 3) uint8.
        top: Label, name and probability (0..1) of each class, as many as have room.

    Returns:
        A new picture of the same size.

    Raises:
        ValueError: ``picture`` is not (H, W, 3) uint8.
    """
    canvas = Image.fromarray(checked(picture))
    pen, font = ImageDraw.Draw(canvas), font_of(letter_height(canvas.size))
    high = int(pen.textbbox((0, 0), "Ag", font=font)[3]) + 3
    for row, (label, name, probability) in enumerate(top[: canvas.height // high]):
        text = f"{name} {probability:.2f}"
        colour = class_colour(label)
        write_plate(pen, text, (0, row * high), font, colour, canvas.size, above=False)
    return np.asarray(canvas).copy()
