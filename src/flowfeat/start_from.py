"""Begin with parts of other runs: `start_from.features=<checkpoint>`, and so head, flow, ..."""

import logging
from collections.abc import Mapping

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from flowfeat.checkpoint import Checkpoint, read_checkpoint
from flowfeat.tasks.video_task import VideoTask

log = logging.getLogger(__name__)

RUNS = {
    "features": "METHOD=per_frame",
    "head": "METHOD=per_frame",
    "flow": "TASK=flying_chairs METHOD=flow (or add warmup=synthetic_flow)",
}
"""The runs that train a part which a method keeps as it is (Table 3)."""

OPTIONAL = {"flow": "scale."}
"""Weights that one of two networks may lack: a fresh scale field is 1 everywhere anyway."""


def start_files(config: DictConfig) -> dict[str, str]:
    """Return the checkpoint of every part that starts from one."""
    return {str(part): str(path) for part, path in config.start_from.items() if path}


def start_parts(task: VideoTask, config: DictConfig) -> None:
    """Give parts of a task the weights that they have in other checkpoints of flowfeat.

    Args:
        task: Its parts are changed in place.
        config: `start_from` holds a checkpoint by part.

    Raises:
        FileNotFoundError, ValueError, PermissionError: See ``read_checkpoint``.
        ValueError: A part that the task or the checkpoint lacks, or that does not fit; a frozen
            part without weights from anywhere.
    """
    files = start_files(config)
    parts = task.parts()
    _check(files, parts, config)
    trust = tuple(config.trust)
    checkpoints = {path: read_checkpoint(path, trust) for path in dict.fromkeys(files.values())}
    for part, path in files.items():
        stored = checkpoints[path]
        if part == "head" and stored.classes != tuple(task.classes):
            raise ValueError(
                f"start_from.head: {path} knows the classes {_few(stored.classes)}, "
                f"expected {_few(task.classes)}"
            )
        _load(part, parts[part], stored)
        log.info(f"{part}: weights of {path}")


def _check(files: Mapping[str, str], parts: Mapping[str, nn.Module], config: DictConfig) -> None:
    """See that every named part has weights, and every frozen part has them from somewhere."""
    with_weights = [name for name, module in parts.items() if module.state_dict()]
    for part in files:
        if part not in with_weights:
            known = ", ".join(with_weights)
            raise ValueError(f"start_from.{part}: unknown part, expected one of {known}")
    given = set(files)
    if config.warmup:
        given.add("flow")
    if config.features.get("pretrained") or config.features.get("checkpoint_path"):
        given.add("features")
    for part in with_weights:
        if part not in given and not any(p.requires_grad for p in parts[part].parameters()):
            run = RUNS.get(part, "a method that trains it")
            raise ValueError(
                f"start_from.{part}=null: {config.method} keeps its {part} as another run left it, "
                f"so give the best.ckpt of {run}"
            )


def _load(part: str, module: nn.Module, stored: Checkpoint) -> None:
    theirs = part_weights(stored, part)
    ours = module.state_dict()
    optional = OPTIONAL.get(part)
    if optional is not None:
        theirs = {n: v for n, v in theirs.items() if n in ours or not n.startswith(optional)}
        lacking = not any(name.startswith(optional) for name in theirs)
        ours = {n: v for n, v in ours.items() if not (lacking and n.startswith(optional))}
    differing = sorted(n for n in ours.keys() | theirs if _shape(ours, n) != _shape(theirs, n))
    if differing:
        first = differing[0]
        raise ValueError(
            f"start_from.{part}: {stored.path} does not fit, {len(differing)} parameters differ, "
            f"first {first}: expected {_shape(ours, first)}, found {_shape(theirs, first)}"
        )
    with torch.no_grad():
        for name, value in theirs.items():
            ours[name].copy_(value)


def part_weights(stored: Checkpoint, part: str) -> dict[str, Tensor]:
    """Return a part's weights, by their names inside it.

    Raises:
        ValueError: A checkpoint without that part.
    """
    for prefix in (f"temporal.{part}.", f"{part}."):
        found = {
            n.removeprefix(prefix): v for n, v in stored.weights.items() if n.startswith(prefix)
        }
        if found:
            return found
    names = (name.removeprefix("temporal.").partition(".")[0] for name in stored.weights)
    known = ", ".join(dict.fromkeys(names))
    raise ValueError(f"start_from.{part}: {stored.path} has no {part}, only {known}")


def _shape(weights: Mapping[str, Tensor], name: str) -> tuple[int, ...] | str:
    return tuple(weights[name].shape) if name in weights else "none"


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def untrained(task: VideoTask) -> bool:
    """Say whether everything in a task is frozen, so that there is nothing to train."""
    return not any(parameter.requires_grad for parameter in task.parameters())
