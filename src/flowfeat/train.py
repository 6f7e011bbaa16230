"""`flowfeat-train`: warm up, train, evaluate, report; everything in one run folder."""

import logging
import signal
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import CSVLogger, Logger
from pytorch_lightning.utilities.exceptions import SIGTERMException

from flowfeat import cli
from flowfeat.batches import MeasuredData
from flowfeat.build import build_data, build_task
from flowfeat.checkpoint import Provenance, architecture_of, write_checkpoint
from flowfeat.divergence import DivergedError, FiniteTraining
from flowfeat.evaluation import evaluate
from flowfeat.expected import Expected, read_expected, verdict
from flowfeat.first_stage import first_stage_figures, with_first_stage
from flowfeat.optimization import thawed
from flowfeat.pretrained import require_pretrained
from flowfeat.processes import is_first, require_common_folder
from flowfeat.report import peak_memory_gb, print_table, write_results
from flowfeat.resume import check_resumed, find_last
from flowfeat.settings import word
from flowfeat.start_from import start_parts, starts, untrained
from flowfeat.tasks.task import Task
from flowfeat.trust import build

log = logging.getLogger(__name__)

PLACES = ("accelerator", "devices", "strategy")
"""Settings of the trainer that say where it runs."""


def train(config: DictConfig, folder: Path) -> dict[str, float]:
    """Run one training as composed and return its report.

    Args:
        config: The composed config.
        folder: The run folder: config, checkpoints, `metrics.csv`, `results.json`, pictures.
    """
    require_pretrained(config)
    pl.seed_everything(cli.checked_seed(config), workers=True, verbose=False)
    folder.mkdir(parents=True, exist_ok=True)
    if is_first():
        OmegaConf.save(config, folder / "config.yaml")
    log.info(f"run folder: {folder}")
    expected, asked = read_expected(config), evaluation_arguments(config)
    data = build_data(config)
    task = build_task(config, data.classes)
    if config.resume is not None:
        check_resumed(config)
    else:
        start_parts(task, config)
    # Here, so that bad settings do not wait for the data, nor bad data for the warm-up.
    data.prepare_data()
    data.setup("fit")
    measured = data.measured() if isinstance(data, MeasuredData) else {}
    callbacks: list[Callback] = [
        *build_callbacks(config, folder).values(),
        Provenance(config, data.classes, architecture_of(task), measured),
    ]
    trainer = build_trainer(config, folder, callbacks, loggers=build_loggers(config, folder))
    if trainer.world_size > 1:  # here, where there is one process yet, which says it once
        check_shares(data, trainer, trains=not untrained(task))
    begin = time.perf_counter()
    if warms_up(config, task):
        warm_up(config, task, folder)
    if untrained(task):
        log.info("nothing to train: every part is kept as it is")
        if trainer.is_global_zero:
            write_checkpoint(folder / "best.ckpt", task, config, measured)
    else:
        trainer.fit(task, datamodule=data, ckpt_path=config.resume, weights_only=True)
    seconds = time.perf_counter() - begin
    results = evaluate(trainer, task, data, **asked)
    results |= {"train_seconds": seconds, "peak_memory_gb": peak_memory_gb()}
    results |= first_stage_figures(config, task.monitor)
    if trainer.is_global_zero:
        finish(results, config, folder, trainer, expected)
    close(trainer.loggers)
    return results


def check_shares(data: pl.LightningDataModule, trainer: pl.Trainer, trains: bool) -> None:
    """See that the data can be shared out over the processes that the trainer will start.

    All lists that the run will come to: training, validation, and the test at its end.

    Raises:
        ValueError: A batch size that they do not divide, or more of them than videos to score.
    """
    data.trainer = trainer
    if trains:
        data.train_dataloader()
    data.val_dataloader()
    data.setup("test")
    data.test_dataloader()


def warms_up(config: DictConfig, task: Task) -> bool:
    """Say whether the flow network first learns from synthetic pairs: not if it has learnt."""
    if not config.warmup or config.resume is not None or starts(config, "flow"):
        return False
    flow = task.parts().get("flow")
    if flow is None:
        raise ValueError(
            f"warmup: method {config.method} has no flow network, expected warmup=none"
        )
    return any(True for _ in flow.parameters())


def warm_up(config: DictConfig, task: Task, folder: Path) -> None:
    """Train the flow network for a few steps on synthetic pairs whose true flow is known."""
    flow = task.parts()["flow"]
    module = build(config.warmup.module, "warmup.module", trust=config.trust)(flow=flow)
    data = build(config.warmup.data, "warmup.data", trust=config.trust)(seed=config.seed)
    bars = [c for n, c in build_callbacks(config, folder).items() if n == "progress"]
    own = {"accumulate_grad_batches": 1}  # its batches are steps, whatever the training's are
    changes = {**own, **config.warmup.trainer, "enable_checkpointing": False}
    trainer = build_trainer(config, folder, bars, loggers=[], **changes)
    log.info(f"warming up the flow network on {config.warmup.trainer.max_steps} synthetic batches")
    with thawed(flow):
        trainer.fit(module, datamodule=data)
    if trainer.is_global_zero:
        error = {k: float(trainer.callback_metrics[k]) for k in ("EPE", "EPE_zero")}
        log.info(f"flow EPE {error['EPE']:.2f} px (zero flow {error['EPE_zero']:.2f} px)")


