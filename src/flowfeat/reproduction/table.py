"""A table of `configs/reproduce`: its runs, columns, rows, claims and curve, read and checked."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]  # PyYAML comes with omegaconf

from flowfeat.cli import CONFIGS, UsageError, one_line, unknown_key
from flowfeat.reproduction.claims import names_in

TABLES = CONFIGS / "reproduce"
COMMANDS = ("train", "evaluate", "profile")


@dataclass
class Run:
    """One training, evaluation or profile, done once per seed."""

    command: str = "train"
    overrides: list[str] = field(default_factory=list)  # later words replace earlier ones
    after: dict[str, str] = field(default_factory=dict)  # part -> the run that it starts from
    of: str | None = None  # evaluate: the run whose checkpoint is evaluated
    same_as: str | None = None  # <table>/<run>: shared with another table, alone in its entry
    base: bool = True  # false: without the table's own overrides


@dataclass
class Column:
    """One figure, a key of `results.json`."""

    key: str = "???"
    digits: int = 3
    timed: bool = False  # from the speed pass, in which nothing else runs


@dataclass
class Row:
    """One run as a line of the table."""

    run: str = "???"
    timed: str | None = None  # another run of just the same cost, which the speed pass times
    keys: dict[str, str] = field(default_factory=dict)  # column -> another key, or "" for none
    paper: dict[str, float] = field(default_factory=dict)  # column -> the paper's figure


@dataclass
class Timing:
    """The speed pass: runs evaluated one at a time, in turns, on the checkpoints of seed 0."""

    runs: list[str] = field(default_factory=list)
    rounds: int = 3
    threads: int = 1
    overrides: list[str] = field(default_factory=list)


@dataclass
class Line:
    """One line of a curve; x and y are numbers or expressions such as ``dff.mIoU_l5``."""

    x: list[str] = field(default_factory=list)
    y: list[str] = field(default_factory=list)  # or one for all x, which {} in it stands for


@dataclass
class Curve:
    """A picture of several lines, with the spread over seeds as bands."""

    x: str = ""
    y: str = ""
    lines: dict[str, Line] = field(default_factory=dict)


@dataclass
class Table:
    """A table of a paper in our setting; or, with ``tables`` alone, several tables in one report.

    Overrides are Hydra's, as the console scripts take them. ``after`` and ``of`` name runs of this
    table; a part ``flow`` becomes ``flow.weights``, others ``start_from.<part>``.
    """

    title: str = ""
    paper: str = ""  # which table or section it stands beside
    data: str = ""  # the sentence at its head: on what data
    base: list[str] = field(default_factory=list)  # overrides of every run
    runs: dict[str, Run] = field(default_factory=dict)
    timing: Timing = field(default_factory=Timing)
    columns: dict[str, Column] = field(default_factory=dict)
    rows: dict[str, Row] = field(default_factory=dict)
    claims: dict[str, str] = field(default_factory=dict)  # what is claimed -> a comparison
    curve: Curve | None = None
    notes: str = ""
    tables: list[str] = field(default_factory=list)


def table_names(folder: Path = TABLES) -> list[str]:
    """Return the names of all tables."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def read_tables(name: str, folder: Path = TABLES) -> dict[str, Table]:
    """Read a table, or those that it stands for, by name.

    Raises:
        UsageError: An unknown table; an unknown key, value or name inside.
    """
    table = read_table(name, folder)
    return {part: read_table(part, folder) for part in table.tables} or {name: table}


def read_table(name: str, folder: Path = TABLES) -> Table:
    """Read one table; errors as in ``read_tables``."""
    path = folder / f"{name}.yaml"
    if not re.fullmatch(r"\w+", name) or not path.is_file():
        known = ", ".join(table_names(folder))
        raise UsageError(f"table={name}: unknown table, expected one of {known}")
    schema = OmegaConf.structured(Table)
    try:
        content = OmegaConf.load(path)
        merged = OmegaConf.merge(schema, content)
        table = OmegaConf.to_object(merged)
    except ConfigKeyError as error:
        inside = OmegaConf.create()
        inside.merge_with(schema, _without(content, str(error.full_key)))
        raise UsageError(f"{path}: {unknown_key(inside, str(error.full_key))}") from None
    except YAMLError as error:
        raise UsageError(f"{path}: {one_line(error)}") from None
    except OmegaConfBaseException as error:
        raise UsageError(f"{path}: {error.full_key}: {str(error).splitlines()[0]}") from None
    if not isinstance(table, Table):
        raise UsageError(f"{path}: expected a mapping, found {type(table).__name__}")
    for problem in _problems(table):
        raise UsageError(f"{path}: {problem}")
    return table


def _without(content: object, key: str) -> object:
    """Leave out the part of a file that holds an unknown key, to show what is known there."""
    plain = OmegaConf.to_container(content) if isinstance(content, DictConfig) else {}
    inside = plain
    for parent in key.split(".")[:-1]:
        inside = inside[parent] if isinstance(inside, dict) else {}
    if isinstance(inside, dict):
        inside.clear()
    return plain


def _problems(table: Table) -> Iterator[str]:
    """Yield what is wrong inside a table, one line each."""
    if table.tables:
        if table.runs or table.rows or table.base:
            yield "tables: expected nothing beside it but a title"
        return
    for missing in ("title", "data", "runs", "columns", "rows"):
        if not getattr(table, missing):
            yield f"{missing}: is missing"
    for name, run in table.runs.items():
        yield from _run_problems(name, run, table)
    for name in table.timing.runs:
        yield from _unknown(f"timing.runs: {name}", name, list(table.runs))
    for label, row in table.rows.items():
        yield from _unknown(f"rows.{label}.run: {row.run}", row.run, list(table.runs))
        if row.timed is not None:
            yield from _unknown(f"rows.{label}.timed: {row.timed}", row.timed, table.timing.runs)
        for column in (*row.keys, *row.paper):
            yield from _unknown(f"rows.{label}: {column}", column, list(table.columns))
    expressions = dict(table.claims)
    for label, line in table.curve.lines.items() if table.curve else ():
        if not line.x or len(line.y) not in (1, len(line.x)):
            yield f"curve.lines.{label}: expected as many y as x, or one for all"
        expressions |= {f"curve.lines.{label}: {text}": text for text in (*line.x, *line.y)}
    for label, text in expressions.items():
        for name in names_in(text.replace("{}", "0")):
            known = [*table.runs, *(table.curve.lines if table.curve else ())]
            yield from _unknown(f"{label}: {name}", name, known)


def _run_problems(name: str, run: Run, table: Table) -> Iterator[str]:
    place = f"runs.{name}"
    if not name.isidentifier():
        yield f"{place}: expected a name of letters, digits and _"
    yield from _unknown(f"{place}.command: {run.command}", run.command, COMMANDS)
    if (run.of is not None) != (run.command == "evaluate"):
        yield f"{place}.of: expected a run for command evaluate, and only there"
    beside = bool(run.overrides or run.after or run.of)
    if run.same_as is not None and (beside or run.same_as.count("/") != 1):
        yield f"{place}.same_as: expected <table>/<run> and nothing beside it"
    for other in (*run.after.values(), *([run.of] if run.of else [])):
        yield from _unknown(f"{place}: {other}", other, list(table.runs))


def _unknown(place: str, name: str, known: list[str] | tuple[str, ...]) -> Iterator[str]:
    if name not in known:
        yield f"{place}: unknown name, expected one of {', '.join(known)}"
