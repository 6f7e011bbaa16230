"""Evaluate one checkpoint at several l, as a copy, on streams and on the paper's pairs."""

import logging
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import pytorch_lightning as pl

from flowfeat.interfaces import TemporalModule
from flowfeat.pairs import PairEvaluation, Scores, over_interval, spread
from flowfeat.speed import key_frame_interval
from flowfeat.tasks.task import Task
from flowfeat.tasks.video_task import VideoTask

log = logging.getLogger(__name__)

CONTROLS = {
    "copy": "copied features",
    "no_flow": "features that are scaled but not moved",
    "no_scale": "features that are moved but not scaled",
}
"""What is said of a method's controls, by name."""


@runtime_checkable
class SpeedMeter(Protocol):
    """A callback that measures the speed at the end of a test, at all l beside each other."""

    figures: dict[str, float]
    """What the last test gave, by key, complete with its suffix."""

    def measure_next(self, intervals: Sequence[int]) -> None:
        """Measure in the next test, at these l; without key frames at none."""


def evaluate(
    trainer: pl.Trainer,
    task: Task,
    data: pl.LightningDataModule,
    intervals: Sequence[int] = (),
    copy: bool = True,
    pairs_every: int = 0,
) -> dict[str, float]:
    """Run the test streams under every setting; a task without streams has only the one.

    The task's ``protocol`` says what its plain figures are: scores of streams (``mAP_l10``, beside
    ``mAP_pairs_l10``), or of the paper's pairs (``mIoU_l5``, beside ``mIoU_stream_l5``). The latter
    are given at every l and, at the method's own, by distance: ``mIoU_distance0_l5`` ..., with
    the worst of them, ``mIoU_worst_l5``.

    Args:
        trainer: Runs the streams; callbacks add their own figures (speed).
        task: With its weights.
        data: Its test loader streams whole videos in order.
        intervals: Key-frame intervals beside the method's own; unused without key frames.
        copy: Also with the key frame's features copied (zero flow, unit scale), and with either of
            the two alone (``no_flow``, ``no_scale``), at the method's own interval.
        pairs_every: The paper's l pairs for every n-th labelled frame; 0 leaves them out.

    Returns:
        Flat figures by key; without the suffix for methods that have no key frames.
    """
    if not isinstance(task, VideoTask):
        return _test(trainer, task, data)
    own = task.temporal.key_frames
    if own is None:
        _measure_next(trainer, ())
        return _test(trainer, task, data) | _speed(trainer)
    wanted = sorted({*intervals, own.interval})
    by_pairs = task.protocol == "pairs"
    report: dict[str, float] = {}
    for name, control in (task.temporal.controls() if copy else {}).items():
        log.info(f"evaluating {CONTROLS[name]} at l = {own.interval}")
        values = _controlled(trainer, task, control, data, pairs_every)
        report |= _suffixed(values, f"_{name}_l{own.interval}")
    # The method's own l comes last: callbacks that save pictures keep those of the last test.
    for interval in sorted(wanted, key=lambda interval: (interval == own.interval, interval)):
        log.info(f"evaluating at l = {interval}")
        if interval == own.interval:
            _measure_next(trainer, wanted)
        with key_frame_interval(task.temporal, interval):
            values = _test(trainer, task, data)
        for name, value in values.items():
            kind = "stream_" if by_pairs and task.is_score(name) else ""
            report[f"{name}_{kind}l{interval}"] = value
    report |= _speed(trainer)
    if by_pairs and pairs_every:
        scores = _pairs(trainer, task, data, wanted[-1], pairs_every)
        for interval in wanted:
            report |= _suffixed(over_interval(scores, interval), f"_l{interval}")
        report |= _suffixed(_by_distance(task, scores[: own.interval]), f"_l{own.interval}")
    elif pairs_every:
        scores = _pairs(trainer, task, data, own.interval, pairs_every)
        report |= _suffixed(over_interval(scores, own.interval), f"_pairs_l{own.interval}")
    return report


def _test(
    trainer: pl.Trainer, task: pl.LightningModule, data: pl.LightningDataModule
) -> dict[str, float]:
    return {k: float(v) for k, v in trainer.test(task, datamodule=data, verbose=False)[0].items()}


def _measure_next(trainer: pl.Trainer, intervals: Sequence[int]) -> None:
    for meter in _meters(trainer):
        meter.measure_next(intervals)


def _speed(trainer: pl.Trainer) -> dict[str, float]:
    """Return the figures of the last test's meters."""
    return {name: value for meter in _meters(trainer) for name, value in meter.figures.items()}


def _meters(trainer: pl.Trainer) -> list[SpeedMeter]:
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # Lightning's
    return [callback for callback in callbacks if isinstance(callback, SpeedMeter)]


def _suffixed(values: Scores, suffix: str) -> dict[str, float]:
    return {name + suffix: value for name, value in values.items()}


def _pairs(
    trainer: pl.Trainer,
    task: VideoTask,
    data: pl.LightningDataModule,
    interval: int,
    every: int,
) -> list[Scores]:
    """Return the scores of the paper's pairs at distance 0 .. interval - 1."""
    log.info(f"evaluating pairs of frames up to {interval - 1} apart")
    pairs = PairEvaluation(task, interval, every)
    trainer.test(pairs, datamodule=data, verbose=False)
    return pairs.by_distance


def _by_distance(task: VideoTask, scores: Sequence[Scores]) -> dict[str, float]:
    return spread(scores, task.monitor, task.monitor_mode)


def _controlled(
    trainer: pl.Trainer,
    task: VideoTask,
    control: TemporalModule,
    data: pl.LightningDataModule,
    pairs_every: int,
) -> dict[str, float]:
    """Score the method without a part of its propagation, by the task's own protocol.

    The speed of what is left is of no interest.
    """
    method, key_frames = task.temporal, task.temporal.key_frames
    task.temporal = control
    try:
        if task.protocol == "streams":
            values = _test(trainer, task, data)
            return {name: value for name, value in values.items() if task.is_score(name)}
        if not pairs_every or key_frames is None:
            return {}
        scores = _pairs(trainer, task, data, key_frames.interval, pairs_every)
        return over_interval(scores, key_frames.interval) | _by_distance(task, scores)
    finally:
        task.temporal = method
