"""A command line that names a checkpoint: its own arguments, and overrides of the stored config.

torch is imported with the checkpoint, not before: what is wrong by itself is said at once.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from flowfeat import cli

if TYPE_CHECKING:
    from flowfeat.checkpoint import Checkpoint

PRESETS = ("task", "learned_flow", "method", "experiment", "modality", "training")
"""Groups that choose or fill other groups; a checkpoint has chosen already."""


class Command(NamedTuple):
    """A command line, taken apart."""

    arguments: dict[str, str]  # the script's own, as they were typed
    trust: tuple[str, ...]  # packages of the user's own
    overrides: tuple[str, ...]  # in Hydra's grammar


class Stored(NamedTuple):
    """A checkpoint and the config to run it with."""

    checkpoint: "Checkpoint"
    config: DictConfig


def take_apart(usage: str, required: Sequence[str], optional: Sequence[str] = ()) -> Command:
    """Take ``sys.argv`` apart; ``--help`` prints the usage and leaves.

    Args:
        usage: The line that shows how to call the script.
        required: Arguments of the script's own that must be given.
        optional: Those that may be given.

    Raises:
        UsageError: A required argument is missing, or a word is no ``key=value``.
    """
    words = sys.argv[1:]
    if {"--help", "-h"} & set(words):
        sys.stdout.write(f"usage: {usage}\n")
        raise SystemExit(0)
    arguments: dict[str, str] = {}
    trust: tuple[str, ...] = ()
    overrides = []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise cli.UsageError(f"{word}: expected key=value; usage: {usage}")
        if name in (*required, *optional):
            arguments[name] = _unquoted(value)
        elif name == "trust":
            trust = _packages(word)
        else:
            overrides.append(word)
    for name in required:
        if not arguments.get(name):
            raise cli.UsageError(f"{name}= is missing; usage: {usage}")
    return Command(arguments, trust, tuple(overrides))


def open_stored(command: Command) -> Stored:
    """Read the checkpoint of a command (its argument ``ckpt``) and change its config as asked.

    Which code may run beside ours is the command's word alone, never the checkpoint's.

    Raises:
        UsageError: Another task, an unknown key or choice.
        FileNotFoundError, ValueError, PermissionError: See ``read_checkpoint``.
    """
    from flowfeat.checkpoint import read_checkpoint

    path = Path(command.arguments["ckpt"]).expanduser()
    changes = [_parsed(word) for word in command.overrides]
    typed = [change.key_or_group for change in changes]
    checkpoint = read_checkpoint(path, command.trust, typed)
    kept = [change for change in changes if not _agrees(change, checkpoint)]
    config = _with_newer_keys(checkpoint.config)
    config.run_root = cli.compose_config([]).run_root  # where to write is this machine's matter
    config = apply_overrides(config, kept)
    config.trust = list(command.trust)
    return Stored(checkpoint, config)


def _with_newer_keys(config: DictConfig) -> DictConfig:
    """Fill in what older checkpoints do not carry about how to run, not what."""
    config = config.copy()
    OmegaConf.set_struct(config, False)
    default = cli.compose_config([]).acceleration
    config.acceleration = OmegaConf.merge(default, config.get("acceleration") or {})
    return config


def look_over(command: Command) -> None:
    """Find what is wrong with a command's overrides whatever the checkpoint says.

    Raises:
        UsageError: An unknown choice; what is not one value for one key.
    """
    chosen = _choices([_parsed(word) for word in command.overrides])
    chosen = {group: name for group, name in chosen.items() if group not in PRESETS}
    if chosen:
        _compose_choices(chosen)


def _choices(changes: Sequence[Override]) -> dict[str, Any]:
    return {c.key_or_group: c.value() for c in changes if _is_choice(c)}


def _compose_choices(choices: Mapping[str, Any]) -> DictConfig:
    return cli.compose_config([f"{group}={name}" for group, name in choices.items()])


def apply_overrides(config: DictConfig, changes: Sequence[Override | str]) -> DictConfig:
    """Return a config with group choices (`data=...`) replaced, then keys (`data.root=...`) set.

    A group's file is composed from our own configs. Keys must exist; ``+key=value`` adds one.

    Raises:
        UsageError: An unknown key or choice, with those that exist; a sweep or a deletion.
    """
    config = config.copy()
    OmegaConf.set_struct(config, True)  # as Hydra does: no key comes into being by a misspelling
    parsed = [_parsed(change) if isinstance(change, str) else change for change in changes]
    choices = _choices(parsed)
    for group in choices:
        if group in PRESETS:
            raise cli.UsageError(_is_preset(group, choices[group], config))
    if choices:
        composed = _compose_choices(choices)
        for group in choices:
            node = OmegaConf.to_container(composed[group], resolve=False)
            OmegaConf.update(config, group, node, merge=False, force_add=True)
    for change in parsed:
        if not _is_choice(change):
            _set(config, change)
    return config


def _set(config: DictConfig, change: Override) -> None:
    key, added = change.key_or_group, change.is_add() or change.is_force_add()
    if cli.is_group(key) and not isinstance(change.value(), dict):
        raise cli.UsageError(cli.no_choice(key, change.get_value_string()))
    if added and not _may_be_added(config, key):
        raise cli.UsageError(cli.unknown_key(config, key))
    if not added and not _exists(config, key):
        raise cli.UsageError(cli.unknown_key(config, key))
    try:
        OmegaConf.update(config, key, change.value(), merge=True, force_add=added)
    except OmegaConfBaseException as error:  # a mapping with a key that does not exist
        raise cli.UsageError(cli.unknown_key(config, error.full_key or key)) from None


def _exists(config: DictConfig, key: str) -> bool:
    parent, _, leaf = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    return isinstance(node, DictConfig) and leaf in list(node)


def _may_be_added(config: DictConfig, key: str) -> bool:
    """Tell whether all that stands above a key is a mapping, or nothing yet."""
    parts = key.split(".")[:-1]
    above = [OmegaConf.select(config, ".".join(parts[:n])) for n in range(1, len(parts) + 1)]
    return all(node is None or isinstance(node, DictConfig) for node in above)


def _is_choice(change: Override) -> bool:
    """Tell `data=ucf101` from `seed=1` and from `data={...}`."""
    return cli.is_group(change.key_or_group) and isinstance(change.value(), str)


def _agrees(change: Override, checkpoint: "Checkpoint") -> bool:
    """Tell whether a preset repeats what the checkpoint was trained with.

    Raises:
        UsageError: Another task than the checkpoint's.
    """
    key = change.key_or_group
    if key not in PRESETS:
        return False
    value, own = change.value(), checkpoint.config.get(key)
    if key == "task" and value != own:
        raise cli.UsageError(f"task={value}: {checkpoint.path} was trained for task {own}")
    return bool(value == own)


def _is_preset(group: str, choice: object, config: DictConfig) -> str:
    own = config.get(group)
    return (
        f"{group}={choice}: a checkpoint keeps its {group}{f' ({own})' if own else ''}; "
        "change its parts, for example key_frames.interval=1 or data=..."
    )


def _parsed(word: str) -> Override:
    try:
        change = OverridesParser.create().parse_override(word)
    except HydraException as error:
        raise cli.UsageError(f"{word}: {str(error).strip().splitlines()[0]}") from None
    if change.is_delete() or change.is_sweep_override():
        raise cli.UsageError(f"{word}: expected one value for one key")
    return change


def _packages(word: str) -> tuple[str, ...]:
    value: Any = _parsed(word).value()
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(n, str) and n for n in names):
        raise cli.UsageError(f"{word}: expected trust=[package, ...]")
    return tuple(names)


def _unquoted(value: str) -> str:
    """Take a path as it was typed, without the quotes that Hydra's grammar would want."""
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    return value[1:-1] if quoted else value


def switch(arguments: Mapping[str, str], name: str) -> bool:
    """Read a switch among a script's own arguments, off by default; UsageError for other words."""
    text = arguments.get(name, "false")
    if text.lower() not in ("true", "false"):
        raise cli.UsageError(f"{name}={text}: expected true or false")
    return text.lower() == "true"


def whole(arguments: Mapping[str, str], name: str, default: int, least: int) -> int:
    """Read a whole number among a script's own arguments; UsageError as ``number``."""
    value = number(arguments, name, default, least)
    if not value.is_integer():
        raise cli.UsageError(f"{name}={arguments[name]}: expected a whole number")
    return int(value)


def number(arguments: Mapping[str, str], name: str, default: float, least: float) -> float:
    """Read a number among a script's own arguments; UsageError below ``least`` or for a word."""
    text = arguments.get(name, str(default))
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not least <= value < float("inf"):
        raise cli.UsageError(f"{name}={text}: expected a number of at least {least:g}")
    return value
