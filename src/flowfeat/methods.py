"""`flowfeat-methods`: which method runs on which task, tried out one by one, and why not."""

import sys
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import product
from typing import NamedTuple

from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from flowfeat import cli
from flowfeat.build import check_pair
from flowfeat.commands import chosen_methods
from flowfeat.ratios import leaf_name
from flowfeat.trial import shrink, try_out

NO_VIDEO = "trains a flow network alone, on no video"


class Cell(NamedTuple):
    """What became of one pair of task and method."""

    task: str
    method: str
    runs: bool
    remark: str = ""  # why it does not run, or what it runs with


@cache
def own_clip(task: str) -> DictConfig:
    """Return the clip sampler that the task's preset chooses."""
    return cli.compose_config([f"task={task}", "method=per_frame"]).clip


@cache
def on_video(task: str) -> bool:
    """Say whether a task runs on video; others have no presets for what methods bring along."""
    try:
        check_pair(cli.compose_config([f"task={task}", "method=per_frame"]))
    except ValueError:
        return False
    return True


def try_pair(task: str, method: str) -> Cell:
    """Compose, build, train and stream one pair on random frames.

    Where the method's own clip sampler is refused, the task's is tried: it then is to be named.
    """
    try:
        config = shrink(cli.compose_config([f"task={task}", f"method={method}"]))
    except cli.user_errors() as error:
        reason = _short(error) if on_video(task) else f"the task {NO_VIDEO}"
        return Cell(task, method, False, reason)
    try:
        check_pair(config)
    except ValueError:
        about = "the task" if config.temporal else "the method"
        return Cell(task, method, False, f"{about} {NO_VIDEO}")
    refusal = _refusal(config)
    if refusal is None:
        return Cell(task, method, True)
    clip = own_clip(task)
    if clip and config.clip and clip != config.clip:
        config.clip = clip
        refusal = _refusal(config)  # with frames that fit, what else there is against it
        if refusal is None:
            return Cell(task, method, True, f"clip={leaf_name('clip', clip)}")
    return Cell(task, method, False, refusal)


def _refusal(config: DictConfig) -> str | None:
    try:
        try_out(config)
    except cli.user_errors() as error:
        return _short(error)
    return None


def _short(error: BaseException) -> str:
    """Say why in one line, without the choices that the other cells show anyway."""
    return cli.one_line(error).partition(", expected one of")[0]


def try_all(tasks: Sequence[str], methods: Sequence[str]) -> list[Cell]:
    """Try every pair; those of a task stand together."""
    pairs = list(product(tasks, methods))
    console = Console(stderr=True)
    return [try_pair(*pair) for pair in track(pairs, "trying", console=console, transient=True)]


def cell_table(cells: Sequence[Cell]) -> Table:
    """Lay out one row per method: `runs`, or the number of the remark."""
    tasks = list(dict.fromkeys(cell.task for cell in cells))
    by_pair = {(cell.method, cell.task): cell for cell in cells}
    numbers = _numbers(cells)
    table = Table("method", *tasks)
    for method in dict.fromkeys(cell.method for cell in cells):
        row = []
        for task in tasks:
            cell = by_pair[method, task]
            word = "runs" if cell.runs else "-"
            number = numbers.get((cell.task, cell.runs, cell.remark))
            row.append(Text(word if number is None else f"{word} [{number}]"))
        table.add_row(method, *row)
    return table


def remarks(cells: Sequence[Cell]) -> list[str]:
    """Return the numbered remarks, each once with its task and the methods that it is about."""
    lines = []
    for (task, runs, remark), number in _numbers(cells).items():
        about = [c.method for c in cells if (c.task, c.runs, c.remark) == (task, runs, remark)]
        said = f"with {remark}" if runs else remark
        lines.append(f"[{number}] {task}, {', '.join(about)}: {said}")
    return lines


def _numbers(cells: Iterable[Cell]) -> dict[tuple[str, bool, str], int]:
    kinds = dict.fromkeys((c.task, c.runs, c.remark) for c in cells if c.remark)
    return {kind: number for number, kind in enumerate(kinds, start=1)}


def main() -> None:
    """Entry point of `flowfeat-methods`."""
    try:
        cells = try_all(*chosen_methods())
    except cli.user_errors() as error:
        cli.fail(error)
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(cell_table(cells))
    for line in remarks(cells):
        console.print(Text(line), soft_wrap=True)
