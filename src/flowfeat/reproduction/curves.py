"""Curves of a reproduced table as a small PNG: a line per method, the seeds' spread as a band."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from flowfeat.drawing.charts import save_chart
from flowfeat.reproduction.claims import Points
from flowfeat.reproduction.table import Curve


def draw(curve: Curve, points: Sequence[Points], title: str, path: Path) -> bool:
    """Draw the lines that at least one seed has; return whether there were any.

    Args:
        curve: Axes and lines.
        points: (x, y) by line, one entry per seed.
        title: Above the picture.
        path: PNG to write, under 100 kB.
    """
    figure = Figure(figsize=(6, 4), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    drawn = False
    for label in curve.lines:
        seeds = np.array([seed[label] for seed in points if label in seed])  # (seeds, points, 2)
        if not seeds.size:
            continue
        drawn = True
        seeds = seeds[:, seeds.mean(axis=0)[:, 0].argsort(kind="stable")]
        x, y = seeds.mean(axis=0).T
        (line,) = axes.plot(x, y, marker="o", markersize=4, label=label)
        if len(seeds) > 1:
            deviation = seeds[..., 1].std(axis=0, ddof=1)
            axes.fill_between(x, y - deviation, y + deviation, color=line.get_color(), alpha=0.2)
    if not drawn:
        return False
    axes.set(xlabel=curve.x, ylabel=curve.y, title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    save_chart(figure, path)
    return True
