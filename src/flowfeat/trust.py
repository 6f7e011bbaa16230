"""Decide which code a config may name, by an allow-list checked before and after the import.

A composed config names code (`_target_`), so a checkpoint or a run folder from somebody else could
name any code. Targets are checked by name before the import and, because a name like
`flowfeat.cli.sys.exit` only looks like ours, again by the module in which the object was defined.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from flowfeat.argument_kinds import check_arguments

ALLOWED = (
    "flowfeat",
    "data_modules",
    "callbacks",
    "torch.optim",
    "timm.create_model",
    "timm.models",
    "pytorch_lightning.Trainer",
    "pytorch_lightning.callbacks",
    "pytorch_lightning.loggers",
    "pytorch_lightning.strategies",
)
"""Packages and objects that any config may name."""

DEFINED_IN = (*ALLOWED, "pytorch_lightning.trainer", "timm.models._factory")
"""Modules in which an allowed object may really live."""


def _within(name: str, allowed: Sequence[str]) -> bool:
    return any(name == entry or name.startswith(entry + ".") for entry in allowed)


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
    """Refuse a config that names code outside the allow-list.

    Args:
        config: A composed config, or any part of it.
        trust: Packages of the user's own that may be named too (`trust=[my_package]`).
        key: Where the part lies in the composed config.

    Raises:
        PermissionError: A target outside the list, by its name or by where it was defined.
        ValueError: A target that does not exist.
    """
    found = list(targets(config, key))
    for key, target in found:
        if not isinstance(target, str) or not _within(target, (*ALLOWED, *trust)):
            raise PermissionError(_refusal(key, target))
    for key, target in found:
        try:
            thing = get_object(target)
        except ImportError as error:
            raise ValueError(f"{key}: {target} cannot be imported") from error
        home = getattr(thing, "__module__", None)
        if not isinstance(home, str) or not callable(thing):
            raise PermissionError(_refusal(key, target))
        if not _within(home, (*DEFINED_IN, *trust)):
            raise PermissionError(_refusal(key, f"{target} (defined in {home})"))


def _refusal(key: str, target: object) -> str:
    return (
        f"{key}: {target} is not on the list of code that a config may run "
        "(trust=[package] adds a package of your own)"
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
