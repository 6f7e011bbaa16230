"""What is trained, evaluated and stored as a whole, with a temporal module or without one."""

import math
from abc import ABC, abstractmethod
from typing import Any, Self

import pytorch_lightning as pl
from torch import Tensor, nn
from torchmetrics import Metric

from flowfeat.optimization import Optimization, freeze, frozen


class Task(pl.LightningModule, ABC):
    """Named parts with an optimisation each, and metrics of which one chooses the best checkpoint.

    Subclasses call ``begin`` when their parts are in place.
    """

    metrics: nn.ModuleDict  # name in the report -> Metric
    monitor: str  # the metric that chooses best.ckpt
    monitor_mode = "max"
    classes: tuple[str, ...]  # () where nothing is classified
    optimization: Optimization

    @abstractmethod
    def parts(self) -> dict[str, nn.Module]:
        """Return the trainable parts by name: "features", "flow", "head", ..."""

    def begin(self) -> None:
        """Freeze the parts that the optimisation keeps as they are."""
        freeze(self.parts(), self.optimization.factors)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; frozen parts stay in eval mode, with their norm statistics and dropout."""
        super().train(mode)
        for module in frozen(self.parts(), self.optimization.factors):
            module.eval()
        return self

    def computed_metrics(self) -> dict[str, Tensor]:
        """Return every metric's value over all ranks, by its name in the report."""
        return {name: metric.compute() for name, metric in self.metrics.items()}  # type: ignore[operator]

    def is_score(self, name: str) -> bool:
        """Say whether ``computed_metrics`` gives a figure of this name."""
        return name in self.metrics

    def reset_metrics(self) -> None:
        """Forget what was scored."""
        for metric in self._each_metric():
            metric.reset()

    def _each_metric(self) -> list[Metric]:
        return list(self.metrics.values())  # type: ignore[arg-type]  # ModuleDict of Metrics

    def configure_optimizers(self) -> Any:
        optimizer, scheduler = self.optimization.configure(self.parts(), self._total_steps())
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    def _total_steps(self) -> int:
        """Count the optimiser steps of the whole training.

        As ``trainer.estimated_stepping_batches``, which makes the trainer's loader too early: the
        trainer then forgets to tell it what a resumed run has seen of its epoch.
        """
        trainer = self.trainer
        most = trainer.max_steps if trainer.max_steps >= 0 else math.inf
        epochs = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs
        data: pl.LightningDataModule | None = getattr(trainer, "datamodule", None)
        if data is None or math.isinf(epochs):
            return int(trainer.estimated_stepping_batches if math.isinf(most) else most)
        batches = len(data.train_dataloader())
        limit = trainer.limit_train_batches
        limit = limit if isinstance(limit, int) else int(limit * batches)
        batches = min(batches, limit)
        return int(min(most, epochs * math.ceil(batches / trainer.accumulate_grad_batches)))
