"""`flowfeat-sweep`: the grid of a W&B sweep file, on W&B's server or here, and its trade-off."""

import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import FileLock
from omegaconf import OmegaConf

from flowfeat import cli, overrides, tradeoff
from flowfeat.checkpoint import restore_task
from flowfeat.commands import SWEEP
from flowfeat.profile_tables import print_table
from flowfeat.reproduction.jobs import Job, write_json
from flowfeat.reproduction.machine import hardware, versions
from flowfeat.reproduction.runs import Outcome, Runner
from flowfeat.sweeping.points import (
    PointJob,
    Request,
    Score,
    checkpoint_words,
    jobs_of,
    plan,
)
from flowfeat.sweeping.sweep_file import SWEEPS, read_sweep
from flowfeat.trust import build

SERVER = {"_target_": "callbacks.wandb_sweep.WandbSweep"}


def run_points(
    request: Request, runner: Runner, also: Sequence[Path] = ()
) -> tuple[Path, dict[str, Any]]:
    """Run what a sweep lacks, and write `tradeoff.json` and `tradeoff.png` into its folder.

    Points that fail stand in the table and do not stop the rest.

    Args:
        request: What to sweep.
        runner: Starts the trainings and evaluations.
        also: Finished runs to draw beside it.

    Returns:
        The folder, and what `tradeoff.json` says.

    Raises:
        UsageError, ValueError, FileNotFoundError: Bad input, before anything runs.
    """
    planned, score = plan(request)
    check_checkpoint(request, planned)
    points = [p for folder in also for p in tradeoff.points_of_run(folder, score.key, request.task)]
    done = runner.run_all(jobs_of(planned))
    failed: dict[str, str] = {}
    for point in planned:
        outcome = done[point.job]
        try:
            if outcome.error:
                raise ValueError(outcome.error)
            points.append(_point(point, outcome, score))
        except ValueError as error:
            failed[point.job.name] = str(error)
    return request.root, report(request, points, failed, score)


def _point(point: PointJob, outcome: Outcome, score: Score) -> tradeoff.Point:
    return tradeoff.point_of(
        outcome.figures, score.key, point.line, point.label, point.interval, point.baseline
    )


def report(
    request: Request, points: Sequence[tradeoff.Point], failed: Mapping[str, str], score: Score
) -> dict[str, Any]:
    """Print the table and the sentence, draw the curve and write the figures."""
    title = f"{request.task} / {request.method}, sweep {request.sweep.name}"
    said = tradeoff.sentence(points, request.method, score.key, score.higher_is_better)
    print_table(tradeoff.table(points, failed, title, score.key))
    content: dict[str, Any] = {
        "task": request.task,
        "method": request.method,
        "sweep": request.sweep.name,
        "accuracy": score.key,
        "points": [point._asdict() for point in points],
        "failed": dict(failed),
        "sentence": said,
        "hardware": hardware(),
        "versions": versions(),
    }
    write_json(request.root / "tradeoff.json", content)
    tradeoff.draw(points, title, score.key, request.root / "tradeoff.png")
    for name, reason in failed.items():
        sys.stdout.write(f"failed: {name}: {reason}\n")
    sys.stdout.write(f"{said}\ntrade-off: {request.root / 'tradeoff.json'}\n")
    return content


def check_checkpoint(request: Request, planned: Sequence[PointJob]) -> None:
    """See that a given checkpoint fits every model of the sweep, before anything runs.

    Raises:
        UsageError, ValueError, FileNotFoundError: Another task or method, keys that it has not,
            weights that do not fit.
    """
    if request.checkpoint is None:
        return
    seen = set()
    for point in planned:
        if point.baseline or point.line in seen:
            continue
        seen.add(point.line)
        _, *words = checkpoint_words(point)
        given = {"ckpt": str(request.checkpoint)}
        chosen = (f"task={request.task}", f"method={request.method}", *words)
        try:
            stored = overrides.open_stored(overrides.Command(given, (), chosen))
            restore_task(stored.checkpoint, stored.config)
        except cli.UsageError as error:
            raise cli.UsageError(f"{request.checkpoint}: does not fit the sweep, {error}") from None


