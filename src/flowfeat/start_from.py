"""Begin with parts of other runs: `start_from.features=<checkpoint>`, and so head; `flow.weights`.

`start_from.all` gives every part that no other key names, as a run that goes on from another one
under other settings wants it. `flow.weights` also takes public FlowNet-S state dicts, and for RAFT
torchvision's files.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from flowfeat.checkpoint import KEY, Checkpoint, checkpoint_of, read_content
from flowfeat.finite import require_finite
from flowfeat.flow.flownet_weights import map_public, public_weights
from flowfeat.flow.torchvision_flow import torchvision_weights
from flowfeat.tasks.task import Task

log = logging.getLogger(__name__)

RUNS = {
    "features": "METHOD=per_frame",
    "head": "METHOD=per_frame",
    "flow": "TASK=flying_chairs METHOD=flow (or add warmup=synthetic_flow)",
}
"""The runs that train a part which a method keeps as it is (Table 3)."""

OPTIONAL = {"flow": "scale."}
"""Weights that one of two networks may lack: a fresh scale field is 1 everywhere anyway."""

_SHOWN = 3  # names in a message

ALL = "all"
"""The key of `start_from` that stands for every part."""


def start_files(config: DictConfig) -> dict[str, str]:
    """Return the checkpoint of every part, or of ``ALL``, that starts from one."""
    files = {str(part): str(path) for part, path in config.start_from.items() if path}
    flow = OmegaConf.select(config, "flow.weights")
    return files | ({"flow": str(flow)} if flow else {})


def starts(config: DictConfig, part: str) -> bool:
    """Say whether a part begins with weights of another run."""
    return bool({part, ALL} & start_files(config).keys())


def key_of(part: str) -> str:
    """Return the key of the config that names a part's checkpoint."""
    return "flow.weights" if part == "flow" else f"start_from.{part}"


def start_parts(task: Task, config: DictConfig) -> None:
    """Give parts of a task the weights that they have in other checkpoints of flowfeat.

    Args:
        task: Its parts are changed in place.
        config: `start_from` holds a checkpoint by part, `flow.weights` that of the flow network.

    Raises:
        FileNotFoundError, ValueError, PermissionError: See ``read_checkpoint``.
        ValueError: A part that the task or the checkpoint lacks, or that does not fit; a frozen
            part without weights from anywhere.
    """
    parts = task.parts()
    with_weights = [name for name, module in parts.items() if module.state_dict()]
    files = start_files(config)
    whole = files.pop(ALL, None)
    if whole is not None:
        files = dict.fromkeys(with_weights, whole) | files
    _check(files, parts, with_weights, config)
    trust = tuple(config.trust)
    contents = {path: read_content(path) for path in dict.fromkeys(files.values())}
    for part, path in files.items():
        if part == "flow" and _load_public(parts[part], contents[path], path):
            continue
        stored = checkpoint_of(contents[path], path, trust, typed=("features",))  # not built
        if part.endswith("head") and stored.classes != tuple(task.classes):
            raise ValueError(
                f"start_from.{part}: {path} knows the classes {_few(stored.classes)}, "
                f"expected {_few(task.classes)}"
            )
        weights = part_weights(stored, part, _place(parts[part], task))
        _fill(part, parts[part], weights, stored.path)
        log.info(f"{part}: weights of {path}")


def _check(
    files: Mapping[str, str],
    parts: Mapping[str, nn.Module],
    with_weights: Sequence[str],
    config: DictConfig,
) -> None:
    """See that every named part has weights, and every frozen part has them from somewhere."""
    for part in files:
        if part not in with_weights:
            known = ", ".join(with_weights)
            raise ValueError(f"{key_of(part)}: unknown part, expected one of {known}")
    given = set(files)
    if config.warmup:
        given.add("flow")
    if config.features.get("pretrained") or config.features.get("checkpoint_path"):
        given.add("features")
    if OmegaConf.select(config, "flow.pretrained"):
        given.add("flow")
    for part in with_weights:
        if part not in given and not any(p.requires_grad for p in parts[part].parameters()):
            run = RUNS.get(part, "a method that trains it")
            raise ValueError(
                f"{key_of(part)}=null: {config.method} keeps its {part} as another run left it, "
                f"so give the best.ckpt of {run}"
            )


