"""A W&B sweep file of `configs/sweep`: its grid, and the baselines that stand beside it."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # PyYAML comes with omegaconf

from flowfeat.cli import CONFIGS, UsageError, one_line

SWEEPS = CONFIGS / "sweep"
INTERVAL = "key_frames.interval"
FIXED = ("task", "method")
"""Parameters that the command line decides; their values in a file are for `wandb sweep`."""
OURS = "baselines"
WANDB_KEYS = (
    "command",
    "description",
    "entity",
    "method",
    "metric",
    "name",
    "parameters",
    "program",
    "project",
    "run_cap",
)
Cell = Mapping[str, Any]
"""One point of a grid: key -> value."""


@dataclass(frozen=True)
class Baseline:
    """Another way to spend the time: overrides of a training, and of its evaluation."""

    name: str
    train: tuple[str, ...]
    evaluate: tuple[str, ...] = ()

    @property
    def over_intervals(self) -> bool:
        """Whether it has key frames, and is evaluated at every l of the sweep."""
        return any(word.startswith("key_frames=") for word in self.evaluate)


@dataclass(frozen=True)
class SweepFile:
    """What a sweep file holds."""

    name: str
    content: Mapping[str, Any]  # as W&B wants it, without our own key
    grid: Mapping[str, Sequence[Any]]  # swept key -> values
    fixed: Mapping[str, Any]  # key -> the one value
    baselines: tuple[Baseline, ...] = ()

    @property
    def intervals(self) -> list[int]:
        """Return the swept l; none where the sweep is over something else."""
        return [int(value) for value in self.grid.get(INTERVAL, ())]

    def cells(self) -> Iterator[Cell]:
        """Yield the points of the grid, the last key fastest."""
        for values in itertools.product(*self.grid.values()):
            yield dict(zip(self.grid, values, strict=True))


def read_sweep(name: str, folder: Path = SWEEPS) -> SweepFile:
    """Read a sweep file.

    Raises:
        UsageError: An unknown sweep, key, method or parameter; the line names the file.
    """
    path = folder / f"{name}.yaml"
    if not re.fullmatch(r"\w+", name) or not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise UsageError(f"sweep={name}: unknown sweep, expected one of {known}")
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: {one_line(error)}") from None
    for problem in _problems(content):
        raise UsageError(f"{path}: {problem}")
    parameters = content["parameters"]
    baselines = (
        Baseline(str(label), tuple(entry["train"]), tuple(entry.get("evaluate", ())))
        for label, entry in content.get(OURS, {}).items()
    )
    return SweepFile(
        name,
        {key: value for key, value in content.items() if key != OURS},
        {key: tuple(p["values"]) for key, p in parameters.items() if "values" in p},
        {key: p["value"] for key, p in parameters.items() if "value" in p},
        tuple(baselines),
    )


def _problems(content: Any) -> Iterator[str]:
    """Yield what is wrong in a file, one line each; the first one counts."""
    if not isinstance(content, dict):
        yield f"expected a mapping, found {type(content).__name__}"
        return
    known = (*WANDB_KEYS, OURS)
    for key in content:
        if key not in known:
            yield f"{key}: unknown key, expected one of {', '.join(sorted(known))}"
    for key in ("program", "command", "method", "metric", "parameters"):
        if key not in content:
            yield f"{key}: is missing"
    if content["method"] != "grid":
        yield f"method: expected grid, found {content['method']}"
    parameters = content["parameters"]
    if not isinstance(parameters, dict) or not parameters:
        yield "parameters: expected a mapping of keys to values"
        return
    for key, entry in parameters.items():
        yield from _parameter_problems(key, entry)
    baselines = content.get(OURS, {})
    if not isinstance(baselines, dict):
        yield f"{OURS}: expected a mapping of names to train and evaluate"
        return
    for label, entry in baselines.items():
        yield from _baseline_problems(f"{OURS}.{label}", entry)


def _parameter_problems(key: str, entry: Any) -> Iterator[str]:
    place = f"parameters.{key}"
    if not isinstance(entry, dict) or set(entry) not in ({"values"}, {"value"}):
        found = ", ".join(map(str, entry)) if isinstance(entry, dict) else entry
        yield f"{place}: expected values or value, which a grid needs, found {found}"
        return
    if key in FIXED and "value" not in entry:
        yield f"{place}: expected one value, a sweep has one task and one method"
    values = entry.get("values", [0])
    if not isinstance(values, list) or not values:
        yield f"{place}.values: expected a list, found {values}"
        return
    whole = all(isinstance(v, int) and not isinstance(v, bool) and v >= 1 for v in values)
    if key == INTERVAL and "values" in entry and not whole:
        yield f"{place}.values: expected whole numbers of 1 or more, found {values}"
    if len({str(v) for v in values}) < len(values):
        yield f"{place}.values: expected each value once, found {values}"


def _baseline_problems(place: str, entry: Any) -> Iterator[str]:
    if not isinstance(entry, dict) or "train" not in entry or set(entry) - {"train", "evaluate"}:
        yield f"{place}: expected train and perhaps evaluate, lists of overrides"
        return
    for key, words in entry.items():
        if not isinstance(words, list) or not all(isinstance(w, str) and "=" in w for w in words):
            yield f"{place}.{key}: expected a list of overrides such as method=per_frame"
