"""See that a config gives numbers, switches and lists where the code that it names wants them."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf

from flowfeat.settings import word

_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    NoneType: "null",
}
"""The plain kinds, which are checked; what else an annotation names takes anything."""


def check_arguments(config: Any, key: str = "") -> None:
    """Refuse a plain value of another kind than the annotation of its argument.

    Whatever is compared or counted with would otherwise fail somewhere, without the key's name.

    Args:
        config: A config whose targets may be imported, see ``trust.check``.
        key: Where it lies in the composed config.

    Raises:
        ValueError: A value of the wrong kind, with its key.
    """
    for place, node in _nodes(config, key):
        check_values(get_object(node["_target_"]), node, place)


def check_values(thing: Any, values: Mapping[str, Any], place: str) -> None:
    """Refuse a plain value of another kind than an argument of a class or function.

    Args:
        thing: What takes the values.
        values: By argument; others are passed over.
        place: Beginning of their keys, for messages: ``data.augment.``.

    Raises:
        ValueError: See ``check_arguments``.
    """
    kinds = _annotations(thing)
    for name, value in values.items():
        wanted = _plain(kinds[name]) if name in kinds else None
        if wanted is None or _targeted(value) or any(_is(value, kind) for kind in wanted):
            continue
        said = " or ".join(_said(kind) for kind in wanted)
        raise ValueError(f"{place}{name}={word(value)}: expected {said}")


def _nodes(config: Any, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what has a target, at any depth, with the beginning of its arguments' keys."""
    if isinstance(config, (DictConfig, ListConfig)):
        config = OmegaConf.to_container(config, resolve=True)
    if isinstance(config, dict):
        place = f"{key}." if key else ""
        if "_target_" in config:
            yield place, config
        for name, value in config.items():
            yield from _nodes(value, f"{place}{name}")
    elif isinstance(config, list):
        for index, value in enumerate(config):
            yield from _nodes(value, f"{key}[{index}]")


def _annotations(thing: Any) -> dict[str, Any]:
    """Return the annotations of arguments, those that go up to base classes included."""
    makers = [c.__dict__.get("__init__") for c in thing.__mro__] if isinstance(thing, type) else []
    found: dict[str, Any] = {}
    for maker in [m for m in makers if m is not None] or [thing]:
        try:
            hints, own = get_type_hints(maker), inspect.signature(maker).parameters
        except (NameError, TypeError, ValueError):  # names for type checkers alone, or C code
            return found
        found = {name: hints[name] for name in own if name in hints} | found
        if all(p.kind is not inspect.Parameter.VAR_KEYWORD for p in own.values()):
            break
    return found


def _plain(annotation: Any) -> list[Any] | None:
    """Return the kinds that an annotation allows; None where it allows more than plain ones."""
    union = get_origin(annotation) in (Union, UnionType)
    kinds = list(get_args(annotation)) if union else [annotation]
    kinds = list(dict.fromkeys(str if kind is Path else kind for kind in kinds))
    known = all(kind in _WORDS or _element(kind) in _WORDS for kind in kinds)
    return kinds if known else None


def _element(kind: Any) -> Any:
    """Return what a list is of; None for what is no list."""
    if get_origin(kind) not in (Sequence, list):
        return None
    (element,) = get_args(kind)
    return element


def _is(value: Any, kind: Any) -> bool:
    if (element := _element(kind)) is not None:
        return isinstance(value, (list, tuple, ListConfig)) and all(
            _is(each, element) for each in value
        )
    if isinstance(value, bool):  # in Python it is a number
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _said(kind: Any) -> str:
    element = _element(kind)
    return _WORDS[kind] if element is None else f"a list, each {_WORDS[element]}"


def _targeted(value: Any) -> bool:
    return isinstance(value, Mapping) and "_target_" in value
