"""The points of a sweep as jobs: few trainings, and an evaluation per point."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from flowfeat.cli import UsageError, compose_config
from flowfeat.reproduction.jobs import Job, checkpoint_of, merged, quoted
from flowfeat.sweeping.sweep_file import INTERVAL, Cell, SweepFile
from flowfeat.trust import build

EVERY_FRAME = "every frame"
"""The line that joins the per-frame networks."""


class Score(NamedTuple):
    """The figure that says how good a model of a task is."""

    key: str
    higher_is_better: bool
    by_pairs: bool  # it comes from the paper's pairs, which must then be evaluated


@dataclass(frozen=True, eq=False)
class SweepJob(Job):
    """A training or an evaluation of a sweep."""

    checkpoint: Path | None = None  # one that was given, in the place of a training

    @property
    def name(self) -> str:
        return self.run

    def words(self) -> list[str]:
        if self.checkpoint is None:
            return super().words()
        given = [f"ckpt={self.checkpoint}", f"run_root={quoted(self.folder)}"]
        return [*given, *self.overrides, "logger=none"]

    def settings(self) -> dict[str, Any]:
        """Return what decides the result; a given checkpoint is told apart by size and time."""
        try:
            settings = super().settings()
        except UsageError as error:
            raise UsageError(str(error).replace("table ", "sweep ", 1)) from None
        if self.checkpoint is not None:
            file = self.checkpoint.stat()
            settings["ckpt"] = [str(self.checkpoint), file.st_size, file.st_mtime_ns]
        return settings


@dataclass(frozen=True)
class PointJob:
    """A point of the picture: where it belongs, and the evaluation that gives it."""

    line: str
    label: str  # what the picture and the table call it
    interval: int | None
    baseline: bool
    cell: Cell
    job: SweepJob


@dataclass(frozen=True)
class Request:
    """What is swept, and how."""

    sweep: SweepFile
    task: str
    method: str
    root: Path
    extra: tuple[str, ...] = ()  # overrides of everything
    seed: int = 0
    checkpoint: Path | None = None
    retrain: bool = False

    @property
    def base(self) -> tuple[str, ...]:
        """Return the overrides that all trainings begin with."""
        fixed = {k: v for k, v in self.sweep.fixed.items() if k not in ("task", "method")}
        begin = ["callbacks=quiet", f"task={self.task}", f"method={self.method}"]
        return (*begin, *words_of(fixed), *self.extra)


def words_of(cell: Cell) -> list[str]:
    """Write a cell as overrides."""
    return [f"{key}={_value(value)}" for key, value in cell.items()]


def slug(cell: Cell) -> str:
    """Name a cell's folder: ``flow-flownet_l5``."""
    parts = [f"l{v}" if k == INTERVAL else f"{k}-{v}" for k, v in cell.items()]
    return re.sub(r"[^\w.-]+", "-", "_".join(parts)) or "one"


def chosen(words: Iterable[str]) -> tuple[str, ...]:
    """Keep the last word of every key, and drop what stands before the choice of its group."""
    kept: list[str] = []
    for word in words:
        key = word.partition("=")[0].lstrip("+")
        kept = [k for k in kept if not k.lstrip("+").startswith(f"{key}.")]
        kept.append(word)
    return merged(kept)


def score_of(config: DictConfig) -> Score:
    """Return the score of a config's task.

    Raises:
        UsageError: A method that runs on no stream.
    """
    if not config.temporal:
        raise UsageError(f"method={config.method}: runs on no stream, expected one to sweep")
    task = build(config.module, trust=config.trust).func
    return Score(task.monitor, task.monitor_mode == "max", task.protocol == "pairs")


