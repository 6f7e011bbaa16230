"""Stop a training whose loss or weights are no numbers any more, before they are kept."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from flowfeat.cli import RunFailedError
from flowfeat.finite import first_not_finite

LOOK_EVERY = 10
"""Batches between two looks at the losses where a look makes the host wait for a device."""


class DivergedError(RunFailedError):
    """A loss or a weight is infinite or not a number: nothing that follows means anything."""


class FiniteTraining(Callback):
    """Ends a training at its first loss that is not finite, on all ranks together.

    Losses stay on the device until ``LOOK_EVERY`` of them are looked at in one go, all but the
    newest, on which the device may still be working. Before a checkpoint is written and at the end
    everything is looked at, the weights too, so that no checkpoint of a diverged training replaces
    a good one. On a CPU, alone, every loss is looked at at once.

    Raises (from its hooks):
        DivergedError: With the step (from 1) and the loss.
    """

    def __init__(self) -> None:
        self._losses: list[tuple[int, Tensor]] = []  # those not looked at yet, by step

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._losses = []

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Remember the loss, and look if it is time."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor):
            self._losses.append((trainer.global_step, loss.detach()))
        if trainer.world_size == 1 and pl_module.device.type == "cpu":
            self._look(trainer, self._losses)
        elif batch_idx % LOOK_EVERY == LOOK_EVERY - 1:
            self._look(trainer, self._losses[:-1])

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Look at all that the checkpoint comes from."""
        self._look(trainer, self._losses, checkpoint["state_dict"])

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the end of the training, of which no checkpoint may be written."""
        self._look(trainer, self._losses, pl_module.state_dict())

    def _look(
        self,
        trainer: pl.Trainer,
        losses: list[tuple[int, Tensor]],
        weights: Mapping[str, Any] | None = None,
    ) -> None:
        values = torch.stack([loss for _, loss in losses]).tolist() if losses else []
        steps = [step for step, _ in losses]
        self._losses = self._losses[len(losses) :]
        bad = ((s, v) for s, v in zip(steps, values, strict=True) if not math.isfinite(v))
        step, loss = next(bad, (math.inf, 0.0))
        name = first_not_finite(weights or {})
        rows = [[step, loss, float(name is not None)]]
        if trainer.world_size > 1:  # ranks see different batches, and must end together
            own = torch.tensor(rows, device=trainer.strategy.root_device)
            rows = trainer.strategy.all_gather(own).reshape(-1, 3).tolist()
        step, loss, _ = min(rows, key=lambda row: row[0])
        if math.isfinite(step):
            raise DivergedError(_message(trainer, int(step), f"the loss is {loss:g}"))
        if any(row[2] for row in rows):
            what = f"{name or 'a weight of another process'} is no longer finite"
            raise DivergedError(_message(trainer, trainer.global_step, what))


def _message(trainer: pl.Trainer, step: int, what: str) -> str:
    last = Path(trainer.default_root_dir) / "last.ckpt"
    kept = f"{last} is from before" if last.is_file() else "there is no checkpoint from before"
    return (
        f"the training diverged at step {step}: {what}; {kept} "
        "(a smaller optim.optimizer.lr, or trainer.gradient_clip_val, may help)"
    )