def build_callbacks(config: DictConfig, folder: Path) -> dict[str, Callback]:
    """Build the callbacks of a config by name; those that write get the run folder."""
    return {
        name: build(node, f"callbacks.{name}", trust=config.trust)
        for name, node in config.callbacks.items()
        if node is not None
    }


def build_loggers(config: DictConfig, folder: Path) -> list[Logger]:
    """Build `metrics.csv` and the logger of the config, if any."""
    loggers: list[Logger] = [CSVLogger(folder, name="", version="")]
    if config.logger:
        # Called, not built, with the config: building would also build what the config names.
        loggers.append(
            build(config.logger, "logger", trust=config.trust)(folder=folder, config=config)
        )
    return loggers


def build_trainer(
    config: DictConfig,
    folder: Path,
    callbacks: list[Callback],
    loggers: list[Logger],
    **changes: Any,
) -> pl.Trainer:
    """Build the trainer of a config, writing into the run folder.

    Samplers are ours (seeded by epoch and sample, split by rank), so Lightning must not wrap them.

    Raises:
        ValueError: Devices, a strategy or a precision that this machine or Lightning lacks.
    """
    make = build(config.trainer, "trainer", trust=config.trust)
    try:
        trainer: pl.Trainer = make(
            default_root_dir=folder,
            callbacks=[*callbacks, FiniteTraining()],
            logger=loggers or False,
            use_distributed_sampler=False,
            **changes,
        )
    except (MisconfigurationException, RuntimeError, TypeError, ValueError) as error:
        chosen = (f"trainer.{key}={word(config.trainer.get(key))}" for key in PLACES)
        raise ValueError(f"{', '.join(chosen)}: {error}") from error
    return trainer


def evaluation_arguments(config: DictConfig) -> dict[str, Any]:
    """Return the arguments of ``evaluate`` that the config's `evaluation` group holds.

    Raises:
        ValueError: One of another kind, to be found before a training and not behind it.
    """
    arguments = OmegaConf.to_container(config.evaluation, resolve=True)
    if not isinstance(arguments, dict):
        raise ValueError(f"evaluation: expected a mapping, found {arguments!r}")
    intervals, every = arguments.get("intervals", []), arguments.get("pairs_every", 0)
    if not isinstance(intervals, list) or not all(_is_whole(value, 1) for value in intervals):
        raise ValueError(
            f"evaluation.intervals: expected a list of integers >= 1, found {intervals!r}"
        )
    if not _is_whole(every, 0):
        raise ValueError(f"evaluation.pairs_every: expected an integer >= 0, found {every!r}")
    if not isinstance(arguments.get("copy", True), bool):
        raise ValueError(f"evaluation.copy: expected true or false, found {arguments['copy']!r}")
    return {str(name): value for name, value in arguments.items()}


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def finish(
    results: dict[str, float],
    config: DictConfig,
    folder: Path,
    trainer: pl.Trainer,
    expected: Expected | None = None,
) -> None:
    """Save, log and print the report, and how it lies to a paper's figures."""
    path = write_results(results, folder)
    for logger in trainer.loggers:
        logger.log_metrics(results, step=trainer.global_step)
        logger.save()
    print_table(results, f"{config.task} / {config.method}")
    log.info(f"report: {path}")
    if expected is not None:
        lines = verdict(expected, results)
        log.info("\n".join(lines))
        (folder / "expected.txt").write_text("\n".join(lines) + "\n")


def close(loggers: list[Logger]) -> None:
    """End the runs of loggers that have them (W&B): the next training is another run."""
    for logger in loggers:
        end = getattr(getattr(logger, "experiment", None), "finish", None)
        if callable(end):
            end()


def run(config: DictConfig, folder: Path) -> None:
    """Train, in two stages where the method has them; on several ranks, leave together."""
    require_common_folder()
    if not is_first():  # its lines would be those of the first one, again
        logging.getLogger().setLevel(logging.WARNING)
    if config.resume is not None:
        config.resume = str(find_last(config.resume))
    try:
        train(with_first_stage(config, folder, train), folder)
    except SIGTERMException:  # in the warm-up, of which nothing is kept
        log.warning("terminated before the first checkpoint")
        raise SystemExit(128 + signal.SIGTERM) from None
    except DivergedError:  # on all ranks; the first one says it
        if is_first():
            raise
        raise SystemExit(1) from None
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def main() -> None:
    """Entry point of `flowfeat-train`."""
    cli.run(__name__)