def plan(request: Request) -> tuple[list[PointJob], Score]:
    """Return the points of a sweep and of its baselines; trainings are what their jobs need.

    Points that differ in l alone share a training, unless ``retrain``. With a checkpoint nothing of
    the sweep itself is trained.

    Raises:
        UsageError: An unknown key or choice, of the command or of the file.
    """
    sweep = request.sweep
    config = _composed(request)
    score = score_of(config)
    trainings: dict[tuple[str, ...], SweepJob] = {}

    def training(name: str, words: Sequence[str]) -> SweepJob:
        spare = _evaluation(config, intervals="[]", copy="false", pairs_every=0)
        key = chosen([*request.base, *words, *spare])
        if key not in trainings:
            folder = request.root / "trainings" / name
            trainings[key] = SweepJob(sweep.name, f"training {name}", request.seed, "train", key,
                                      {}, folder)  # fmt: skip
        return trainings[key]

    def evaluation(name: str, words: Sequence[str], of: SweepJob | None) -> SweepJob:
        every = OmegaConf.select(config, "evaluation.pairs_every") if score.by_pairs else 0
        plain = _evaluation(config, intervals="[]", copy="false", pairs_every=every)
        folder = request.root / "points" / name
        needs: Mapping[str, Job] = {} if of is None else {"ckpt": of}
        before = request.extra if of is None else ()
        whole = chosen([*before, *words, *plain])
        given = request.checkpoint if of is None else None
        return SweepJob(sweep.name, name, request.seed, "evaluate", whole, needs, folder, given)

    points = []
    for cell in sweep.cells():
        trained = cell if request.retrain else {k: v for k, v in cell.items() if k != INTERVAL}
        rest = {k: v for k, v in cell.items() if k != INTERVAL}
        of, words = None, words_of(cell)
        if request.checkpoint is None:
            of = training(slug(trained), words_of(trained))
            words = words_of({k: v for k, v in cell.items() if k == INTERVAL})
        line = " + ".join(str(value) for value in rest.values()) or request.method
        interval = cell.get(INTERVAL)
        job = evaluation(slug(cell), words, of)
        points.append(PointJob(line, line, interval, False, cell, job))
    for baseline in sweep.baselines:
        name = re.sub(r"\W+", "_", baseline.name)
        of = training(f"baseline_{name}", baseline.train)
        if baseline.over_intervals and sweep.intervals:
            for interval in sweep.intervals:
                words = [*baseline.evaluate, f"{INTERVAL}={interval}"]
                job = evaluation(f"baseline_{name}_l{interval}", words, of)
                line = baseline.name
                points.append(PointJob(line, line, interval, True, {}, job))
        else:
            job = evaluation(f"baseline_{name}", baseline.evaluate, of)
            points.append(PointJob(EVERY_FRAME, baseline.name, None, True, {}, job))
    return points, score


def jobs_of(points: Sequence[PointJob]) -> list[Job]:
    """Return all jobs, each training before the points that need it."""
    jobs: list[Job] = []
    for point in points:
        jobs.extend([*point.job.needs.values(), point.job])
    return list(dict.fromkeys(jobs))


def checkpoint_words(point: PointJob) -> list[str]:
    """Return the arguments of an evaluation without its folder, to try a given checkpoint."""
    path = point.job.checkpoint or checkpoint_of(point.job.needs["ckpt"].folder)
    return [f"ckpt={path}", *point.job.overrides]


def _composed(request: Request) -> DictConfig:
    """Compose the first cell; what only the file can have got wrong names it."""
    try:
        return compose_config([*chosen([*request.base, *_first(request.sweep)]), "logger=none"])
    except UsageError as error:
        own = [f"task={request.task}", f"method={request.method}", *request.extra]
        compose_config(chosen(own))
        raise UsageError(f"sweep={request.sweep.name}: {error}") from None


def _first(sweep: SweepFile) -> list[str]:
    """Return the first cell's words: enough to see that the keys exist."""
    return words_of({key: values[0] for key, values in sweep.grid.items()})


def _evaluation(config: DictConfig, **values: object) -> list[str]:
    """Return overrides of `evaluation`, as far as the task has the keys."""
    return [f"evaluation.{k}={v}" for k, v in values.items() if k in config.evaluation]


def _value(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value).replace(" ", "")