def _place(part: nn.Module, task: Task) -> str:
    """Return where a part lies in its task: a head's own classifier is not its whole head."""
    return next((name for name, module in task.named_modules() if module is part), "")


def _load_public(flow: nn.Module, content: object, path: str) -> bool:
    """Load a public state dict, if the content is one, and say what a FlowNet-S lacks."""
    raft = torchvision_weights(content)
    if raft is not None:
        _fill("flow", flow, raft, Path(path))
        log.info(f"flow: weights of {path}, torchvision's RAFT")
        return True
    try:
        public = public_weights(content)
    except ValueError as error:
        raise ValueError(f"flow.weights: {path}: {error}") from None
    if public is None and not (isinstance(content, Mapping) and KEY in content):
        raise ValueError(
            f"flow.weights: {path}: expected a checkpoint of flowfeat, a public FlowNet-S "
            f"(conv1.0.weight, ...) or torchvision's RAFT, found {_found(content)}"
        )
    if public is None:
        return False
    require_finite(public, path)
    mapped = map_public(public, flow.state_dict())
    _fill("flow", flow, mapped.weights, Path(path))
    log.info(
        f"flow: weights of {path}, a public FlowNet-S; missing and 0: {_listed(mapped.zero)}; "
        f"missing and fresh: {_listed(mapped.missing)}; unused: {_listed(mapped.unused)}"
    )
    return True


def _found(content: object) -> str:
    """Say what a file holds that is neither: the first names, and how many there are."""
    if not isinstance(content, Mapping):
        return type(content).__name__
    inner = content.get("state_dict", content)
    names = [str(name) for name in (inner if isinstance(inner, Mapping) else content)]
    more = f", ... ({len(names)} names)" if len(names) > _SHOWN else ""
    return (", ".join(names[:_SHOWN]) or "nothing") + more


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _fill(part: str, module: nn.Module, theirs: Mapping[str, Tensor], path: Path) -> None:
    """Copy weights into a part; ValueError names the first ones that differ."""
    ours = module.state_dict()
    optional = OPTIONAL.get(part)
    if optional is not None:
        theirs = {n: v for n, v in theirs.items() if n in ours or not n.startswith(optional)}
        lacking = not any(name.startswith(optional) for name in theirs)
        ours = {n: v for n, v in ours.items() if not (lacking and n.startswith(optional))}
    differing = sorted(n for n in ours.keys() | theirs if _shape(ours, n) != _shape(theirs, n))
    if differing:
        first = "; ".join(
            f"{n}: expected {_shape(ours, n)}, found {_shape(theirs, n)}"
            for n in differing[:_SHOWN]
        )
        raise ValueError(
            f"{key_of(part)}: {path} does not fit, {len(differing)} parameters differ, "
            f"first {first}"
        )
    with torch.no_grad():
        for name, value in theirs.items():
            ours[name].copy_(value)


def part_weights(stored: Checkpoint, part: str, place: str = "") -> dict[str, Tensor]:
    """Return a part's weights, by their names inside it.

    Args:
        stored: Where they are.
        part: Its name.
        place: Where it lies in our task, which the stored one may resemble; looked up first.

    Raises:
        ValueError: A checkpoint without that part.
    """
    for prefix in (f"{place or part}.", f"temporal.{part}.", f"{part}."):
        found = {
            n.removeprefix(prefix): v for n, v in stored.weights.items() if n.startswith(prefix)
        }
        if found:
            return found
    names = (name.removeprefix("temporal.").partition(".")[0] for name in stored.weights)
    known = ", ".join(dict.fromkeys(names))
    raise ValueError(f"{key_of(part)}: {stored.path} has no {part}, only {known}")


def _shape(weights: Mapping[str, Tensor], name: str) -> tuple[int, ...] | str:
    return tuple(weights[name].shape) if name in weights else "none"


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def untrained(task: Task) -> bool:
    """Say whether everything in a task is frozen, so that there is nothing to train."""
    return not any(parameter.requires_grad for parameter in task.parameters())
