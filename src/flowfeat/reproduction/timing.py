"""The speed pass: checkpoints timed one at a time, in turns, when all training is done."""

import shutil
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from flowfeat.reproduction.jobs import (
    Job,
    checkpoint_of,
    quoted,
    read_figures,
    read_json,
    write_json,
)
from flowfeat.reproduction.machine import hardware, load_word, versions
from flowfeat.reproduction.runs import Outcome, Runner, lift
from flowfeat.reproduction.table import Timing

STAMP = "timed.json"


class Timed(NamedTuple):
    """Speeds of one pass."""

    figures: Mapping[str, Mapping[str, float]]  # run -> key -> median over the rounds
    errors: Mapping[str, str]  # run -> why it has none
    about: str  # rounds, threads, the machine and how busy it was
    seconds: float


def time_runs(
    runner: Runner, timing: Timing, jobs: Mapping[str, Job], done: Mapping[Job, Outcome], root: Path
) -> Timed:
    """Evaluate the checkpoints of a table's timed runs, round after round, and take medians.

    A pass is kept as a whole or done again as a whole: only figures of one pass, on one machine in
    one state, are compared.

    Args:
        runner: Calls the console script.
        timing: Which runs, how often, with which overrides.
        jobs: The trained jobs by run.
        done: Their outcomes; runs that failed are left out.
        root: Folder of the pass.
    """
    able = [name for name in timing.runs if not done[jobs[name]].error]
    errors = {name: "its run failed" for name in timing.runs if name not in able}
    settings = {
        "ids": {name: done[jobs[name]].id for name in able},
        "overrides": list(timing.overrides),
        "rounds": timing.rounds,
        "threads": timing.threads,
        "hardware": hardware(),
    }
    stamp = read_json(root / STAMP)
    if stamp is not None and stamp["settings"] == settings and not stamp["errors"]:
        runner.say(f"{root.name}: kept ({len(able)} runs)")
        return Timed(stamp["figures"], errors, stamp["about"], stamp["seconds"])
    if stamp is not None:
        shutil.rmtree(root)
    begin, load = time.perf_counter(), load_word()
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in able}
    failed: dict[str, str] = {}
    write_json(root / STAMP, {"settings": None, "errors": {}})
    for number in range(timing.rounds):
        for name in able:
            if name in failed:
                continue
            folder = root / name / f"round{number}"
            words = [f"ckpt={checkpoint_of(jobs[name].folder)}", f"run_root={quoted(folder)}"]
            words += ["logger=none", *timing.overrides]
            error = runner.call("evaluate", words, folder / "log.txt", threads=timing.threads)
            if error is None:
                lift(folder)
                measured[name].append(read_figures(folder / "results.json") or {})
            else:
                failed[name] = error
            how = f"failed: {error}" if error else "timed"
            runner.say(f"{name}: {how}, round {number + 1} of {timing.rounds}")
    figures = {name: medians(rounds) for name, rounds in measured.items() if name not in failed}
    about = (
        f"median of {timing.rounds} rounds over the runs, one at a time on {timing.threads} "
        f"thread{'s' if timing.threads > 1 else ''}, {hardware()}; load at its start {load}; "
        f"{versions()}"
    )
    seconds = time.perf_counter() - begin
    content = {"figures": figures, "about": about, "seconds": seconds, "errors": failed}
    write_json(root / STAMP, {"settings": settings, **content})
    return Timed(figures, errors | failed, about, seconds)


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of every figure that all rounds have."""
    common = set.intersection(*(set(one) for one in rounds)) if rounds else set()
    return {key: statistics.median(one[key] for one in rounds) for key in sorted(common)}
