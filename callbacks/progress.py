"""Show how far training, validation and test are, in steps of the whole training."""

import math
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from torch import Tensor

from flowfeat.progress import EVERY, Display, Stage, display


class Progress(ProgressBar):
    """A bar in a terminal, else a line at least every 20 seconds: step, loss, rate, time left.

    Only the first process shows anything.

    Args:
        every: Seconds from line to line.

    Raises:
        ValueError: No time between lines.
    """

    def __init__(self, every: float = EVERY) -> None:
        super().__init__()
        if not every > 0:
            raise ValueError(f"callbacks.progress.every={every}: expected more than 0")
        self._enabled = True
        self._display: Display = display(every)

    def disable(self) -> None:
        """Show nothing: Lightning asks all processes but the first one."""
        self._enabled = False

    def enable(self) -> None:
        """Show it again."""
        self._enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count from the step of the checkpoint that is resumed, if any."""
        total = trainer.estimated_stepping_batches  # of all epochs; infinite if nothing ends it
        known = int(total) if total < float("inf") else None
        self._begin("training", "steps", known, trainer.global_step)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Tensor | Mapping[str, Any] | None,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Note the step and its loss, which stays where it is until somebody reads it."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        self._at(trainer.global_step, {} if loss is None else {"loss": loss.detach()})

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End the training's stage."""
        self._end()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the validation inside the training."""
        counts = trainer.num_val_batches
        if trainer.sanity_checking:
            counts = trainer.num_sanity_val_batches
        self._begin("validation", "batches", _sum(counts))

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Note the batch."""
        before = _sum(trainer.num_val_batches[:dataloader_idx]) or 0
        self._at(before + batch_idx + 1)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the training again."""
        self._end()

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show a test."""
        self._begin("evaluation", "batches", _sum(trainer.num_test_batches))

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Note the batch."""
        before = _sum(trainer.num_test_batches[:dataloader_idx]) or 0
        self._at(before + batch_idx + 1)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End the test's stage."""
        self._end()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave nothing that still talks, whatever ended the run."""
        self._display.close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Leave nothing that still talks."""
        self._display.close()

    def _begin(self, name: str, unit: str, total: int | None, done: int = 0) -> None:
        if self._enabled:
            self._display.begin(Stage(name, unit, total, done))

    def _at(self, done: int, figures: Mapping[str, Tensor] | None = None) -> None:
        if self._enabled:
            self._display.at(done, figures)

    def _end(self) -> None:
        if self._enabled:
            self._display.end()


def _sum(counts: list[int | float]) -> int | None:
    """Add up the batches of all loaders; None where one has no end."""
    total = sum(counts)
    return int(total) if math.isfinite(total) else None
