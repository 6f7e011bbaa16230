"""`flowfeat-evaluate`: score a checkpoint on streams, in a run folder of its own."""

import logging
import os
import sys
from datetime import datetime
from pathlib import Path

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Checkpoint as CheckpointCallback
from pytorch_lightning.utilities import rank_zero_only

from flowfeat import cli, overrides
from flowfeat.acceleration import acceleration_of
from flowfeat.build import build_data
from flowfeat.causes import as_trained
from flowfeat.checkpoint import restore_task
from flowfeat.commands import EVALUATE
from flowfeat.evaluation import evaluate
from flowfeat.expected import read_expected
from flowfeat.report import peak_memory_gb
from flowfeat.train import (
    build_callbacks,
    build_loggers,
    build_trainer,
    evaluation_arguments,
    finish,
)

log = logging.getLogger(__name__)


def evaluate_stored(stored: overrides.Stored, folder: Path) -> dict[str, float]:
    """Evaluate a checkpoint under its (changed) config and return the report.

    Args:
        stored: The checkpoint and the config to run it with.
        folder: The run folder: config, `metrics.csv`, `results.json`, pictures.

    Raises:
        ValueError: Weights or classes that do not fit the config.
    """
    config = stored.config
    pl.seed_everything(cli.checked_seed(config), workers=True, verbose=False)
    expected = read_expected(as_trained(config, stored.checkpoint.trained))
    asked = evaluation_arguments(config)
    data = build_data(config)
    task = restore_task(stored.checkpoint, config)
    data.prepare_data()
    data.setup("test")  # a root that is not there is named before its classes are compared
    _check_classes(stored, data.classes)
    callbacks = [
        callback
        for callback in build_callbacks(config, folder).values()
        if not isinstance(callback, CheckpointCallback)
    ]
    loggers = build_loggers(config, folder)
    running = acceleration_of(config)
    changes = {"enable_checkpointing": False, "inference_mode": running.inference_mode}
    trainer = build_trainer(config, folder, callbacks, loggers, **changes)
    device = trainer.strategy.root_device
    running.prepare(task, device)
    with running.precision(device):
        results = evaluate(trainer, task, data, **asked)
    results |= {"peak_memory_gb": peak_memory_gb()}
    if trainer.is_global_zero:
        finish(results, config, folder, trainer, expected)
    return results


def _check_classes(stored: overrides.Stored, classes: tuple[str, ...]) -> None:
    ours = stored.checkpoint.classes
    if tuple(classes) == ours:
        return
    strange = next((name for name in classes if name not in ours), classes[0])
    raise ValueError(
        f"{stored.checkpoint.path}: knows {len(ours)} classes ({', '.join(ours[:3])}, ...), "
        f"the data has {len(classes)}, among them {strange}"
    )


def run_folder(config: DictConfig) -> Path:
    """Name a run folder and, on the first process, make it: `<run_root>/<task>/<method>/<time>/`.

    Raises:
        UsageError: ``run_root`` cannot be written.
    """
    now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    parent = cli.run_root(config) / _plain(config, "task") / _plain(config, "method")
    folder, number = parent / now, 1
    if not _first_process():
        return folder
    try:
        parent.mkdir(parents=True, exist_ok=True)
        while folder.exists():  # another run of the same second
            number += 1
            folder = parent / f"{now}_{number}"
        folder.mkdir()
    except OSError as error:
        raise cli.UsageError(f"run_root={config.run_root}: {cli.one_line(error)}") from error
    return folder


def _first_process() -> bool:
    return not getattr(rank_zero_only, "rank", 0)


def _plain(config: DictConfig, key: str) -> str:
    """Read a name that becomes a folder: a checkpoint must not lead out of ``run_root``."""
    name = str(config.get(key))
    if not name.replace("-", "_").isidentifier():
        raise ValueError(f"{key}={name}: expected a plain name of letters, digits, - and _")
    return name


def main() -> None:
    """Entry point of `flowfeat-evaluate`."""
    cli.quiet_lightning()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    folder = None
    try:
        stored = overrides.open_stored(EVALUATE.command())
        folder = run_folder(stored.config)
        if _first_process():
            OmegaConf.save(stored.config, folder / "config.yaml")
            log.info(f"run folder: {folder}")
        evaluate_stored(stored, folder)
    except cli.user_errors() as error:
        cli.fail(error, folder)
    except KeyboardInterrupt:
        sys.stderr.write(f"flowfeat: interrupted, no report in {os.fspath(folder or '.')}\n")
        raise SystemExit(130) from None