def run_point(request: Request, cell: Mapping[str, str], runner: Runner) -> dict[str, float]:
    """Run one point for an agent of W&B; agents that share a training wait for it.

    Args:
        request: Its sweep.
        cell: Values of all swept keys, as typed.
        runner: Starts the training and the evaluation.

    Raises:
        UsageError: A point outside the grid.
        ValueError: It failed.
    """
    planned, score = plan(request)
    wanted = {key: str(value) for key, value in cell.items()}
    found = [
        p for p in planned if not p.baseline and {k: str(v) for k, v in p.cell.items()} == wanted
    ]
    if not found:
        raise cli.UsageError(f"point {wanted}: not in the grid of sweep {request.sweep.name}")
    (point,) = found
    trainings: list[Job] = list(point.job.needs.values())
    first = (trainings or [point.job])[0].folder
    lock = first.with_name(f"{first.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        done = runner.run_all([*trainings, point.job])
    outcome = done[point.job]
    if outcome.error:
        raise ValueError(f"{point.job.name}: {outcome.error}")
    at = _point(point, outcome, score)
    speed = {} if at.speedup is None else {"speedup": at.speedup}
    return {**outcome.figures, "accuracy": at.accuracy, "fps": at.fps, **speed}


def served(request: Request, given: Mapping[str, str]) -> dict[str, Any]:
    """Return the sweep file for the server: this command's task, method and overrides in it."""
    content = dict(request.sweep.content)
    parameters = dict(content["parameters"])
    script = str(Path(sys.executable).parent / "flowfeat-sweep")
    fixed = {"task": request.task, "method": request.method}
    for key, value in fixed.items():
        parameters[key] = {"value": value}
    own = [
        f"{k}={v}" for k, v in given.items() if k in ("sweep", "retrain", "seed", "runs", "ckpt")
    ]
    head = ["${env}", script, "point=true", f"sweep={request.sweep.name}"]
    own = [word for word in own if not word.startswith("sweep=")]
    command = [*head, *own, *request.extra, "${args_no_hyphens}"]
    return {**content, "program": script, "command": command, "parameters": parameters}


def request_of(command: overrides.Command, folder: Path = SWEEPS) -> Request:
    """Read what a command line asks for.

    Raises:
        UsageError: See ``read_sweep``; a seed or a switch that is none.
        FileNotFoundError: No such checkpoint.
    """
    given = command.arguments
    sweep = read_sweep(given.get("sweep", "interval"), folder)
    if given.get("baselines", "true").lower() not in ("true", "false"):
        raise cli.UsageError(f"baselines={given['baselines']}: expected true or false")
    if given.get("baselines", "true").lower() == "false":
        sweep = replace(sweep, baselines=())
    root = Path(given.get("runs", "runs/sweep")) / given["task"] / given["method"] / sweep.name
    checkpoint = Path(given["ckpt"]).expanduser() if given.get("ckpt") else None
    if checkpoint is not None and not checkpoint.is_file():
        raise FileNotFoundError(f"{checkpoint}: no such checkpoint")
    retrain = overrides.switch(given, "retrain")
    if checkpoint is not None and retrain:
        raise cli.UsageError("ckpt= and retrain=true: expected one of them")
    extra = list(command.overrides)
    if command.trust:
        extra.append(f"trust=[{','.join(command.trust)}]")
    seed = overrides.whole(given, "seed", 0, 0)
    task, method = given["task"], given["method"]
    return Request(sweep, task, method, root, tuple(extra), seed, checkpoint, retrain)


def sweep(command: overrides.Command, runner: Runner, server: Any) -> None:
    """Do what the command line asks for, on the server first where there is one."""
    given = command.arguments
    request = request_of(command)
    if overrides.switch(given, "point"):
        swept = {word.partition("=")[0]: word for word in request.extra}
        cell = {k: swept[k].partition("=")[2] for k in request.sweep.grid if k in swept}
        rest = tuple(word for word in request.extra if word.partition("=")[0] not in cell)
        figures = run_point(replace(request, extra=rest), cell, runner)
        if server.in_agent:
            server.log_point(figures)
        return
    also = [Path(p.strip()) for p in given.get("also", "").strip("[] ").split(",") if p.strip()]
    planned, _ = plan(request)
    check_checkpoint(request, planned)
    if server.online:
        reason = server.serve(served(request, given), sum(1 for _ in request.sweep.cells()))
        runner.say(f"W&B: {reason}; going on here" if reason else "W&B: the points are done")
    else:
        runner.say(f"W&B: offline ({server.reason}), the grid runs here")
    root, content = run_points(request, runner, also)
    if server.online and (root / "tradeoff.png").is_file():
        name = f"{request.task}/{request.method}/{request.sweep.name}"
        server.log_tradeoff(name, root / "tradeoff.png", content["sentence"], content)


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Entry point of `flowfeat-sweep`."""
    signal.signal(signal.SIGTERM, _stop)  # ends the runs too
    try:
        command = SWEEP.command()
        sweep(command, Runner(), build(OmegaConf.create(SERVER), trust=[SERVER["_target_"]]))
    except cli.user_errors() as error:
        cli.fail(error)
    except KeyboardInterrupt:
        sys.stderr.write("flowfeat: interrupted; finished points are kept\n")
        raise SystemExit(130) from None
