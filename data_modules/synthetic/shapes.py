"""Outlines and patterns that synthetic things are drawn with, and the shapes that have a name."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.floating[Any]]
Shape = Callable[[Field, Field], Field]
Pattern = Callable[[Field, Field, float], Field]


def _polygon(u: Field, v: Field, corners: int, inner: float) -> Field:
    """Signed distance to a star whose valleys lie at radius ``inner``; cos(pi / n): a polygon."""
    sector = 2 * np.pi / corners
    angle = np.abs((np.arctan2(u, -v) + sector / 2) % sector - sector / 2)
    radius = np.hypot(u, v)
    tip = np.array([0.0, 1.0])
    valley = inner * np.array([np.sin(sector / 2), np.cos(sector / 2)])
    along_u, along_v = (valley - tip) / np.hypot(*(valley - tip))
    return np.asarray(radius * (along_u * np.cos(angle) - along_v * np.sin(angle)) - along_u)


def _box(u: Field, v: Field, half_u: float, half_v: float) -> Field:
    return np.asarray(np.maximum(np.abs(u) - half_u, np.abs(v) - half_v))


def _disc(u: Field, v: Field) -> Field:
    return np.asarray(np.hypot(u, v) - 0.95)


def _square(u: Field, v: Field) -> Field:
    return _box(u, v, 0.82, 0.82)


def _triangle(u: Field, v: Field) -> Field:
    return _polygon(0.9 * u, 0.9 * (v - 0.25), 3, 0.5)


def _cross(u: Field, v: Field) -> Field:
    return np.minimum(_box(u, v, 0.95, 0.36), _box(u, v, 0.36, 0.95))


def _star(u: Field, v: Field) -> Field:
    return _polygon(u, v, 5, 0.45)


def _ring(u: Field, v: Field) -> Field:
    return np.asarray(np.abs(np.hypot(u, v) - 0.68) - 0.27)


def _diamond(u: Field, v: Field) -> Field:
    return np.asarray(np.abs(u) + np.abs(v) - 0.95)


def _bar(u: Field, v: Field) -> Field:
    return _box(u, v, 0.95, 0.42)


def _crescent(u: Field, v: Field) -> Field:
    return np.maximum(np.hypot(u, v) - 0.95, 0.72 - np.hypot(u - 0.5, v))


def _heart(u: Field, v: Field) -> Field:
    """A square on its corner, and a disc on each of its upper sides."""
    u, v = np.abs(u), v - 0.1
    return np.minimum((u + np.abs(v) - 0.78) * 0.71, np.hypot(u - 0.39, v + 0.39) - 0.55)


def _arrow(u: Field, v: Field) -> Field:
    shaft = _box(u, v - 0.4, 0.27, 0.55)
    head = np.maximum((np.abs(u) - v - 0.95) * np.sqrt(0.5), v - 0.05)
    return np.minimum(shaft, head)


def _hourglass(u: Field, v: Field) -> Field:
    return np.maximum((np.abs(u) - np.abs(v) * 0.85 - 0.1) * 0.76, np.abs(v) - 0.92)


SHAPES: tuple[Shape, ...] = (_disc, _square, _triangle, _cross, _star, _ring, _diamond, _bar)
"""Signed distances, about: (u, v) in -1..1, negative inside. Class c has shape ``c % 8``."""


def _stripes(u: Field, v: Field, f: float) -> Field:
    return np.asarray(np.sin(f * u))


def _checks(u: Field, v: Field, f: float) -> Field:
    return np.asarray(np.sin(f * u) * np.sin(f * v) * 2)


def _rings(u: Field, v: Field, f: float) -> Field:
    return np.asarray(np.sin(f * np.hypot(u, v)))


def _spots(u: Field, v: Field, f: float) -> Field:
    return np.asarray(np.cos(f * u) + np.cos(f * v) - 0.6)


PATTERNS: tuple[Pattern, ...] = (_stripes, _checks, _rings, _spots)
"""Patterns in about -1..1 with angular frequency f; class c has pattern ``(c + c // 8) % 4``."""


class Look(NamedTuple):
    """What the objects of one class have in common."""

    shape: Shape
    pattern: Pattern
    hue: float  # 0..1, the middle of the class's hues
    spread: float  # how far an object's hue may lie from it
    aspect: float  # least height over width, 0..1
    colour: float = 1.0  # 0..1, share of the saturation that objects have


def numbered(kind: int, kinds: int) -> Look:
    """Return the look of class ``kind`` of ``kinds``, whose hues are spread evenly."""
    pattern = PATTERNS[(kind + kind // len(SHAPES)) % len(PATTERNS)]
    return Look(SHAPES[kind % len(SHAPES)], pattern, kind / kinds, 0.28 / kinds, 0.72)


def _named(shape: Shape, pattern: Pattern, hue: float, colour: float = 1.0) -> Look:
    return Look(shape, pattern, hue, 0.025, 0.88, colour)


NAMED: dict[str, Look] = {
    "striped disc": _named(_disc, _stripes, 0.60),
    "star": _named(_star, _spots, 0.15),
    "ring": _named(_ring, _stripes, 0.06),
    "cross": _named(_cross, _spots, 0.32),
    "triangle": _named(_triangle, _rings, 0.51),
    "checked square": _named(_square, _checks, 0.1, colour=0.1),
    "crescent": _named(_crescent, _spots, 0.72),
    "heart": _named(_heart, _stripes, 0.97),
    "arrow": _named(_arrow, _stripes, 0.42),
    "hourglass": _named(_hourglass, _checks, 0.84),
}
"""Shapes by what anyone would call them, in the order of their classes."""
