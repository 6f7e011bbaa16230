"""Options of a data module that come out of a config, checked where they arrive."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Self

from flowfeat.argument_kinds import check_values


def check_least(**limits: tuple[int, int]) -> None:
    """Refuse numbers below their least values.

    Args:
        limits: Value and least value, by key of `data`.

    Raises:
        ValueError: One is below.
    """
    for name, (value, least) in limits.items():
        if value < least:
            raise ValueError(f"data.{name}={value}: expected {least} or more")


def check_synthetic(kind: type, values: Mapping[str, Any]) -> None:
    """Refuse settings of an embedded set that its writer does not have, or of a wrong kind.

    Args:
        kind: The dataclass of the writer's settings.
        values: Below `data.synthetic`.

    Raises:
        ValueError: One is unknown, with those that exist, or not what its annotation wants.
    """
    known = [field.name for field in fields(kind)]
    for name in values:
        if name not in known:
            raise ValueError(
                f"data.synthetic: unknown key {name}: expected one of {', '.join(known)}"
            )
    check_values(kind, values, "data.synthetic.")


class AugmentOptions:
    """What the dataclasses that `data.augment` becomes share."""

    key = "data.augment"  # where their options stand

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any] | None) -> Self:
        """Build from a config's mapping; ValueError names a wrong value, or the known keys."""
        known = [field.name for field in fields(cls)]  # type: ignore[arg-type]  # of dataclasses
        for name in options or {}:
            if name not in known:
                raise ValueError(f"{cls.key}.{name}: expected one of {', '.join(known)}")
        check_values(cls, options or {}, f"{cls.key}.")
        return cls(**dict(options or {}))


def checked_crop(crop: Sequence[int] | None) -> tuple[int, int] | None:
    """Return a crop's height and width in pixels; ValueError where it is none."""
    if crop is None:
        return None
    if len(crop) != 2 or min(crop) < 1:
        raise ValueError(f"data.augment.crop={list(crop)}: expected [height, width] in pixels")
    return crop[0], crop[1]


def check_crop_fits(crop: Sequence[int], size: tuple[int, int]) -> None:
    """Refuse a crop (ValueError) that is larger than pictures of ``size``, height and width."""
    if crop[0] > size[0] or crop[1] > size[1]:
        raise ValueError(
            f"data.augment.crop={list(crop)}: expected at most {list(size)}, "
            "the size of the pictures"
        )
