"""The paper's protocol: all pairs (k, i) that end on a labelled frame i, scored by distance."""

import copy
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torchmetrics import Metric, SumMetric

from flowfeat.batches import VideoBatch
from flowfeat.results import results_of
from flowfeat.tasks.video_task import VideoTask

Scores = Mapping[str, float]
_AT_ONCE = 5  # pairs that run together: bounds the memory, whatever l is


class PairEvaluation(pl.LightningModule):
    """For a labelled frame i all l pairs (k, i), k = i - l + 1 .. i (section 5.2).

    Every distance i - k has a dataset's metrics of its own; ``over_interval`` averages them, as the
    authors do. A pair's features do not depend on l, so the largest l serves all smaller ones.
    Pairs that would begin before the video are left out. Frames stay in memory for l - 1 steps.

    Args:
        task: What is evaluated.
        interval: l.
        every: Score every n-th frame of a video, if it is labelled.
    """

    by_distance: list[Scores]
    """Scores at distance 0 .. l - 1 once a test has ended; without entries where no pair was."""

    def __init__(self, task: VideoTask, interval: int, every: int = 1) -> None:
        super().__init__()
        if interval < 1 or every < 1:
            raise ValueError(f"pairs: expected interval, every >= 1, found {interval}, {every}")
        self.task = task
        self.interval = interval
        self.every = every
        self.metrics = nn.ModuleList(copy.deepcopy(task.metrics) for _ in range(interval))
        self.pairs = nn.ModuleList(SumMetric() for _ in range(interval))
        self.by_distance = []
        self._past: Tensor | None = None  # (1, <= l - 1, 3, H, W), owned by the test loop

    def on_test_epoch_start(self) -> None:
        self._past = None
        for metric in self.modules():
            if isinstance(metric, Metric):
                metric.reset()
        for count in self.pairs:
            count.update(0)  # type: ignore[operator]

    def test_step(self, batch: Any, batch_index: int) -> None:
        video: VideoBatch = batch
        past = None if bool(video["starts"].all()) else self._past
        if past is not None and past.shape[-2:] != video["frames"].shape[-2:]:
            past = None  # frames of another size make no pairs
        clip = video["frames"] if past is None else torch.cat((past, video["frames"]), dim=1)
        before = clip.shape[1] - video["frames"].shape[1]
        for t in range(video["frames"].shape[1]):
            if int(video["indices"][0, t]) % self.every == self.every - 1:
                truth = self.task.truth(batch, t)
                if truth[0] is not None:
                    self._score(clip[:, : before + t + 1], truth, batch)
        self._past = clip[:, -(self.interval - 1) :] if self.interval > 1 else None

    def _score(self, clip: Tensor, truth: Any, batch: VideoBatch) -> None:
        """Score every pair that ends on the clip's last frame, each as a result of its own."""
        current = clip.shape[1] - 1
        keys = torch.arange(max(0, current - self.interval + 1), current + 1)[None]
        for some in keys.split(_AT_ONCE, dim=1):
            output = self.task.temporal.pairs(clip, some, torch.full_like(some, current))
            sizes = batch["sizes"].expand(some.shape[1], -1)
            found = results_of(self.task.head, output, sizes)
            for key, predictions in zip(some[0].tolist(), found, strict=True):
                exact = torch.autocast(self.device.type, enabled=False)
                with exact, _scoring_into(self.task, self.metrics[current - key]):
                    self.task.score([predictions], truth)
                self.pairs[current - key].update(1)

    def on_test_epoch_end(self) -> None:
        self.by_distance = []
        for metrics, count in zip(self.metrics, self.pairs, strict=True):
            scores: dict[str, float] = {}
            if float(count.compute()) > 0:  # type: ignore[operator]  # over all ranks together
                with _scoring_into(self.task, metrics):
                    scores = {n: float(v) for n, v in self.task.computed_metrics().items()}
            self.by_distance.append(scores)


@contextmanager
def _scoring_into(task: VideoTask, metrics: nn.Module) -> Iterator[None]:
    """Let the task's scores go to other metrics inside the block."""
    own = task.metrics
    task.metrics = metrics  # type: ignore[assignment]  # a ModuleDict out of a ModuleList
    try:
        yield
    finally:
        task.metrics = own


def over_interval(by_distance: Sequence[Scores], interval: int) -> dict[str, float]:
    """Average each score over the distances 0 .. l - 1, those that have it."""
    within = by_distance[:interval]
    names = dict.fromkeys(name for scores in within for name in scores)
    return {
        name: statistics.fmean(scores[name] for scores in within if name in scores)
        for name in names
    }


def spread(by_distance: Sequence[Scores], name: str, mode: str = "max") -> dict[str, float]:
    """Return one score at every distance that has it, ``mIoU_distance0`` .., and the worst."""
    values = {
        f"{name}_distance{d}": scores[name]
        for d, scores in enumerate(by_distance)
        if name in scores
    }
    if not values:
        return {}
    worst = (min if mode == "max" else max)(values.values())
    return {**values, f"{name}_worst": worst}
