"""`flowfeat-reproduce`: run what a table of the papers lacks, and write it beside the paper's."""

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from flowfeat import cli, overrides
from flowfeat.commands import REPRODUCE
from flowfeat.reproduction.curves import draw
from flowfeat.reproduction.figures import points_of, with_timed
from flowfeat.reproduction.jobs import Job, plan, write_json
from flowfeat.reproduction.markdown_tables import Report, page
from flowfeat.reproduction.runs import Outcome, Runner
from flowfeat.reproduction.table import TABLES, Table, read_tables
from flowfeat.reproduction.timing import Timed, time_runs

READING = "# What we make of it"
"""Heads what people write on a page about its figures."""


class Places(NamedTuple):
    """Where tables are read from, runs are kept and pages are written."""

    tables: Path = TABLES
    runs: Path = Path("runs/reproduce")
    out: Path = Path("docs/results")


def reproduce(
    name: str, seeds: int, runner: Runner, places: Places, extra: Sequence[str] = ()
) -> Path:
    """Run what a table lacks and write its page; failures stand in the page.

    Args:
        name: A table of ``configs/reproduce``, or one that stands for several.
        seeds: Every run is done with seed 0 .. seeds - 1.
        runner: Starts the runs.
        places: Folders.
        extra: Overrides for every run.

    Returns:
        The page, ``<out>/<name>.md``.

    Raises:
        UsageError: See ``read_tables`` and ``plan``.
    """
    tables = read_tables(name, places.tables)
    jobs = plan(tables, range(seeds), places.runs, extra, places.tables)
    done = runner.run_all(jobs.values())
    reports = []
    for part, table in tables.items():
        timed = Timed({}, {}, "", 0.0)
        if table.timing.runs:
            first = {run: jobs[part, run, 0] for run in table.runs}
            root = places.runs / part / "timed"
            timed = time_runs(runner, table.timing, first, done, root)
        own = {(run, seed): jobs[part, run, seed] for run in table.runs for seed in range(seeds)}
        outcomes = {key: done[job] for key, job in own.items()}
        reports.append(report(part, table, outcomes, own, done, timed, places, extra))
        write_json(places.runs / part / "figures.json", _plain(reports[-1]))
    path = places.out / f"{name}.md"
    write_page(path, page(reports), runner.say)
    return path


def write_page(path: Path, text: str, say: Callable[[str], None]) -> None:
    """Write a page, and behind it what somebody wrote below `READING` in the one that it replaces.

    Args:
        path: Of the page.
        text: The new page, without a reading.
        say: Is told that a reading of other figures was kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    old, found, reading = (path.read_text() if path.is_file() else "").partition(f"\n{READING}\n")
    if found and old != text:
        say(f"{path}: the figures changed; its section '{READING[2:]}' was kept as it was, read it")
    partial = path.with_name(f".{path.name}.tmp")
    partial.write_text(text + found + reading)
    os.replace(partial, path)


def report(
    name: str,
    table: Table,
    outcomes: Mapping[tuple[str, int], Outcome],
    jobs: Mapping[tuple[str, int], Job],
    done: Mapping[Job, Outcome],
    timed: Timed,
    places: Places,
    extra: Sequence[str],
) -> Report:
    """Gather what a table's page tells, and draw its curve."""
    seeds = sorted({seed for _, seed in outcomes})
    by_seed = [
        {run: o.figures for (run, s), o in outcomes.items() if s == seed and not o.error}
        for seed in seeds
    ]
    figures = with_timed(by_seed, timed.figures)
    picture = None
    points = [points_of(table.curve, one) if table.curve else {} for one in figures]
    if table.curve and draw(table.curve, points, table.title, places.out / f"{name}.png"):
        picture = f"{name}.svg"
    errors = {f"{run}, seed {s}": o.error for (run, s), o in outcomes.items() if o.error}
    errors |= {f"{run}, timed": error for run, error in timed.errors.items()}
    ran = [o for o in outcomes.values() if not o.error]
    return Report(
        name,
        table,
        seeds,
        figures,
        points,
        errors,
        extra,
        sum(done[job].seconds for job in dict.fromkeys(jobs.values())) + timed.seconds,
        sorted({o.hardware for o in ran}),
        sorted({o.versions for o in ran}),
        timed.about,
        picture,
    )


def _plain(report: Report) -> dict[str, object]:
    """Return all figures of a report, for `figures.json`."""
    by_seed = {
        f"seed{seed}": {run: dict(values) for run, values in figures.items()}
        for seed, figures in zip(report.seeds, report.figures, strict=True)
    }
    return {"figures": by_seed, "errors": dict(report.errors), "seconds": report.seconds}


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Entry point of `flowfeat-reproduce`."""
    signal.signal(signal.SIGTERM, _stop)  # ends the runs too
    try:
        command = REPRODUCE.command()
        given = command.arguments
        counts = {
            key: overrides.whole(given, key, least, least)
            for key, least in (("seeds", 1), ("jobs", 1), ("threads", 0))
        }
        usual = Places()
        places = Places(
            runs=Path(given.get("runs", usual.runs)), out=Path(given.get("out", usual.out))
        )
        threads = counts["threads"] or (1 if counts["jobs"] > 1 else None)
        runner = Runner(at_once=counts["jobs"], threads=threads)
        extra = list(command.overrides)
        if command.trust:
            extra.append(f"trust=[{','.join(command.trust)}]")
        path = reproduce(given["table"], counts["seeds"], runner, places, extra)
        runner.say(f"table: {path}")
    except cli.user_errors() as error:
        cli.fail(error)
    except KeyboardInterrupt:
        sys.stderr.write("flowfeat: interrupted; finished runs are kept\n")
        raise SystemExit(130) from None
