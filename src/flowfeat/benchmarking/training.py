"""The training loop beside a bare PyTorch loop over the same modules and batches."""

import copy
import itertools
import statistics
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from flowfeat.metering import synchronize
from flowfeat.tasks.task import Task
from flowfeat.train import build_trainer

WARM_UP = 2  # steps that are not counted


class StepClock(Callback):
    """Notes when each training step ends."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        """Note the time, the device's queue included."""
        synchronize(pl_module.device)
        self.ends.append(time.perf_counter())

    @property
    def seconds(self) -> list[float]:
        """Seconds from the end of one step to the end of the next, without the first ones."""
        return [b - a for a, b in itertools.pairwise(self.ends)][WARM_UP - 1 :]


def training_figures(
    config: DictConfig, task: Task, data: Any, steps: int, turns: int, folder: Path
) -> dict[str, float]:
    """Time both loops in turns, each over the same first batches of an epoch.

    The training loop is the config's trainer without callbacks, logger and validation.

    Args:
        config: The composed config.
        task: In training mode; a copy of it trains in either loop.
        data: The data module, set up for fit.
        steps: Counted, per turn.
        turns: How often.
        folder: For the trainer.

    Returns:
        ``training/ms_step_loop`` and ``_bare`` (medians), ``training/of_bare``: the loop's share
        of the bare loop's throughput, ``training/waiting``: the share of the bare loop's time spent
        waiting for data, ``training/clips_per_second``.

    Raises:
        ValueError: A precision that the bare loop does not know, or too few batches.
    """
    sides = copy.deepcopy(task), copy.deepcopy(task)
    bare: list[float] = []
    waits: list[float] = []
    loop: list[float] = []
    for _ in range(turns):
        clock = StepClock()
        limits = {"max_steps": steps + WARM_UP, "limit_val_batches": 0}
        quiet = {"enable_checkpointing": False, "enable_progress_bar": False}
        trainer = build_trainer(config, folder, [clock], loggers=[], **limits, **quiet)
        trainer.fit(sides[0], datamodule=data)
        loop += clock.seconds
        device = trainer.strategy.root_device
        spent, waited = bare_steps(config, sides[1].to(device), data, steps, device)
        bare += spent
        waits += waited
    own, plain = statistics.median(loop), statistics.median(bare)
    return {
        "training/ms_step_loop": 1e3 * own,
        "training/ms_step_bare": 1e3 * plain,
        "training/of_bare": plain / own,
        "training/waiting": sum(waits) / sum(bare),
        "training/clips_per_second": data.batch_size / own,
    }


def bare_steps(
    config: DictConfig, task: Task, data: Any, steps: int, device: torch.device
) -> tuple[list[float], list[float]]:
    """Train in a plain loop.

    Returns:
        Seconds of every counted step, and of its waiting for the batch.
    """
    optimizer, scheduler = task.optimization.configure(task.parts(), steps + WARM_UP)
    precision = _precision(config, device)
    clip = config.trainer.get("gradient_clip_val")
    spent, waited = [], []
    task.train()
    batches = _endless(data)
    synchronize(device)
    for number in range(steps + WARM_UP):
        begin = time.perf_counter()
        batch = data.transfer_batch_to_device(next(batches), device, 0)
        arrived = time.perf_counter()
        optimizer.zero_grad()
        with precision:
            loss: Tensor = task.training_step(batch, number)  # type: ignore[assignment]
        loss.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(task.parameters(), clip)
        optimizer.step()
        scheduler.step()
        synchronize(device)
        spent.append(time.perf_counter() - begin)
        waited.append(arrived - begin)
    return spent[WARM_UP:], waited[WARM_UP:]


def _endless(data: Any) -> Iterator[Any]:
    """Yield batches, as often as the loader gives them.

    Raises:
        ValueError: It gives none.
    """
    while True:
        empty = True
        for batch in data.train_dataloader():
            empty = False
            yield batch
        if empty:
            raise ValueError("benchmark.training_steps: the data give no training batch")


def _precision(config: DictConfig, device: torch.device) -> AbstractContextManager[Any]:
    name = str(config.trainer.get("precision", "32-true"))
    if name in ("32", "32-true"):
        return nullcontext()
    if name == "bf16-mixed":
        return torch.autocast(device.type, torch.bfloat16)
    raise ValueError(
        f"trainer.precision={name}: the bare loop of benchmark.training_steps knows 32-true and "
        "bf16-mixed (benchmark.training_steps=0 leaves it out)"
    )
