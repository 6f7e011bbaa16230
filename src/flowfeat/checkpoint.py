"""Checkpoints that carry their own composed config, and are read without running foreign code."""

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback

from flowfeat import trust
from flowfeat.build import build_task
from flowfeat.tasks.task import Task

KEY = "flowfeat"


class Provenance(Callback):
    """Writes the composed config and the class names into every checkpoint."""

    def __init__(self, config: DictConfig, classes: tuple[str, ...]) -> None:
        self.record = {"config": OmegaConf.to_yaml(config), "classes": list(classes)}

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[KEY] = self.record


def write_checkpoint(path: Path, task: Task, config: DictConfig) -> None:
    """Write a task that was put together, not trained; the file appears when it is whole."""
    partial = path.with_suffix(".ckpt.tmp")
    record = Provenance(config, tuple(task.classes)).record
    torch.save({"state_dict": task.state_dict(), KEY: record}, partial)
    os.replace(partial, path)


class Checkpoint(NamedTuple):
    """What a checkpoint file holds, its config already checked against the allow-list."""

    path: Path
    config: DictConfig
    classes: tuple[str, ...]
    weights: dict[str, torch.Tensor]


def read_checkpoint(path: str | Path, allow: tuple[str, ...] = ()) -> Checkpoint:
    """Read a checkpoint of ours with ``weights_only=True`` and check the code that it names.

    Args:
        path: A ``.ckpt`` file.
        allow: Packages that its config may name beside ours.

    Raises:
        FileNotFoundError: No such file.
        ValueError: A file that is not a checkpoint of flowfeat.
        PermissionError: A config that names code outside the allow-list.
    """
    return checkpoint_of(read_content(path), path, allow)


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


def checkpoint_of(content: Any, path: str | Path, allow: tuple[str, ...] = ()) -> Checkpoint:
    """Take a file's content for one of our checkpoints; see ``read_checkpoint``."""
    path = Path(path)
    if not isinstance(content, dict) or KEY not in content or "state_dict" not in content:
        raise ValueError(f"{path}: not a checkpoint of flowfeat, its key {KEY!r} is missing")
    config = OmegaConf.create(content[KEY]["config"])
    if not isinstance(config, DictConfig):
        raise ValueError(f"{path}: its config is not a mapping")
    trust.check(config, allow)
    config.trust = list(allow)
    return Checkpoint(path, config, tuple(content[KEY]["classes"]), content["state_dict"])


def restore_task(checkpoint: Checkpoint, config: DictConfig | None = None) -> Task:
    """Build the task of a checkpoint, with its weights.

    Args:
        checkpoint: From ``read_checkpoint``.
        config: A changed config; the weights must still fit.

    Raises:
        ValueError: Weights that do not fit the config; names the first parameters that differ.
    """
    config = _without_other_weights(checkpoint.config if config is None else config)
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


def _without_other_weights(config: DictConfig) -> DictConfig:
    """Return the config without the weights that training began with: nothing is fetched again."""
    config = config.copy()
    for key, value in (
        ("features.pretrained", False),
        ("features.checkpoint_path", None),
        ("flow.pretrained", None),
        ("flow.weights", None),
    ):
        if OmegaConf.select(config, key):
            OmegaConf.update(config, key, value)
    return config
