"""The report of a run: a flat `results.json` and a table with the settings side by side."""

import json
import os
import re
import resource
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

KEY = re.compile(r"[A-Za-z0-9_]+")
COLUMN = re.compile(r"(?P<name>.+?)_(?P<setting>(?:(?:copy|pairs|stream)_)?l(?P<interval>\d+))")


def write_results(results: Mapping[str, float], folder: Path) -> Path:
    """Write `results.json`, one number per key, atomically.

    Raises:
        ValueError: A key that loggers could not sort by.
    """
    for key in results:
        if not KEY.fullmatch(key):
            raise ValueError(f"results key {key!r}: expected letters, digits and _ only")
    path = folder / "results.json"
    partial = path.with_suffix(".json.tmp")
    partial.write_text(json.dumps(dict(sorted(results.items())), indent=2) + "\n")
    os.replace(partial, path)
    return path


def table(results: Mapping[str, float], title: str) -> Table:
    """Lay out the results: one row per figure, one column per setting (l, copy, pairs)."""
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
        cells = [results.get(f"{name}_{setting}") for setting in settings]
        out.add_row(name, *("" if value is None else f"{value:.3f}" for value in cells))
    for key in plain:
        out.add_row(key, f"{results[key]:.3f}")
    return out


def _heading(setting: str) -> str:
    kind, _, interval = setting.rpartition("l")
    kind = kind.strip("_")
    return f"l = {interval}" + (f"\n({kind})" if kind else "") if interval else ""


def print_table(results: Mapping[str, float], title: str) -> None:
    """Print the table of results."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table(results, title))


def peak_memory_gb() -> float:
    """Return the most memory used so far: of the GPU where it was used, else of this process."""
    # A run on the CPU of a machine with a GPU has taken none of the latter's.
    if torch.cuda.is_available() and (used := torch.cuda.max_memory_allocated()):
        return used / 1e9
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage / 1e9 if sys.platform == "darwin" else usage * 1024 / 1e9
