"""Expressions over the figures of runs (``dff.mIoU_l5 > 0.85 * dff.mIoU_l1``), seed by seed."""

import ast
import operator
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowfeat.cli import UsageError

Figures = Mapping[str, Mapping[str, float]]
"""Figures of one seed: run -> key -> value. A run's speed, measured apart, is ``<run>.timed``."""
Points = Mapping[str, Sequence[tuple[float, float]]]
"""Lines of one seed's curve: name -> (x, y)."""

_ARITHMETIC: dict[type[ast.AST], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_COMPARISONS: dict[type[ast.AST], Callable[[float, float], bool]] = {
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
}


class MissingFigure(ValueError):
    """A run has no such figure, or failed."""


class Verdict(NamedTuple):
    """A comparison over the seeds that have its figures."""

    holds: bool
    difference: float  # left - right, the mean over the seeds
    spread: float | None  # sample standard deviation of the seeds' differences; None for one seed
    seeds: int


def names_in(text: str) -> Iterator[str]:
    """Yield the runs (and the lines inside ``gap``) that an expression names."""
    for node in ast.walk(_parsed(text)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield node.value.id
        if isinstance(node, ast.Call):
            yield from (str(a.value) for a in node.args if isinstance(a, ast.Constant))


def evaluate_number(text: str, figures: Figures, points: Points | None = None) -> float:
    """Evaluate an expression on one seed's figures.

    ``gap("a", "b")`` is the mean of line a minus line b of the curve, linear between their points,
    over the x that both cover.

    Raises:
        MissingFigure: A figure that the seed does not have.
        UsageError: No expression of figures, numbers, ``+ - * /`` and ``gap``.
    """
    return _value(_parsed(text), text, figures, points or {})


def judge(text: str, figures: Sequence[Figures], points: Sequence[Points] | None = None) -> Verdict:
    """Say whether a comparison holds for the means over the seeds.

    Args:
        text: One comparison (``>``, ``>=``, ``<``, ``<=``) of two expressions.
        figures: One entry per seed; seeds that lack a figure are left out.
        points: The lines of the curve, one entry per seed.

    Raises:
        MissingFigure: No seed has all figures.
        UsageError: No comparison, or as in ``evaluate_number``.
    """
    node = _parsed(text)
    if not isinstance(node, ast.Compare) or len(node.ops) != 1:
        raise UsageError(f"{text}: expected one comparison, such as dff.mAP_l10 > sff.mAP_l10")
    compare = _COMPARISONS.get(type(node.ops[0]))
    if compare is None:
        raise UsageError(f"{text}: expected one of >, >=, < and <=")
    sides: list[tuple[float, float]] = []
    missing: MissingFigure | None = None
    for number, one in enumerate(figures):
        lines = points[number] if points else {}
        try:
            left = _value(node.left, text, one, lines)
            sides.append((left, _value(node.comparators[0], text, one, lines)))
        except MissingFigure as error:
            missing = error
    if not sides:
        raise missing or MissingFigure(f"{text}: no seed was run")
    differences = [left - right for left, right in sides]
    return Verdict(
        holds=compare(statistics.fmean(s[0] for s in sides), statistics.fmean(s[1] for s in sides)),
        difference=statistics.fmean(differences),
        spread=statistics.stdev(differences) if len(differences) > 1 else None,
        seeds=len(differences),
    )


def gap(upper: Sequence[tuple[float, float]], lower: Sequence[tuple[float, float]]) -> float:
    """Return the mean of ``upper`` - ``lower`` over the x that both lines cover.

    Raises:
        MissingFigure: Lines that share no stretch of x.
    """
    a, b = (_single_valued(line) for line in (upper, lower))
    if not len(a) or not len(b):
        raise MissingFigure("gap: a line without points")
    low, high = max(a[0, 0], b[0, 0]), min(a[-1, 0], b[-1, 0])
    if low >= high:
        raise MissingFigure(f"gap: the lines share no stretch of x ({low:.3g} .. {high:.3g})")
    inside = np.unique(np.concatenate([a[:, 0], b[:, 0], [low, high]]))
    x = inside[(inside >= low) & (inside <= high)]  # between these both lines are straight
    difference = np.interp(x, a[:, 0], a[:, 1]) - np.interp(x, b[:, 0], b[:, 1])
    area = np.sum(np.diff(x) * (difference[1:] + difference[:-1]) / 2)
    return float(area / (high - low))


def _single_valued(line: Sequence[tuple[float, float]]) -> NDArray[np.float64]:
    """Return a line's points (N, 2) by rising x, with the mean y of points of one x."""
    at: dict[float, list[float]] = {}
    for x, y in sorted(line):
        at.setdefault(x, []).append(y)
    return np.array([(x, statistics.fmean(y)) for x, y in at.items()], float).reshape(-1, 2)


def _parsed(text: str) -> ast.expr:
    try:
        return ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        raise UsageError(f"{text}: expected an expression such as dff.mAP_l10 - 0.02") from None


def _value(node: ast.AST, text: str, figures: Figures, points: Points) -> float:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return float(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand, text, figures, points)
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        left = _value(node.left, text, figures, points)
        return _ARITHMETIC[type(node.op)](left, _value(node.right, text, figures, points))
    if isinstance(node, ast.Attribute):
        return _figure(ast.unparse(node), figures)
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "gap" and len(node.args) == 2:
        names = [str(a.value) if isinstance(a, ast.Constant) else ast.unparse(a) for a in node.args]
        if any(name not in points for name in names):
            raise MissingFigure(f"{text}: expected lines of the curve, {', '.join(points)}")
        return gap(points[names[0]], points[names[1]])
    raise UsageError(f"{text}: cannot read {ast.unparse(node)}, expected figures, numbers, + - * /")


def _figure(name: str, figures: Figures) -> float:
    run, _, key = name.rpartition(".")
    if run not in figures:
        raise MissingFigure(f"{name}: {run} has no results")
    if key not in figures[run]:
        raise MissingFigure(f"{name}: no such figure in the results of {run}")
    return figures[run][key]
