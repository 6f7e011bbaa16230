"""Keep best.ckpt and last.ckpt: the newest state survives signals, errors and a full disk."""

import errno
import logging
import math
import os
import shlex
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.trainer.states import TrainerFn

from flowfeat.divergence import DivergedError

log = logging.getLogger(__name__)

ASK_EVERY = 10
"""Batches between two times that ranks ask each other whether one was told to end."""


class Checkpoints(Checkpoint):
    """Write `last.ckpt` every few steps, around validations, at the end and when interrupted.

    `best.ckpt` is the checkpoint with the best ``pl_module.monitor`` (by ``monitor_mode``) at a
    validation; modules without ``monitor`` have none. Both lie in ``trainer.default_root_dir``. A
    checkpoint replaces the one before only when it is complete.

    SIGTERM ends the training after the step at hand, several ranks together within the next
    ``ASK_EVERY`` batches, with status 143; a second one ends the process at once. One rank alone
    does not wait for the end of a validation.

    Args:
        every_n_steps: Optimiser steps between two states that a killed process leaves behind.

    Raises (while saving):
        OSError: It could not be written (full disk, read-only folder); the one before is intact.
        ValueError: The validation did not log the metric that is monitored.
    """

    def __init__(self, every_n_steps: int = 100) -> None:
        if every_n_steps < 1:
            raise ValueError(
                f"callbacks.checkpoints.every_n_steps={every_n_steps}: expected at least 1"
            )
        self.every_n_steps = every_n_steps
        self.best_score: float | None = None
        self.best_model_path = ""  # where trainer.test(ckpt_path="best") looks
        self._first_step = 0
        self._saved_step = -1
        self._failed = False
        self._terminated = False

    def state_dict(self) -> dict[str, Any]:
        return {"best_score": self.best_score, "best_model_path": self.best_model_path}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_score = state_dict["best_score"]
        self.best_model_path = state_dict["best_model_path"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember where this training begins, 0 unless it is resumed."""
        self._first_step = trainer.global_step
        self._watch()

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._watch()

    def _watch(self) -> None:
        """Take SIGTERM from the trainer, which gives it back when it ends.

        Its own handler lets ranks talk inside the handler, in the middle of other collectives.
        """
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._on_sigterm)

    def _on_sigterm(self, number: int, frame: object) -> None:
        if self._terminated:
            raise SystemExit(_TERMINATED)
        self._terminated = True

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save the state if it is due, and leave if that was asked for."""
        step = trainer.global_step
        # Between two steps, gradients may be waiting that no checkpoint holds.
        if step % self.every_n_steps == 0 and step > max(self._first_step, self._saved_step):
            self._save(trainer)
        if self._leaves(trainer, batch_idx):
            raise SystemExit(_TERMINATED)

    def _leaves(self, trainer: pl.Trainer, batch_idx: int) -> bool:
        """Say whether SIGTERM reached any rank: it comes at different steps, if to all of them."""
        if trainer.world_size == 1:
            return self._terminated
        # Asking waits for the GPU, which at every step would run dry.
        asks = batch_idx % ASK_EVERY == 0
        return asks and trainer.strategy.reduce_boolean_decision(self._terminated, all=False)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Leave if that was asked for; ranks have different numbers of batches here."""
        if self._terminated and trainer.world_size == 1:
            raise SystemExit(_TERMINATED)

    on_test_batch_end = on_validation_batch_end

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the state: a validation is long, and cannot be resumed in its middle."""
        fitting = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if fitting and trainer.global_step > max(self._first_step, self._saved_step):
            self._save(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the state, also as the best one if it is."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        score = _monitored(trainer, pl_module)
        # All ranks must save together, so the first one decides.
        best = trainer.strategy.broadcast(score is not None and self._better(score, pl_module))
        if best:
            self.best_score = score
            self.best_model_path = str(Path(trainer.default_root_dir) / "best.ckpt")
        self._save(trainer, best)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the state, unless a validation just did."""
        if trainer.global_step != self._saved_step:
            self._save(trainer)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Save the state of an interrupted training, and say how to go on."""
        fitting = trainer.state.fn == TrainerFn.FITTING
        interrupted = isinstance(exception, (KeyboardInterrupt, SystemExit))
        # Ranks save together; a rank that fails alone would wait for the others for ever.
        together = interrupted or trainer.world_size == 1
        lost = self._failed or isinstance(exception, DivergedError)  # nothing worth keeping
        new = trainer.global_step > max(self._first_step, self._saved_step)
        if fitting and together and new and not lost:
            try:
                self._save(trainer)
            except (OSError, DivergedError) as error:  # what interrupted the training matters more
                log.error(f"the newest state is lost: {error}")
        path = Path(trainer.default_root_dir) / "last.ckpt"
        if interrupted and trainer.is_global_zero:
            log.warning(_farewell(path, fitting))

    def _better(self, score: float, pl_module: pl.LightningModule) -> bool:
        if math.isnan(score):
            return False
        if self.best_score is None:
            return True
        maximise = getattr(pl_module, "monitor_mode", "max") == "max"
        return score > self.best_score if maximise else score < self.best_score

    def _save(self, trainer: pl.Trainer, best: bool = False) -> None:
        """Write next to the old checkpoint, then take its place."""
        folder = Path(trainer.default_root_dir)
        partial = folder / "last.ckpt.tmp"
        try:
            if trainer.is_global_zero:
                partial.unlink(missing_ok=True)
            trainer.save_checkpoint(partial, weights_only=False)  # all of the state
            if trainer.is_global_zero:
                if not partial.is_file():  # Lightning keeps silent where it may not write
                    raise PermissionError(errno.EACCES, "Permission denied", str(partial))
                os.replace(partial, folder / "last.ckpt")
                if best:
                    _duplicate(folder / "last.ckpt", folder / "best.ckpt")
        except OSError as error:
            self._failed = True
            partial.unlink(missing_ok=True)
            raise OSError(error.errno, error.strerror, str(folder / "last.ckpt")) from error
        self._saved_step = trainer.global_step


_TERMINATED = 128 + signal.SIGTERM


def _monitored(trainer: pl.Trainer, pl_module: pl.LightningModule) -> float | None:
    monitor = getattr(pl_module, "monitor", None)
    if monitor is None:
        return None
    value = trainer.callback_metrics.get(monitor)
    if value is None:
        logged = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
        raise ValueError(f"best.ckpt is chosen by {monitor}, but what was logged is {logged}")
    return float(value)


def _duplicate(source: Path, target: Path) -> None:
    """Let ``target`` be the same checkpoint, without taking room where links are possible."""
    partial = target.with_suffix(".ckpt.tmp")
    partial.unlink(missing_ok=True)
    try:
        os.link(source, partial)  # checkpoints are replaced, never rewritten
    except OSError:  # a file system without hard links
        shutil.copyfile(source, partial)
    os.replace(partial, target)


def _farewell(path: Path, fitting: bool) -> str:
    """Say in one line how to go on after Ctrl-C or SIGTERM."""
    if not path.is_file():
        return "interrupted before the first checkpoint"
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    if not fitting:
        return f'interrupted after the training; go on with: make evaluate CKPT="{shown}"'
    return f"interrupted; {shown} holds the newest state; go on with: {resume_command(shown)}"


def resume_command(path: Path) -> str:
    """Return the command that goes on from a checkpoint with this run's own overrides."""
    overrides = list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
    chosen = {"task": "", "method": ""}
    rest = []
    for override in overrides:
        key, _, value = override.partition("=")
        if key in chosen:
            chosen[key] = f" {key.upper()}={value}"
        elif key != "resume":
            rest.append(override)
    arguments = shlex.join([*rest, f"resume={path}"]).replace("$", "$$")  # make's own $
    plain = not set(arguments) & set('"$`\\')
    quoted = f'"{arguments}"' if plain else shlex.quote(arguments)
    return f"make train{''.join(chosen.values())} ARGS={quoted}"
