"""`flowfeat-compare`: the reports of several runs side by side, and the settings that differ."""

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.table import Table
from rich.text import Text
from yaml import YAMLError  # type: ignore[import-untyped]

from flowfeat import cli
from flowfeat.doubt import is_suspect

USAGE = "flowfeat-compare <run folder> <run folder> ..."

HIGHER = re.compile(r"(mAP|AP|mIoU|IoU|fps|speedup|accuracy|top5|mean_class_accuracy|PSNR|SSIM)")
LOWER = re.compile(r"(ms|gflops|EPE|loss|peak_memory|train_seconds)")
"""How figures that are better high, or low, begin; no best is marked among others."""

NOISE = ("run_root", "logger", "resume", "callbacks.progress", "expected")
"""Settings that say nothing about what was run."""


class RunReport(NamedTuple):
    """What a run folder tells."""

    name: str
    figures: Mapping[str, float]
    settings: Mapping[str, Any]  # by dotted key


def read_run(folder: Path) -> RunReport:
    """Read `results.json` and `config.yaml` of a run folder.

    Raises:
        FileNotFoundError: No folder, or no report in it.
        ValueError: A report that is no mapping of figures, or settings that cannot be read.
    """
    path = folder / "results.json"
    if not path.is_file():
        what = "has no results.json (no finished run)" if folder.is_dir() else "no such folder"
        raise FileNotFoundError(f"{folder}: {what}, expected a run folder of flowfeat")
    try:
        content = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: expected JSON, found {one_word(error)}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: expected JSON, found bytes that are no text") from None
    if not isinstance(content, dict) or not all(
        isinstance(value, int | float | None) for value in content.values()
    ):
        raise ValueError(f"{path}: expected a mapping of names to numbers")
    content = {key: value for key, value in content.items() if value is not None}
    stored = folder / "config.yaml"
    return RunReport(str(folder), content, _settings(stored) if stored.is_file() else {})


def _settings(path: Path) -> dict[str, Any]:
    """Read the settings of a run by dotted key; ValueError for a file that holds none."""
    try:
        config = OmegaConf.load(path)
        plain = OmegaConf.to_container(config, resolve=True)
    except (YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
        said = cli.one_line(error)
        raise ValueError(f"{path}: expected the settings of a run, found {said}") from None
    if not isinstance(plain, dict):
        raise ValueError(f"{path}: expected the settings of a run, found no mapping")
    return dict(_leaves(plain))


def one_word(error: json.JSONDecodeError) -> str:
    """Say where JSON ended to be readable."""
    return f"something else at line {error.lineno}"


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict) and node:
        for name, value in node.items():
            yield from _leaves(value, f"{key}.{name}".lstrip("."))
    else:
        yield key, node


def best_of(key: str, values: Sequence[float | None]) -> set[int]:
    """Return which runs are best in a figure; none where all are equal, or no side is better."""
    there = [value for value in values if value is not None]
    if len(set(there)) < 2:
        return set()
    if HIGHER.match(key):
        wanted = max(there)
    elif LOWER.match(key):
        wanted = min(there)
    else:
        return set()
    return {number for number, value in enumerate(values) if value == wanted}


def differing(runs: Sequence[RunReport]) -> dict[str, list[Any]]:
    """Return the settings that are not the same in all runs, one value per run."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    found = {}
    for key in keys:
        if key.startswith(NOISE):
            continue
        values = [run.settings.get(key, "-") for run in runs]
        if any(value != values[0] for value in values[1:]):
            found[key] = values
    return found


def short_names(folders: Sequence[str]) -> list[str]:
    """Leave out what all names begin and end with."""
    parts = [Path(os.path.normpath(folder)).parts for folder in folders]
    while len({p[0] for p in parts}) == 1 and min(map(len, parts)) > 1:
        parts = [p[1:] for p in parts]
    while len({p[-1] for p in parts}) == 1 and min(map(len, parts)) > 1:
        parts = [p[:-1] for p in parts]
    return ["/".join(p) for p in parts]


def tables(runs: Sequence[RunReport]) -> list[Table]:
    """Lay out the figures, best ones marked with ``*``, and the settings that differ."""
    names = short_names([run.name for run in runs])
    figures = Table("figure", title="figures (* best, ? doubtful)")
    settings = Table("setting", title="settings that differ")
    for name in names:
        figures.add_column(Text(name, overflow="fold"), justify="right")
        settings.add_column(Text(name, overflow="fold"))
    for key in dict.fromkeys(key for run in runs for key in run.figures):
        values = [run.figures.get(key) for run in runs]
        marks = ["?" if is_suspect(run.figures, key) else "" for run in runs]
        best = best_of(key, [None if m else v for m, v in zip(marks, values, strict=True)])
        cells = (
            "-" if value is None else f"{value:.4g}" + ("*" if number in best else marks[number])
            for number, value in enumerate(values)
        )
        figures.add_row(key, *cells)
    different = differing(runs)
    for key, found in different.items():
        settings.add_row(Text(key), *(Text(str(value)) for value in found))
    return [figures, settings] if different else [figures]


def compare(folders: Sequence[str]) -> list[Table]:
    """Read run folders and lay them side by side.

    Raises:
        UsageError: Fewer than two.
        FileNotFoundError, ValueError: See ``read_run``.
    """
    if len(folders) < 2:
        raise cli.UsageError(f"expected two run folders or more; usage: {USAGE}")
    return tables([read_run(Path(folder)) for folder in folders])


def main() -> None:
    """Entry point of `flowfeat-compare`."""
    if {"--help", "-h"} & set(sys.argv[1:]):
        sys.stdout.write(f"usage: {USAGE}\n")
        return
    try:
        console = Console(width=None if sys.stdout.isatty() else 160)
        for table in compare(sys.argv[1:]):
            console.print(table)
    except cli.user_errors() as error:
        cli.fail(error)
