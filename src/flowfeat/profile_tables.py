"""The tables that `flowfeat-profile` prints: parts, r and s, and 1/r of several networks."""

import sys
from collections.abc import Mapping
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from flowfeat.metering import PARTS
from flowfeat.speed import PartCosts

SYMBOLS = {"features": "N_feat", "flow": "F", "warp": "W", "head": "N_task"}


class Comparison(NamedTuple):
    """One figure by FLOPs, by time, measured, and in the paper, as far as it is known."""

    key: str  # in `profile.json`, with {} for the kind
    name: str
    flops: float | None = None
    time: float | None = None
    measured: float | None = None
    paper: float | None = None


def part_table(
    title: str,
    flops: PartCosts,
    seconds: PartCosts | None,
    parameters: Mapping[str, int],
    names: Mapping[str, str],
) -> Table:
    """One row per part: GFLOPs, milliseconds (median of a call), parameters in millions."""
    table = Table(title=title)
    for heading in ("part", "GFLOPs", "ms", "parameters (M)"):
        table.add_column(heading, justify="left" if heading == "part" else "right")
    for part in sorted(flops.costs, key=_place):
        cost, name = flops.costs[part], names.get(part, part)
        if part == "tail" and not cost:
            continue  # the identity: the split point is where the features end
        time = None if seconds is None else seconds.costs.get(part)
        count = parameters.get(name)
        table.add_row(
            f"{name} ({SYMBOLS[name]})" if name in SYMBOLS else name,
            f"{cost / 1e9:.3f}",
            "" if time is None else f"{time * 1e3:.2f}",
            "" if count is None else f"{count / 1e6:.2f}",
        )
    return table


def speed_table(rows: list[Comparison]) -> Table:
    """One row per figure; the paper's column says how far the FLOPs are from it."""
    table = Table(title="r and s (1 = the cost and the speed of per-frame evaluation)")
    table.add_column("")
    for heading in ("by FLOPs", "by time", "measured", "paper"):
        table.add_column(heading, justify="right")
    for row in rows:
        cells = ["" if v is None else f"{v:.2f}" for v in (row.flops, row.time, row.measured)]
        beside = ""
        if row.paper is not None and row.flops is not None:
            beside = f"{row.paper:.2f} ({_deviation(row.flops, row.paper)})"
        table.add_row(row.name, *cells, beside)
    return table


def ratio_table(
    title: str, ratios: Mapping[tuple[str, str], float], paper: Mapping[tuple[str, str], float]
) -> Table:
    """Feature networks down, flow networks across; the paper's figure and our deviation beside."""
    table = Table(title=title)
    table.add_column("")
    flows = list(dict.fromkeys(flow for _, flow in ratios))
    for flow in flows:
        table.add_column(flow, justify="right")
    for features in dict.fromkeys(features for features, _ in ratios):
        cells = []
        for flow in flows:
            ratio, theirs = ratios[features, flow], paper.get((features, flow))
            cell = f"{ratio:.2f}"
            if theirs is not None:
                cell += f" ({theirs:.2f}, {_deviation(ratio, theirs)})"
            cells.append(cell)
        table.add_row(features, *cells)
    return table


def print_table(table: Table) -> None:
    """Print a table, in full width where the output is no terminal."""
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _place(part: str) -> int:
    return PARTS.index(part) if part in PARTS else len(PARTS)


def _deviation(ours: float, theirs: float) -> str:
    return f"{100 * (ours / theirs - 1):+.1f} %"
