"""What a checkpoint's config may not do by itself: read a file of weights, fetch, ask a model hub.

Weights come from the checkpoint, so that nothing else has to be read. What the user types on top
of a stored config is the user's word and stays.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from flowfeat.features.timm_hub import SHAPING, reaches_out
from flowfeat.settings import under

WEIGHTS = ("pretrained", "checkpoint_path", "pretrained_cfg_overlay", "weights")
"""Arguments that name weights to read or to fetch; lists called `weights` are those of losses."""
MODELS = ("model", "model_name")
"""Arguments that name a network."""
INTERPOLATION = re.compile(r"\$\{(oc\.(select|env):[^${}]*|[\w.\[\]]+)\}")
"""What an interpolation may be: other functions, and braces, make up parts that no check sees."""


def without_reach(config: DictConfig, typed: Sequence[str] = ()) -> DictConfig:
    """Return a stored config that reads no weights, fetches none and asks no hub when it is built.

    Args:
        config: As it was stored.
        typed: Keys that the command line sets anew, whose stored values do not matter.

    Raises:
        PermissionError: A network that a hub or a folder would have to tell; arguments without
            names; an interpolation that calls functions.
    """
    for text in _texts(OmegaConf.to_container(config, resolve=False)):
        if "${" in INTERPOLATION.sub("", text):
            raise PermissionError(
                f"{text[:60]}: a checkpoint's config may refer to its own keys, "
                "oc.select and oc.env, to nothing else"
            )
    for key, node in _built(config):
        if "_args_" in node:
            raise PermissionError(f"{key}_args_: expected arguments by name in a checkpoint")
    config = without_weights(config)
    for key, node in _built(config):
        for name in MODELS:
            if _reaches(node.get(name)) and not under(f"{key}{name}", typed):
                raise PermissionError(
                    f"{key}{name}={node[name]}: a checkpoint may not ask a model hub or a folder, "
                    f"expected the name of a timm model ({key}{name}=<name> sets it)"
                )
    return config


def without_weights(config: DictConfig) -> DictConfig:
    """Return a config without weights to begin with: none is read or fetched when it is built."""
    config = config.copy()
    OmegaConf.set_struct(config, False)
    for _, node in _built(config):
        for name in (*WEIGHTS, *MODELS, "pretrained_cfg"):
            if name in node:
                node[name] = _tame(name, OmegaConf.select(node, name))
    return config


def _texts(plain: Any) -> Iterator[str]:
    if isinstance(plain, str):
        yield plain
    elif isinstance(plain, dict):
        for value in plain.values():
            yield from _texts(value)
    elif isinstance(plain, list):
        for value in plain:
            yield from _texts(value)


def _built(node: Any, key: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Yield every node with a target, at any depth, with the beginning of its arguments' keys."""
    if isinstance(node, DictConfig) and "_target_" in node:
        yield f"{key}." if key else "", node
    if isinstance(node, (DictConfig, ListConfig)):
        places = range(len(node)) if isinstance(node, ListConfig) else list(node)
        for place in places:
            if OmegaConf.is_interpolation(node, place) or OmegaConf.is_missing(node, place):
                continue  # what it refers to is met where it stands
            below = f"[{place}]" if isinstance(node, ListConfig) else f".{place}"
            yield from _built(node[place], f"{key}{below}".lstrip("."))


def _tame(name: str, value: Any) -> Any:
    """Return what an argument may be: no weights, a description of them without their places."""
    if name == "pretrained_cfg":
        given = value if isinstance(value, Mapping) else {}
        return {key: given[key] for key in SHAPING if key in given} or None
    if name in MODELS:
        return value
    if name == "weights" and not isinstance(value, (str, Mapping)):
        return value
    return False if isinstance(value, bool) else None


def _reaches(model: Any) -> bool:
    return isinstance(model, str) and reaches_out(model)
