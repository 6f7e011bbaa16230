"""Evaluate one checkpoint at several l, as a copy, and on the paper's pairs."""

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch

from flowfeat.interfaces import VideoBatch
from flowfeat.speed import key_frame_interval
from flowfeat.tasks.video_task import VideoTask


def evaluate(
    trainer: pl.Trainer,
    task: VideoTask,
    data: pl.LightningDataModule,
    intervals: Sequence[int] = (),
    copy: bool = True,
    pairs_every: int = 0,
) -> dict[str, float]:
    """Run the test streams under every setting.

    Args:
        trainer: Runs the streams; callbacks add their own figures (speed).
        task: With its weights.
        data: Its test loader streams whole videos in order.
        intervals: Key-frame intervals beside the method's own; unused without key frames.
        copy: Also with zero flow and unit scale, at the method's own interval.
        pairs_every: The paper's l pairs for every n-th labelled frame; 0 leaves them out.

    Returns:
        ``mAP_l10``, ``mAP_copy_l10``, ``mAP_pairs_l10``, ``speedup_l10``, ...; without the suffix
        for methods that have no key frames.
    """
    own = task.temporal.key_frames
    if own is None:
        return _test(trainer, task, data)
    report: dict[str, float] = {}
    for interval in sorted({*intervals, own.interval}):
        with key_frame_interval(task.temporal, interval):
            report |= _suffixed(_test(trainer, task, data), f"_l{interval}")
    if copy:
        report |= _suffixed(_copied(trainer, task, data), f"_copy_l{own.interval}")
    if pairs_every:
        pairs = PairEvaluation(task, own.interval, pairs_every)
        report |= _suffixed(_test(trainer, pairs, data), f"_pairs_l{own.interval}")
    return report


def _test(
    trainer: pl.Trainer, task: pl.LightningModule, data: pl.LightningDataModule
) -> dict[str, float]:
    return {k: float(v) for k, v in trainer.test(task, datamodule=data, verbose=False)[0].items()}


def _suffixed(values: dict[str, float], suffix: str) -> dict[str, float]:
    return {name + suffix: value for name, value in values.items()}


def _copied(trainer: pl.Trainer, task: VideoTask, data: pl.LightningDataModule) -> dict[str, float]:
    """Score the method with zero flow; its speed is of no interest."""
    moving, copying = task.temporal, task.temporal.copying()
    if copying is None:
        return {}
    task.temporal = copying
    try:
        scores = _test(trainer, task, data)
    finally:
        task.temporal = moving
    return {name: value for name, value in scores.items() if name in task.metrics}


class PairEvaluation(pl.LightningModule):
    """The paper's protocol: for a labelled frame i all l pairs (k, i), k = i - l + 1 .. i.

    Pairs that would begin before the video are left out. Frames stay in memory for l - 1 steps.
    """

    def __init__(self, task: VideoTask, interval: int, every: int) -> None:
        super().__init__()
        self.task = task
        self.interval = interval
        self.every = every
        self._past: torch.Tensor | None = None  # (1, <= l - 1, 3, H, W), owned by the test loop

    def on_test_epoch_start(self) -> None:
        self._past = None
        self.task.reset_metrics()

    def test_step(self, batch: Any, batch_index: int) -> None:
        video: VideoBatch = batch
        past = None if bool(video["starts"].all()) else self._past
        clip = video["frames"] if past is None else torch.cat((past, video["frames"]), dim=1)
        before = clip.shape[1] - video["frames"].shape[1]
        for t in range(video["frames"].shape[1]):
            if int(video["indices"][0, t]) % self.every == self.every - 1:
                self._score(clip, before + t, batch, t)
        self._past = clip[:, -(self.interval - 1) :] if self.interval > 1 else None

    def _score(self, clip: torch.Tensor, current: int, batch: Any, step: int) -> None:
        """Score every pair that ends on one frame, each as a result of its own."""
        keys = torch.arange(max(0, current - self.interval + 1), current + 1)[None]
        output = self.task.temporal.pairs(clip, keys, torch.full_like(keys, current))
        raw = self.task.head(output.features, output.frames)
        sizes = batch["sizes"].expand(keys.shape[1], -1)
        for predictions in self.task.head.postprocess(raw, sizes):
            self.task.score([predictions], self.task.truth(batch, step))

    def on_test_epoch_end(self) -> None:
        for name, value in self.task.computed_metrics().items():
            self.log(name, value)
