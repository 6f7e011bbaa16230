"""The report of a run: a flat `results.json` and a table with the settings side by side."""

import json
import math
import os
import re
import resource
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from flowfeat.doubt import SPREAD, SUSPECT, doubt, is_suspect

KEY = re.compile(r"[A-Za-z0-9_]+")
COLUMN = re.compile(
    r"(?P<name>.+?)_(?P<setting>(?:(?:copy|no_flow|no_scale|pairs|stream)_)?l(?P<interval>\d+))"
)


def write_results(results: Mapping[str, float], folder: Path) -> Path:
    """Write `results.json`, one number per key, atomically; null for what is no finite number.

    Raises:
        ValueError: A key that loggers could not sort by.
    """
    for key in results:
        if not KEY.fullmatch(key):
            raise ValueError(f"results key {key!r}: expected letters, digits and _ only")
    path = folder / "results.json"
    partial = path.with_suffix(".json.tmp")
    content = {k: v if math.isfinite(v) else None for k, v in sorted(results.items())}
    partial.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
    os.replace(partial, path)
    return path


def table(results: Mapping[str, float], title: str) -> Table:
    """Lay out the results: one row per figure, one column per setting (l, copy, pairs).

    A ``?`` stands behind a speed that is not to be relied on.
    """
    split = {key: COLUMN.fullmatch(key) for key in results}
    settings = sorted(
        {m["setting"] for m in split.values() if m},
        key=lambda s: (int(s.rpartition("l")[2]), len(s)),
    )
    plain = [key for key, match in split.items() if match is None]
    out = Table(title=title)
    out.add_column("", no_wrap=True)
    for setting in settings or [""]:
        out.add_column(_heading(setting), justify="right")
    for name in dict.fromkeys(m["name"] for m in split.values() if m):
        if name != SUSPECT:
            out.add_row(name, *(_cell(results, name, f"_{setting}") for setting in settings))
    for key in plain:
        if key != SUSPECT:
            out.add_row(key, _cell(results, key, ""))
    return out


def _cell(results: Mapping[str, float], name: str, suffix: str) -> str:
    value = results.get(name + suffix)
    if value is None:
        return ""
    return f"{value:.3f}" + (" ?" if is_suspect(results, name + suffix) else "")


def doubts(results: Mapping[str, float]) -> list[str]:
    """Say in a line each which measured speeds are not to be relied on, and why."""
    lines = []
    for key in sorted(key for key, value in results.items() if key.startswith(SUSPECT) and value):
        suffix = key.removeprefix(SUSPECT)
        interval = int(suffix.removeprefix("_l")) if suffix else None
        why = doubt(interval, results.get(f"speedup{suffix}", 1.0), results[SPREAD + suffix])
        where = "" if interval is None else f" at l = {interval}"
        lines.append(f"? speed{where}: {why}")
    if lines:
        times, load = 1 + int(results.get("speed_repeats", 0)), results.get("speed_load")
        under = "" if load is None else f" at a load of {load:.1f}"
        lines.append(f"measured {times} times{under}; flowfeat-evaluate measures again")
    return lines


def _heading(setting: str) -> str:
    kind, _, interval = setting.rpartition("l")
    kind = kind.strip("_").replace("_", " ")
    return f"l = {interval}" + (f"\n({kind})" if kind else "") if interval else ""


def print_table(results: Mapping[str, float], title: str) -> None:
    """Print the table of results, and below it why a speed is marked."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table(results, title))
    for line in doubts(results):
        console.print(line, highlight=False)


def peak_memory_gb() -> float:
    """Return the most memory used so far: of the GPU where it was used, else of this process."""
    # A run on the CPU of a machine with a GPU has taken none of the latter's.
    if torch.cuda.is_available() and (used := torch.cuda.max_memory_allocated()):
        return used / 1e9
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage / 1e9 if sys.platform == "darwin" else usage * 1024 / 1e9
