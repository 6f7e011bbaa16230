"""Figures of all runs and seeds: means with their spread, and the lines of a curve."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from flowfeat.reproduction.claims import Figures, MissingFigure, Points, evaluate_number
from flowfeat.reproduction.table import Curve


class Spread(NamedTuple):
    """A figure over seeds."""

    mean: float
    deviation: float | None  # sample standard deviation; None for one seed
    seeds: int


def spread(values: Sequence[float]) -> Spread:
    """Summarise the values of at least one seed."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Spread(statistics.fmean(values), deviation, len(values))


def with_timed(
    by_seed: Sequence[Mapping[str, Mapping[str, float]]],
    timed: Mapping[str, Mapping[str, float]],
) -> list[Figures]:
    """Put the speeds beside each seed's figures, as ``<run>.timed``."""
    beside = {f"{run}.timed": figures for run, figures in timed.items()}
    return [{**figures, **beside} for figures in by_seed]


def points_of(curve: Curve, figures: Figures) -> Points:
    """Return the lines of a curve for one seed; lines that lack a figure are left out."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for label, line in curve.lines.items():
        try:
            lines[label] = [
                (evaluate_number(x, figures), evaluate_number(y, figures))
                for x, y in written_out(line.x, line.y)
            ]
        except MissingFigure:
            continue
    return lines


def written_out(x: Sequence[str], y: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the expressions of each point; a single y serves every x, which {} in it stands for."""
    texts = list(y) if len(y) > 1 else list(y) * len(x)
    yield from ((at, text.replace("{}", at)) for at, text in zip(x, texts, strict=True))
