"""Accuracy over frames per second, Figure 3 of DFF: who is better when both get the same time."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from flowfeat.cli import UsageError
from flowfeat.compare import RunReport, read_run
from flowfeat.drawing.charts import save_chart

EVERY_FRAME = "every frame"
"""The line that joins networks which run on every frame."""
TIE = 1e-9


class Point(NamedTuple):
    """One setting of one method."""

    line: str  # points of a line are joined
    label: str
    interval: int | None  # l; None without key frames
    fps: float
    accuracy: float
    speedup: float | None  # measured s
    baseline: bool
    suspect: bool = False  # the speed is not to be relied on


class Stretch(NamedTuple):
    """Neighbouring speeds over which the comparison comes out alike."""

    outcome: str  # wins, loses, ties; alone, absent: only one side is that fast
    low: float  # frames per second
    high: float
    at: float  # where the difference is largest
    difference: float  # there


def point_of(
    figures: Mapping[str, float],
    key: str,
    line: str,
    label: str,
    interval: int | None,
    baseline: bool,
) -> Point:
    """Take a point out of a report.

    Raises:
        ValueError: A report without the score or the speed.
    """
    suffix = f"_l{interval}"
    if interval is None or f"{key}{suffix}" not in figures:
        suffix = ""
    missing = [name + suffix for name in (key, "fps") if name + suffix not in figures]
    if missing:
        raise ValueError(f"{label}: expected {' and '.join(missing)} in its results.json")
    speedup = figures.get(f"speedup{suffix}")
    accuracy, fps = figures[key + suffix], figures[f"fps{suffix}"]
    suspect = bool(figures.get(f"speed_suspect{suffix}"))
    return Point(line, label, interval, fps, accuracy, speedup, baseline, suspect)


def points_of_run(folder: Path, key: str, task: str) -> list[Point]:
    """Take the points of a finished run, one per l that it was evaluated at, as baselines.

    Raises:
        FileNotFoundError, ValueError: See ``read_run`` and ``point_of``; a run of another task.
    """
    run = read_run(folder)
    own = run.settings.get("task", task)
    if own != task:
        raise UsageError(f"also={folder}: is a run of task {own}, expected {task}")
    label = _label(run, folder)
    pattern = re.compile(rf"{re.escape(key)}_l(\d+)")
    found = sorted(int(m[1]) for name in run.figures if (m := pattern.fullmatch(name)))
    intervals = [l_ for l_ in found if f"fps_l{l_}" in run.figures]
    if intervals:
        return [point_of(run.figures, key, label, label, l_, True) for l_ in intervals]
    return [point_of(run.figures, key, EVERY_FRAME, label, None, True)]


def _label(run: RunReport, folder: Path) -> str:
    names = [run.settings.get(key) for key in ("method", "features.model")]
    return " ".join(str(name) for name in names if name) or folder.name


def lines_of(points: Iterable[Point]) -> dict[str, list[Point]]:
    """Return the points of each line by rising speed."""
    ordered = sorted(points, key=lambda point: (point.line, point.fps))
    return {line: list(group) for line, group in groupby(ordered, key=lambda p: p.line)}


def best_at(points: Sequence[Point], fps: float, sign: float) -> float:
    """Return the best score that is to be had at a speed or a higher one; -inf if there is none.

    Between the points of a line its settings are taken to go on linearly.

    Args:
        points: Of one side.
        fps: The speed.
        sign: 1 for scores that are better high, else -1; the result is signed with it.
    """
    there = [sign * point.accuracy for point in points if point.fps >= fps]
    for line in lines_of(points).values():
        if line[0].fps <= fps <= line[-1].fps:
            x, y = [p.fps for p in line], [sign * p.accuracy for p in line]
            there.append(float(np.interp(fps, x, y)))
    return max(there, default=-math.inf)


def stretches(points: Sequence[Point], higher_is_better: bool = True) -> list[Stretch]:
    """Compare the swept points with the baselines at equal time, from slow to fast.

    Returns:
        Nothing where a side has no points.
    """
    ours = [point for point in points if not point.baseline]
    theirs = [point for point in points if point.baseline]
    if not ours or not theirs:
        return []
    sign = 1.0 if higher_is_better else -1.0
    ends = [point.fps for point in points]
    grid = np.unique([*ends, *np.linspace(min(ends), max(ends), 500)])
    told = [_compare(ours, theirs, float(fps), sign) for fps in grid]
    return [
        _stretch(outcome, [(fps, difference) for fps, _, difference in group])
        for outcome, group in _grouped(zip(grid.tolist(), *zip(*told, strict=True), strict=True))
    ]


def _compare(
    ours: Sequence[Point], theirs: Sequence[Point], fps: float, sign: float
) -> tuple[str, float]:
    a, b = best_at(ours, fps, sign), best_at(theirs, fps, sign)
    if math.isinf(b):
        return "alone", 0.0
    if math.isinf(a):
        return "absent", 0.0
    difference = a - b
    if abs(difference) <= TIE:
        return "ties", 0.0
    return ("wins" if difference > 0 else "loses"), difference


def _grouped(
    rows: Iterable[tuple[float, str, float]],
) -> Iterator[tuple[str, list[tuple[float, str, float]]]]:
    for outcome, group in groupby(rows, key=lambda row: row[1]):
        yield outcome, list(group)


def _stretch(outcome: str, rows: Sequence[tuple[float, float]]) -> Stretch:
    at, difference = max(rows, key=lambda row: abs(row[1]))
    return Stretch(outcome, rows[0][0], rows[-1][0], at, difference)


def sentence(points: Sequence[Point], method: str, key: str, higher_is_better: bool = True) -> str:
    """Say in one sentence where a method wins and where it loses at equal time."""
    parts = []
    for stretch in stretches(points, higher_is_better):
        low, high = f"{stretch.low:.1f}", f"{stretch.high:.1f}"
        span = f"{low} fps" if low == high else f"{low} .. {high} fps"
        if stretch.outcome in ("wins", "loses"):
            most = f"most by {abs(stretch.difference):.3f} {key} at {stretch.at:.1f} fps"
            parts.append(f"{stretch.outcome} at {span} ({most})")
        elif stretch.outcome == "ties":
            parts.append(f"ties at {span}")
        elif stretch.outcome == "alone":
            parts.append(f"is alone at {span}")
        else:
            parts.append(f"is not that fast at {span}")
    if not parts:
        return f"{method}: nothing to compare, expected points of the sweep and of baselines."
    return f"At equal time {method}, against the best of the other ways, {'; '.join(parts)}."


def table(points: Sequence[Point], failed: Mapping[str, str], title: str, key: str) -> Table:
    """Lay out the points, one row each, and those that failed."""
    out = Table("line", title=title)
    for heading in ("l", key, "fps", "s"):
        out.add_column(heading, justify="right")
    for point in sorted(points, key=lambda p: (p.baseline, p.line, p.interval or 0, p.fps)):
        mark = " ?" if point.suspect else ""  # measured again, and still not to be relied on
        out.add_row(
            point.line if point.label == point.line else point.label,
            "" if point.interval is None else str(point.interval),
            f"{point.accuracy:.3f}",
            f"{point.fps:.1f}{mark}",
            "" if point.speedup is None else f"{point.speedup:.2f}{mark}",
        )
    for name in failed:
        out.add_row(name, "", "failed", "", "")
    return out


def draw(points: Sequence[Point], title: str, key: str, path: Path) -> bool:
    """Draw the curve of Figure 3, each point with its l; return whether there was a point.

    Args:
        points: Baselines are dashed.
        title: Above the picture.
        key: Name of the score.
        path: PNG to write, under 100 kB.
    """
    figure = Figure(figsize=(7, 4.5), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    lines = lines_of(points)
    for label, line in sorted(lines.items(), key=lambda item: item[1][0].baseline):
        x, y = [p.fps for p in line], [p.accuracy for p in line]
        baseline = line[0].baseline
        style, marker = (":", "s") if label == EVERY_FRAME else ("--" if baseline else "-", "o")
        axes.plot(x, y, linestyle=style, marker=marker, markersize=4, label=label)
        for point in line:
            text = point.label if point.interval is None else f"{point.interval}"
            axes.annotate(
                text, (point.fps, point.accuracy), (3, 4), textcoords="offset points", fontsize=7
            )
    if not lines:
        return False
    axes.set(xlabel="frames per second (points: l)", ylabel=key, title=title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save_chart(figure, path)
    return True
