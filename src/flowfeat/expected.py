"""What a paper found, held against the report of a run: within, below or above, and why below.

The group `expected` has the figures; an experiment chooses one of its leaves. All that the config
decides is read before the training, so that after it nothing can fail.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from flowfeat.causes import other_settings, usual_causes
from flowfeat.cli import UsageError, compose_config
from flowfeat.report import KEY
from flowfeat.settings import first_few, word

NAME = re.compile(r"[A-Za-z0-9_]+")
"""Experiments; what a checkpoint's config names is composed."""


KINDS: Mapping[type, tuple[tuple[type, ...], str]] = {
    str: ((str,), "text"),
    float: ((int, float), "number"),
    list: ((list,), "list"),
    dict: ((dict,), "mapping"),
}
"""What may stand in a field of each kind, and what the kind is called."""


class Figure(NamedTuple):
    """One figure of a paper."""

    key: str  # of the report
    value: float
    tolerance: float  # in the unit of the figure
    source: str  # table or section
    when: Mapping[str, Any]  # settings by dotted key that make it the figure of a run; null: absent
    words: tuple[str, ...]  # overrides beside them that make the experiment the figure's


class Expected(NamedTuple):
    """What a run is held against."""

    of: str  # whose figures
    experiment: str
    real: bool  # the figures are of real data; so is the run
    figures: tuple[Figure, ...]  # those of the run's settings
    others: tuple[str, ...] = ()  # settings other than the experiment's
    causes: tuple[str, ...] = ()  # why it may end below


def read_expected(config: DictConfig) -> Expected | None:
    """Read `expected` of a config, and what in the config may keep a run from the figures.

    Returns:
        None for a config without expectations.

    Raises:
        ValueError: A field that is missing, unknown or of another kind; an experiment or words that
            do not compose.
    """
    node = config.get("expected")
    if not node:
        return None
    fields = _fields(
        OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node,
        "expected",
        {"of": str, "experiment": str, "figures": list},
        {"when": dict, "causes": list},
    )
    experiment = fields["experiment"]
    if not NAME.fullmatch(experiment):
        raise ValueError(f"expected.experiment={experiment}: expected a plain name")
    figures = [_figure(f, f"expected.figures[{i}]") for i, f in enumerate(fields["figures"])]
    causes = [_cause(c, f"expected.causes[{i}]") for i, c in enumerate(fields.get("causes", ()))]
    real = OmegaConf.select(config, "data.root") is not None
    shared = fields.get("when", {})
    figures = [figure._replace(when={**shared, **figure.when}) for figure in figures]
    own = tuple(figure for figure in figures if _holds(config, figure.when))
    plain = Expected(fields["of"], experiment, real, own)
    if not (real and own):
        return plain
    reference = _reference(experiment, own)
    leaf = (says for says, when in causes if _holds(config, when))
    return plain._replace(
        others=tuple(other_settings(config, reference)),
        causes=(*usual_causes(config, reference), *leaf),
    )


def _reference(experiment: str, figures: Sequence[Figure]) -> DictConfig:
    """Compose the experiment as its figures have it."""
    words = [
        *(f"{key}={word(value)}" for figure in figures for key, value in figure.when.items()),
        *(w for figure in figures for w in figure.words),
    ]
    try:
        return compose_config([f"experiment={experiment}", *dict.fromkeys(words)])
    except UsageError as error:
        raise UsageError(f"expected: {error}") from None


def _holds(config: DictConfig, when: Mapping[str, Any]) -> bool:
    return all(OmegaConf.select(config, key) == value for key, value in when.items())


def _figure(node: Any, place: str) -> Figure:
    needed = {"key": str, "value": float, "tolerance": float, "source": str}
    fields = _fields(node, place, needed, {"when": dict, "words": list})
    if not KEY.fullmatch(fields["key"]):
        raise ValueError(f"{place}.key={fields['key']}: expected letters, digits and _ only")
    if not (math.isfinite(fields["value"]) and 0 <= fields["tolerance"] < math.inf):
        raise ValueError(
            f"{place}: expected a number and a tolerance of 0 or more, "
            f"found {fields['value']:g} and {fields['tolerance']:g}"
        )
    return Figure(
        fields["key"],
        float(fields["value"]),
        float(fields["tolerance"]),
        fields["source"],
        fields.get("when", {}),
        tuple(map(str, fields.get("words", ()))),
    )


def _cause(node: Any, place: str) -> tuple[str, Mapping[str, Any]]:
    fields = _fields(node, place, {"says": str}, {"when": dict})
    return fields["says"], fields.get("when", {})


def _fields(
    node: Any, place: str, needed: Mapping[str, type], optional: Mapping[str, type]
) -> dict[str, Any]:
    """Return a mapping's fields, each of its kind; ValueError names the first that is not."""
    known = {**needed, **optional}
    if not isinstance(node, dict):
        raise ValueError(f"{place}: expected a mapping of {', '.join(known)}, found {node!r}")
    for name in (*needed, *node):
        if name not in node or name not in known:
            what = "missing" if name in known else "unknown key"
            raise ValueError(f"{place}.{name}: {what}, expected {', '.join(known)}")
    for name, value in node.items():
        kind, called = KINDS[known[name]]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"{place}.{name}: expected a {called}, found {value!r}")
    return node


def verdict(expected: Expected, results: Mapping[str, float]) -> list[str]:
    """Say, a line each, how a report lies to the figures of a paper.

    Args:
        expected: What ``read_expected`` found.
        results: The report.
    """
    name = f"{expected.experiment}: {expected.of}'s figures"
    if not expected.real:
        return [f"{name} are of real data (data.root), this report is not held against them"]
    if not expected.figures:
        return [f"{name} are of other settings than this run's"]
    lines, below = [], False
    for figure in expected.figures:
        value = results.get(figure.key)
        where = _place(figure, value)
        below |= where == "below"
        lines.append(_line(expected.of, figure, value, where))
    if expected.others:
        lines.append(f"settings other than the experiment's: {first_few(expected.others)}")
    if below:
        lines += _why(expected.causes)
    return lines


def _place(figure: Figure, value: float | None) -> str | None:
    """Return where a value lies; None where there is none."""
    if value is None or math.isnan(value):
        return None
    distance = value - figure.value
    # Decimal fractions are not exact: 0.721 is within 0.01 of 0.731.
    if abs(distance) <= figure.tolerance + 1e-9:
        return "within"
    return "below" if distance < 0 else "above"


def _line(of: str, figure: Figure, value: float | None, where: str | None) -> str:
    theirs = f"{of}'s {figure.value:.3f} ({figure.source})"
    if where is None:
        lacking = "not in this report" if value is None else "no number"
        return f"{figure.key}: {lacking}, to hold against {theirs}"
    return f"{figure.key} {value:.3f}: {where} {theirs}, tolerance {figure.tolerance:.3f}"


def _why(causes: Iterable[str]) -> list[str]:
    found = [f"  - {cause}" for cause in causes]
    if not found:
        return ["none of the usual causes of a lower figure applies"]
    return ["usual causes of a lower figure that apply here:", *found]
