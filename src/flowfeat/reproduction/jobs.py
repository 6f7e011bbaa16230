"""The runs of tables as jobs: what each needs, the words that start it, and what it left behind."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from flowfeat.cli import UsageError, compose_config
from flowfeat.reproduction.table import TABLES, Run, Table, read_table
from flowfeat.start_from import key_of

STAMP = "run.json"
"""File in every run's folder: what made it."""

UNIMPORTANT = ("run_root", "logger", "profile", "resume", "expected")
"""Settings that do not change what a training or an evaluation gives."""


@dataclass(frozen=True, eq=False)
class Job:
    """One run of a table under one seed."""

    table: str
    run: str
    seed: int
    command: str
    overrides: tuple[str, ...]
    needs: Mapping[str, "Job"]  # part, or "ckpt" -> the job whose checkpoint it takes
    folder: Path

    @property
    def name(self) -> str:
        """What progress lines and reports call it."""
        return f"{self.table}/{self.run} seed {self.seed}"

    def words(self) -> list[str]:
        """Return the arguments of its console script, once what it needs is there."""
        words = [*self.overrides, "logger=none"]
        if self.command == "evaluate":
            checkpoint = checkpoint_of(self.needs["ckpt"].folder)
            return [f"ckpt={checkpoint}", f"run_root={quoted(self.folder)}", *words]
        for part, job in self.needs.items():
            words.append(f"{key_of(part)}={quoted(checkpoint_of(job.folder))}")
        return [*words, f"seed={self.seed}", f"hydra.run.dir={quoted(self.folder)}"]

    def settings(self) -> dict[str, Any]:
        """Return what decides the result: the composed config, or the overrides of a checkpoint's.

        Raises:
            UsageError: Overrides that do not compose.
        """
        if self.command == "evaluate":
            return {"overrides": sorted(self.overrides)}
        try:
            return {**flat_config(self.overrides), "seed": self.seed}
        except UsageError as error:
            raise UsageError(f"table {self.table}, run {self.run}: {error}") from None


def plan(
    tables: Mapping[str, Table],
    seeds: Sequence[int],
    root: Path,
    extra: Sequence[str] = (),
    folder: Path = TABLES,
) -> dict[tuple[str, str, int], Job]:
    """Return every job of the tables, those that others need first, seed after seed.

    Args:
        tables: By name.
        seeds: Every run is done once with each.
        root: Runs lie in ``<root>/<table>/<run>/seed<k>``.
        extra: Overrides for every run, after its own.
        folder: Where shared tables are read from.

    Returns:
        Jobs by table, run and seed; a shared run also under the name that it has here.

    Raises:
        UsageError: Runs that need one another, or an unknown shared run.
    """
    known = dict(tables)
    jobs: dict[tuple[str, str, int], Job] = {}
    open_: list[tuple[str, str, int]] = []

    def job(table: str, name: str, seed: int) -> Job:
        key = (table, name, seed)
        if key in jobs:
            return jobs[key]
        if key in open_:
            raise UsageError(f"table {table}: run {name} needs itself")
        if table not in known:
            known[table] = read_table(table, folder)
        if name not in known[table].runs:
            names = ", ".join(known[table].runs)
            raise UsageError(f"table {table} has no run {name}, expected one of {names}")
        run = known[table].runs[name]
        open_.append(key)
        if run.same_as is not None:
            other, _, its_name = run.same_as.partition("/")
            jobs[key] = job(other, its_name, seed)
        else:
            needed = {**run.after, **({"ckpt": run.of} if run.of else {})}
            needs = {part: job(table, other, seed) for part, other in needed.items()}
            words = merged([*(known[table].base if _has_base(run) else []), *run.overrides, *extra])
            place = root / table / name / f"seed{seed}"
            jobs[key] = Job(table, name, seed, run.command, words, needs, place)
        open_.remove(key)
        return jobs[key]

    for seed in seeds:
        for table, content in tables.items():
            for name in content.runs:
                job(table, name, seed)
    return jobs


def _has_base(run: Run) -> bool:
    return run.base and run.command != "evaluate"  # a checkpoint brings its own settings


def merged(words: Iterable[str]) -> tuple[str, ...]:
    """Keep the last of the overrides of each key: Hydra refuses two choices of one group."""
    last: dict[str, str] = {}
    for word in words:
        last[word.partition("=")[0].lstrip("+")] = word
    return tuple(last.values())


def quoted(path: Path) -> str:
    """Write a path as Hydra's grammar wants it."""
    text = str(path).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"


def checkpoint_of(folder: Path) -> Path:
    """Return the checkpoint of a run's report; ``best.ckpt`` where nothing is trained."""
    last = folder / "last.ckpt"
    return last if last.is_file() else folder / "best.ckpt"


@cache
def flat_config(words: tuple[str, ...]) -> Mapping[str, Any]:
    """Return a composed config's values by dotted key, without those that decide nothing.

    Raises:
        UsageError: See ``compose_config``.
    """
    container = OmegaConf.to_container(compose_config([*words, "logger=none"]), resolve=True)
    return {k: v for k, v in _leaves(container) if k.split(".")[0] not in UNIMPORTANT}


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict) and node:
        for name, value in node.items():
            yield from _leaves(value, f"{key}.{name}".lstrip("."))
    else:
        yield key, node


WITHOUT_EFFECT = (
    "callbacks.checkpoints.",
    "callbacks.progress",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.strategy",
)
"""Settings that change no figure: when states are saved, and on which devices a batch is spread."""


def changed(before: Mapping[str, Any], now: Mapping[str, Any], chosen: Iterable[str]) -> list[str]:
    """Return the keys whose values differ.

    A key that is new and that no override chose came with the code, whose default says "as before".
    """
    names = {word.partition("=")[0].lstrip("+") for word in chosen}
    gone = [key for key in before if key not in now or before[key] != now[key]]
    new = [
        key
        for key in now
        if key not in before and any(key == n or key.startswith(f"{n}.") for n in names)
    ]
    return sorted(key for key in {*gone, *new} if not key.startswith(WITHOUT_EFFECT))


def write_json(path: Path, content: object) -> None:
    """Write atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".json.tmp")
    partial.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    os.replace(partial, path)


def read_figures(path: Path) -> dict[str, float] | None:
    """Return a report's figures, those that have a value; None where there is no report."""
    content = read_json(path)
    return None if content is None else {k: v for k, v in content.items() if v is not None}


def read_json(path: Path) -> dict[str, Any] | None:
    """Return a file's mapping; None where there is none or half of one."""
    try:
        content = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None
    return content if isinstance(content, dict) else None
