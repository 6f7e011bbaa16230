"""Decide which code a config may name, by a list of names that is checked before the import.

A composed config names code (`_target_`), so a checkpoint or a run folder from somebody else could
name any code. What the shipped configs name may run, and no more: a package's other functions open
files, start programs and ask servers. `trust=[...]` on a command line adds packages or names.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from flowfeat.argument_kinds import check_arguments
from flowfeat.cli import CONFIGS

BESIDE = ("timm.create_model",)
"""What a config may name although none of the shipped ones does."""


@cache
def allowed() -> frozenset[str]:
    """Return the names of all code that any config may run: a new leaf needs no entry here."""
    files = sorted(CONFIGS.rglob("*.yaml"))
    named = (re.findall(r"\b_target_: *([\w.]+)", file.read_text("utf-8")) for file in files)
    return frozenset(BESIDE).union(*named)


def _within(name: str, trusted: Sequence[str]) -> bool:
    return any(name == entry or name.startswith(entry + ".") for entry in trusted)


def targets(config: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every (key, `_target_`) in a config, at any depth."""
    if isinstance(config, (DictConfig, ListConfig)):
        config = OmegaConf.to_container(config, resolve=True)
    if isinstance(config, dict):
        if "_target_" in config:
            yield f"{key}._target_".lstrip("."), config["_target_"]
        for name, value in config.items():
            yield from targets(value, f"{key}.{name}".lstrip("."))
    elif isinstance(config, (list, tuple)):
        for index, value in enumerate(config):
            yield from targets(value, f"{key}[{index}]")


def check(config: Any, trust: Sequence[str] = (), key: str = "") -> None:
    """Refuse a config that names code which is not on the list.

    Args:
        config: A composed config, or any part of it.
        trust: Packages and names of the user's own that may be named too (`trust=[my_package]`).
        key: Where the part lies in the composed config.

    Raises:
        PermissionError: A target that is not on the list, or of a trusted package by its name
            alone (`my_package.os.system`).
        ValueError: A target that does not exist.
    """
    found = list(targets(config, key))
    for key, target in found:
        known = isinstance(target, str) and (target in allowed() or _within(target, trust))
        if not known:
            raise PermissionError(_refusal(key, target))
    for key, target in found:
        try:
            thing = get_object(target)
        except ImportError as error:
            raise ValueError(f"{key}: {target} cannot be imported") from error
        if target in allowed() or target in trust:
            continue
        home = getattr(thing, "__module__", None)
        if not isinstance(home, str) or not callable(thing):
            raise PermissionError(_refusal(key, target))
        if not _within(home, trust):
            raise PermissionError(_refusal(key, f"{target} (defined in {home})"))


def _refusal(key: str, target: object) -> str:
    return (
        f"{key}: {target} is not on the list of code that a config may run, which is what the "
        "shipped configs name (trust=[package] adds a package or name of your own)"
    )


def build(node: Any, /, key: str = "", *, trust: Sequence[str] = ()) -> Any:
    """Check a config node, then instantiate it.

    Leaves that need objects from elsewhere are `_partial_`, and the result is called with them:
    Hydra would turn an object that it is handed into a config.

    Args:
        node: Part of a composed config.
        key: Where it lies there, for messages.
        trust: See ``check``.

    Raises:
        PermissionError, ValueError: See ``check`` and ``check_arguments``.
    """
    check(node, trust, key)
    check_arguments(node, key)
    return instantiate(node)
