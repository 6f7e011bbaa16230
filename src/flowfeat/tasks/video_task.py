"""What every task shares: a temporal module and a head, trained on clips, evaluated on streams."""

from abc import abstractmethod
from typing import Any, Literal, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from flowfeat.agreement import agreement_loss
from flowfeat.batches import VideoBatch
from flowfeat.interfaces import Output, TaskHead, TemporalModule
from flowfeat.metering import part
from flowfeat.optimization import Optimization
from flowfeat.streaming import Result, Stream, steps_of
from flowfeat.tasks.task import Task


class Step(NamedTuple):
    """What comes back with a step's result: its truth, and the frames that went in."""

    truth: Any
    frames: Tensor  # (B, 3, H, W)
    starts: Tensor  # (B,) bool


class VideoTask(Task):
    """Composes a temporal module with a head; knows neither the method nor the dataset.

    Training takes clips whose key frames are forced; validation and test stream whole videos in
    order, which must come in chunks of one video after another.
    """

    protocol: Literal["streams", "pairs"] = "streams"
    """What the report's plain figures (``mAP_l10``, ``mIoU_l5``) come from; the other way is named:
    ``mAP_pairs_l10``, ``mIoU_stream_l5``."""

    def __init__(
        self,
        temporal: TemporalModule,
        head: TaskHead,
        classes: tuple[str, ...],
        optimization: Optimization,
    ) -> None:
        super().__init__()
        self.temporal = temporal
        self.head = head
        self.classes = classes
        self.optimization = optimization
        self.begin()
        self.metrics = self.make_metrics()
        self.stream_metrics = self.make_stream_metrics()
        self.key_share = MeanMetric()
        self._stream: Stream[Step] | None = None

    def parts(self) -> dict[str, nn.Module]:
        """Trainable parts by name: those of the method, and the head."""
        return {**self.temporal.parts(), "head": self.head}

    @abstractmethod
    def labels(self, batch: Any) -> Any:
        """Return what the head's loss needs, one entry per target step."""

    @abstractmethod
    def truth(self, batch: Any, step: int) -> Any:
        """Return the truth of one step of a stream, to be scored by ``score``."""

    @abstractmethod
    def score(self, predictions: Any, truth: Any) -> None:
        """Update the metrics with one step's predictions."""

    def make_metrics(self) -> nn.ModuleDict:
        """Return the metrics of single frames by their name in the report; ``classes`` is set."""
        return nn.ModuleDict()

    def make_stream_metrics(self) -> nn.ModuleDict:
        """Return the metrics of whole videos; each one's ``compute`` gives its figures by name."""
        return nn.ModuleDict()

    def follow(self, result: Result[Step]) -> None:
        """See one step of a stream after the other, for ``stream_metrics``."""

    def finish_following(self) -> None:
        """Bring what is still open into ``stream_metrics``: the videos have ended."""

    def losses(self, output: Output, batch: Any) -> dict[str, Tensor]:
        """Return the named losses of one batch's target steps."""
        raw = self.head(output.features, output.frames)
        return self.head.loss(raw, self.labels(batch))

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        video: VideoBatch = batch
        is_key = self.temporal.training_keys(video["indices"])
        output = self.temporal(video["frames"], is_key, video["targets"], video["indices"])
        losses = self.losses(output, batch)
        schedule = self.temporal.key_frames
        if schedule is not None and schedule.network is not None:
            losses["agreement"] = agreement_loss(
                self.temporal,
                self.head,
                video["frames"],
                is_key,
                video["targets"],
                output,
                video["sizes"],
            )
        total: Tensor = sum(losses.values())  # type: ignore[assignment]  # never empty
        batch_size = len(video["frames"])
        if self._logs_now():
            for name, value in losses.items():
                self.log(f"loss_{name}", value.detach(), batch_size=batch_size)
        self.log("loss", total.detach(), prog_bar=True, batch_size=batch_size)
        return total

    def _logs_now(self) -> bool:
        """Say whether this step's figures reach a logger; in others each costs its call."""
        try:
            trainer = self.trainer
        except RuntimeError:  # trained without one
            return False
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # Lightning adds it
        return (trainer.global_step + 1) % max(1, every) == 0

    def stream(self) -> Stream[Any]:
        """Begin a pass over videos."""
        return Stream(self.temporal, self.head)

    def on_fit_start(self) -> None:
        """Refuse more ranks than snippets now, and not after hours, when they are first scored."""
        data: pl.LightningDataModule | None = getattr(self.trainer, "datamodule", None)
        if data is not None and self.trainer.world_size > 1:
            data.val_dataloader()

    def on_validation_epoch_start(self) -> None:
        self._stream = self.stream()
        self.reset_metrics()
        for metric in self._each_stream_metric():
            metric.reset()
        self.key_share.reset()

    def validation_step(self, batch: Any, batch_index: int) -> None:
        if self._stream is None:
            raise RuntimeError("validation_step outside a validation epoch")
        video: VideoBatch = batch
        for t, frames, starts in steps_of(video["frames"], video["starts"]):
            step = Step(self.truth(batch, t), frames, starts)
            results = self._stream.push(frames, starts, video["sizes"], step)
            self._score_all(results)

    def on_validation_epoch_end(self) -> None:
        if self._stream is not None:
            self._score_all(self._stream.finish())
            self._stream = None
        self.finish_following()
        figures = self.computed_metrics()
        for metric in self._each_stream_metric():
            figures |= metric.compute()
        for name, value in figures.items():
            self.log(name, value, prog_bar=name == self.monitor, sync_dist=False)
        if self.temporal.key_frames is not None:
            self.log("key_share", self.key_share.compute(), sync_dist=False)

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def _each_stream_metric(self) -> list[Metric]:
        return list(self.stream_metrics.values())  # type: ignore[arg-type]  # ModuleDict of Metrics

    def _score_all(self, results: list[Result[Step]]) -> None:
        for result in results:
            self.key_share.update(float(result.is_key.float().mean()), len(result.is_key))
            # Scores are exact, whatever precision the networks run in.
            with part("score"), torch.autocast(self.device.type, enabled=False):
                self.score(result.predictions, result.tag.truth)
                self.follow(result)


def video_task(task: Task, purpose: str) -> VideoTask:
    """Take a task for one that runs on videos.

    Raises:
        ValueError: It is another; ``purpose`` says what it was wanted for.
    """
    if not isinstance(task, VideoTask):
        raise ValueError(
            f"{purpose}: expected a network that runs on videos, found {type(task).__name__} "
            "(a flow network alone; flow.weights=<checkpoint> gives it to a method such as dff)"
        )
    return task
