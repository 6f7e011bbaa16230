"""Two-stage training as one command: an ordinary run of another method first, or a finished one.

Section 4.2.1 of OFF: the feature network is trained by itself, then kept as it is. `first_stage`
names that method and the parts which it provides; they become this run's `start_from`. Without
parts it is a sibling, trained to be compared with.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from flowfeat import cli
from flowfeat.checkpoint import read_checkpoint
from flowfeat.settings import under
from flowfeat.start_from import starts

log = logging.getLogger(__name__)

Train = Callable[[DictConfig, Path], Mapping[str, float]]

OWN = (
    *("method", "temporal", "flow", "key_frames", "warmup"),
    *("first_stage", "start_from", "expected"),
)
"""Groups and keys that belong to the method: the first stage has those of its own."""
NEVER = (*OWN, "resume", "optim.factors")
"""What the first stage takes from no command line: `optim.factors` says what the second one keeps
as it is."""
SECOND = ("optim",)
"""What on a command line is for the second stage where the first one trains parts for it: they are
trained each in its own way. A sibling to compare with is trained as this run."""
ASIDE = (
    *("run_root", "resume", "logger", "profile", "trust", "expected"),
    *("pretrained_on", "allow_random"),
)
"""What two runs with the same result may differ in, beside their progress bars."""


def with_first_stage(config: DictConfig, folder: Path, train: Train) -> DictConfig:
    """Return the config with `start_from` filled in by the first stage, which runs if it has to.

    Every process of a distributed training calls this: the first stage is trained by all of them.

    Args:
        config: As composed; without `first_stage`, and with its parts in `start_from` already, it
            comes back as it is.
        folder: This run's folder; the first stage's has the same name under its own method.
        train: Runs one training in a folder.

    Raises:
        UsageError: A first stage that cannot be composed, or a part it is to provide of which
            `start_from` has another.
    """
    stage = config.get("first_stage")
    if not stage or any(starts(config, part) for part in stage.parts):
        return config
    resume = _resumed(config)
    if config.resume is not None and resume is None:
        return config  # a checkpoint of this stage, which holds the first one's parts
    first = compose_first_stage(config, overridden())
    first.resume = resume
    checkpoint = None if resume else find_finished(first)
    if checkpoint is not None:
        log.info(f"first stage: {checkpoint} was trained with this config and is used again")
    else:
        place = first_stage_folder(config, folder)
        purpose = ", ".join(stage.parts) or "comparison"
        log.info(f"first stage: method {first.method}, for {purpose}")
        train(first, place)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.barrier()  # the first process writes what all are to read
        checkpoint = _result(place)
        log.info(f"second stage: method {config.method}")
    config = config.copy()
    config.resume = None
    OmegaConf.update(config, "first_stage.checkpoint", str(checkpoint), force_add=True)
    for part in stage.parts:
        OmegaConf.update(config, f"start_from.{part}", str(checkpoint), force_add=True)
    return config


def overridden() -> list[str]:
    """Return the overrides of this run's command line, those of one job in a sweep.

    Raises:
        UsageError: A run that Hydra did not start.
    """
    if not HydraConfig.initialized():
        raise cli.UsageError(
            "first_stage: only flowfeat-train runs it, expected start_from.<part>=<checkpoint>"
        )
    return list(HydraConfig.get().overrides.task)


def compose_first_stage(config: DictConfig, words: Sequence[str]) -> DictConfig:
    """Compose the first stage anew: the same task, its method, and the overrides that fit.

    Args:
        config: Of the whole run.
        words: The overrides that it was composed with.

    Raises:
        UsageError: The method does not exist; overrides of `first_stage.overrides` do not fit.
    """
    stage = config.first_stage
    presets = [f"task={config.task}", f"method={stage.method}"]
    plain = cli.compose_config(presets)
    kept = [w for w in words if not under(_key(w), NEVER) and _key(w) != "task"]
    if stage.parts:
        second = [w for w in kept if under(_key(w), SECOND)]
        kept = [w for w in kept if w not in second]
        if second:
            log.info(
                f"first stage: without {' '.join(second)}, which is for the second; "
                "expected first_stage.overrides=[...] for the first"
            )
    changes = list(stage.get("overrides") or ())
    try:
        composed = cli.compose_config([*presets, *kept, *changes])
    except cli.UsageError:
        fitting = [word for word in kept if _fits(presets, word)]
        left_out = [word for word in kept if word not in fitting]
        composed = cli.compose_config([*presets, *fitting, *changes])
        log.info(f"first stage: without {' '.join(left_out)}, which method {stage.method} lacks")
    changed = {_key(word).partition(".")[0] for word in changes}
    # An experiment may have chosen these groups for the second stage.
    for group in set(OWN) - {"method"} - changed:
        OmegaConf.update(composed, group, plain[group], merge=False, force_add=True)
    composed.first_stage = OmegaConf.create({})
    composed.trust = config.trust
    still = [part for part in stage.parts if composed.optim.factors.get(part, 1) == 0]
    if still:
        raise cli.UsageError(
            f"first_stage: optim.factors.{still[0]}=0 keeps what it is to train, expected more "
            f"(first_stage.overrides=[optim.factors.{still[0]}=1])"
        )
    return composed


def _fits(presets: Sequence[str], word: str) -> bool:
    try:
        cli.compose_config([*presets, word])
    except cli.UsageError:
        return False
    return True


def _key(word: str) -> str:
    return word.lstrip("+~").partition("=")[0].partition("@")[0]


def find_finished(config: DictConfig) -> Path | None:
    """Return the checkpoint of the latest finished run with the same config, if there is one."""
    parent = cli.run_root(config) / config.task / config.method
    wanted = _essence(config)
    reports = [*parent.glob("*/results.json"), *parent.glob("*/*/results.json")]  # or of a sweep
    for report in sorted(reports, reverse=True):
        stored = report.parent / "config.yaml"
        checkpoint = _checkpoint_in(report.parent)
        if checkpoint is None or not stored.is_file():
            continue
        try:
            same = _essence(OmegaConf.load(stored)) == wanted
        except (OmegaConfBaseException, YAMLError, ValueError):
            continue  # not of ours, or of another time
        if same:
            return checkpoint
    return None


def _essence(config: object) -> dict[str, Any]:
    """Return what a run's result depends on; ValueError for what is no config."""
    plain = OmegaConf.to_container(config, resolve=True) if OmegaConf.is_dict(config) else None
    if not isinstance(plain, dict):
        raise ValueError("expected a mapping")
    essence = {str(key): value for key, value in plain.items() if key not in ASIDE}
    for group, name in (("callbacks", "progress"), ("trainer", "enable_progress_bar")):
        essence[group] = {k: v for k, v in (essence.get(group) or {}).items() if k != name}
    return essence


