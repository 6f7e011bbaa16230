"""What is trained, evaluated and stored as a whole, with a temporal module or without one."""

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
        total = int(self.trainer.estimated_stepping_batches)
        optimizer, scheduler = self.optimization.configure(self.parts(), total)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]
