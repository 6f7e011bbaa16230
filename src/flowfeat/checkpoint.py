"""Checkpoints that carry their own composed config, and are read without running foreign code."""

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback

from flowfeat import trust
from flowfeat.build import build_task
from flowfeat.features.timm_hub import Architecture
from flowfeat.finite import require_finite
from flowfeat.renamed import with_todays_names
from flowfeat.stored_config import without_reach, without_weights
from flowfeat.tasks.task import Task

KEY = "flowfeat"


class Provenance(Callback):
    """Writes the composed config and the class names into every checkpoint.

    Args:
        config: As composed.
        classes: Their names.
        architecture: Of a feature network whose name asks a model hub; loading shall not.
        measured: Figures of the training set, see ``batches.MeasuredData``.
    """

    def __init__(
        self,
        config: DictConfig,
        classes: tuple[str, ...],
        architecture: Architecture | None = None,
        measured: Mapping[str, float | None] | None = None,
    ) -> None:
        self.record: dict[str, Any] = {
            "config": OmegaConf.to_yaml(config),
            "classes": list(classes),
            "measured": dict(measured or {}),
        }
        if architecture is not None:
            self.record["architecture"] = architecture.stored()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[KEY] = self.record


def write_checkpoint(
    path: Path, task: Task, config: DictConfig, measured: Mapping[str, float | None] | None = None
) -> None:
    """Write a task that was put together, not trained; the file appears when it is whole."""
    partial = path.with_suffix(".ckpt.tmp")
    record = Provenance(config, tuple(task.classes), architecture_of(task), measured).record
    torch.save({"state_dict": task.state_dict(), KEY: record}, partial)
    os.replace(partial, path)


def architecture_of(task: Task) -> Architecture | None:
    """Return what a hub's name of a task's feature network stands for; None for timm's own."""
    return getattr(task.parts().get("features"), "architecture", None)


class Checkpoint(NamedTuple):
    """What a checkpoint file holds."""

    path: Path
    config: DictConfig  # to build from: its code is on the list, and it reaches for no other file
    trained: DictConfig  # as it was composed, to compare with
    classes: tuple[str, ...]
    weights: dict[str, torch.Tensor]
    measured: Mapping[str, float | None] = MappingProxyType({})
    """Figures of the training set; a name that is missing is one that the training did not know."""


def read_checkpoint(
    path: str | Path, allow: tuple[str, ...] = (), typed: Sequence[str] = ()
) -> Checkpoint:
    """Read a checkpoint of ours with ``weights_only=True`` and check the code that it names.

    Args:
        path: A ``.ckpt`` file.
        allow: Packages that its config may name beside ours.
        typed: Keys of its config that the command line sets anew.

    Raises:
        FileNotFoundError: No such file.
        ValueError: A file that is not a checkpoint of flowfeat, or one of a diverged training.
        PermissionError: A config that names code outside the allow-list, or asks a model hub.
    """
    return checkpoint_of(read_content(path), path, allow, typed)


def read_content(path: str | Path) -> Any:
    """Read what any torch file holds, with ``weights_only=True``; raises as ``read_checkpoint``."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # torch.load raises anything on foreign bytes
        if isinstance(error, OSError) and error.filename:  # the system's word about the file
            raise
        raise ValueError(f"{path}: not a readable checkpoint ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    """Say why torch could not read a file: its own text advises to run the code inside."""
    text = str(error)
    if foreign := re.search(r"GLOBAL (\S+)", text):
        return f"it holds {foreign[1]}, expected tensors and plain values"
    damaged = "zip archive" in text or isinstance(error, OSError)  # it seeks beyond the end
    return "it is cut short or damaged" if damaged else "it is no file of torch"


def checkpoint_of(
    content: Any, path: str | Path, allow: tuple[str, ...] = (), typed: Sequence[str] = ()
) -> Checkpoint:
    """Take a file's content for one of our checkpoints; see ``read_checkpoint``."""
    path = Path(path)
    known = isinstance(content, dict) and isinstance(content.get(KEY), dict)
    if not known or "state_dict" not in content:
        raise ValueError(f"{path}: not a checkpoint of flowfeat, its key {KEY!r} is missing")
    record = content[KEY]
    trained = OmegaConf.create(record["config"])
    if not isinstance(trained, DictConfig):
        raise ValueError(f"{path}: its config is not a mapping")
    trained = with_todays_names(trained)
    config = trained.copy()
    for name, value in record.get("architecture", {}).items():
        absent = OmegaConf.select(config, f"features.{name}") is None
        if name == "model" or absent:  # what was typed beats the hub's word
            OmegaConf.update(config, f"features.{name}", value, force_add=True)
    trust.check(config, allow)
    config = without_reach(config, typed)
    config.trust = list(allow)
    measured = _figures(record.get("measured", {}), path)
    weights = content["state_dict"]
    require_finite(weights, path)
    return Checkpoint(path, config, trained, tuple(record["classes"]), weights, measured)


def _figures(measured: Any, path: Path) -> Mapping[str, float | None]:
    """Take what a file holds for figures of its training set, each above 0 or None."""
    values = measured.values() if isinstance(measured, dict) else [measured]
    if not all(v is None or (isinstance(v, float) and 0 < v < math.inf) for v in values):
        raise ValueError(f"{path}: measured: expected numbers above 0 by name, found {measured!r}")
    return dict(measured)


def restore_task(checkpoint: Checkpoint, config: DictConfig | None = None) -> Task:
    """Build the task of a checkpoint, with its weights.

    Args:
        checkpoint: From ``read_checkpoint``.
        config: A changed config; the weights must still fit.

    Raises:
        ValueError: Weights that do not fit the config; names the first parameters that differ.
    """
    config = checkpoint.config if config is None else without_weights(config)
    task = build_task(config, checkpoint.classes)
    ours = {name: tuple(value.shape) for name, value in task.state_dict().items()}
    theirs = {name: tuple(value.shape) for name, value in checkpoint.weights.items()}
    differing = sorted(name for name in ours.keys() | theirs if ours.get(name) != theirs.get(name))
    if differing:
        first = differing[0]
        raise ValueError(
            f"{checkpoint.path}: does not fit the config, {len(differing)} parameters differ, "
            f"first {first}: expected {ours.get(first, 'none')}, found {theirs.get(first, 'none')}"
        )
    task.load_state_dict(checkpoint.weights)
    return task.eval()