def first_stage_folder(config: DictConfig, folder: Path) -> Path:
    """Name the first stage's folder: `<run_root>/<task>/<its method>/<this run's name>`."""
    parent = cli.run_root(config) / config.task
    own = (parent / config.method).resolve()
    path = folder.resolve()
    # Jobs of a sweep lie one level deeper: time and number make the name.
    name = "_".join(path.relative_to(own).parts) if path.is_relative_to(own) else path.name
    return parent / str(config.first_stage.method) / name


def _resumed(config: DictConfig) -> str | None:
    """Return the checkpoint to go on from if it is one of an interrupted first stage."""
    if config.resume is None:
        return None
    stored = read_checkpoint(config.resume, tuple(config.trust))
    method = stored.config.get("method")
    first = method == config.first_stage.method and method != config.method
    return str(config.resume) if first else None


def _checkpoint_in(folder: Path) -> Path | None:
    # The report is about last.ckpt; what was put together without training has only the other.
    return next((p for p in (folder / "last.ckpt", folder / "best.ckpt") if p.is_file()), None)


def _result(folder: Path) -> Path:
    checkpoint = _checkpoint_in(folder)
    if checkpoint is None:
        raise FileNotFoundError(f"{folder}: the first stage left no last.ckpt")
    return checkpoint


def first_stage_figures(config: DictConfig, monitor: str) -> dict[str, float]:
    """Return what the report of the first stage says: its score, and what it took.

    Args:
        config: As ``with_first_stage`` gave it back.
        monitor: The figure by which checkpoints are chosen.
    """
    checkpoint = (config.get("first_stage") or {}).get("checkpoint")
    if checkpoint is None:
        return {}
    report = Path(checkpoint).parent / "results.json"
    if not report.is_file():
        return {}
    try:
        found = json.loads(report.read_text())
    except ValueError:  # this run's own report must not be lost for it
        log.warning(f"{report}: expected a report, found no JSON; the first stage's is left out")
        return {}
    wanted = (monitor, "train_seconds")
    there = [key for key in wanted if found.get(key) is not None]
    return {f"first_stage_{key}": float(found[key]) for key in there}
