"""Two composed configs laid side by side: which settings differ, and how to say so."""

from collections.abc import Iterator, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

_SHOWN = 6  # differences in one line


def changed(before: DictConfig, now: DictConfig) -> Iterator[tuple[str, Any, Any]]:
    """Yield every setting that differs, by dotted key: (key, before, now).

    Interpolations are resolved; an absent key and null mean the same.
    """
    old, new = (dict(_leaves(OmegaConf.to_container(c, resolve=True))) for c in (before, now))
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            yield key, old.get(key), new.get(key)


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _leaves(value, f"{key}.{name}" if key else str(name))
    else:
        yield key, node


def under(key: str, names: Sequence[str]) -> bool:
    """Tell whether a dotted key is one of ``names``, or lies in a group among them."""
    return any(key == name or key.startswith(f"{name}.") for name in names)


def word(value: Any) -> str:
    """Write a setting as a command line would have it."""
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


def first_few(differences: Sequence[str]) -> str:
    """Join differences into a part of one line, the first ones and how many more there are."""
    more = len(differences) - _SHOWN
    return ", ".join(differences[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
