"""Crops of action clips: scale-jittered corner crops for training, centre or ten for testing."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_modules.options import AugmentOptions

# In quarters of the room that a crop leaves: (down, right).
CORNERS = ((0, 0), (0, 4), (4, 0), (4, 4), (2, 2))
"""Four corners and the centre."""
THIRTEEN = (*CORNERS, (2, 0), (2, 4), (4, 2), (0, 2), (1, 1), (1, 3), (3, 1), (3, 3))
"""With the middles of the edges and of the quadrants, as TSN's ``more_fix_crop``."""


class Crop(NamedTuple):
    """A part of a picture in pixels, mirrored or not."""

    top: int
    left: int
    height: int
    width: int
    flipped: bool = False


@dataclass(frozen=True)
class CornerCrops(AugmentOptions):
    """The random crop of a training clip (TSN: corner cropping and scale jittering).

    Height and width are drawn from ``scales`` times the picture's short side, at most
    ``max_distort`` entries apart, at one of the fixed positions; the part is resized to the size
    of the network. ``flip`` is the probability of mirroring left and right: 0 where directions
    tell the actions apart.
    """

    scales: Sequence[float] = (1.0, 0.875, 0.75, 0.66)
    max_distort: int = 1
    positions: int = 13
    flip: float = 0.5

    def __post_init__(self) -> None:
        if not self.scales or not all(0 < scale <= 1 for scale in self.scales):
            raise ValueError(f"data.augment.scales={list(self.scales)}: expected some in 0 .. 1")
        if self.max_distort < 0:
            raise ValueError(f"data.augment.max_distort={self.max_distort}: expected 0 or more")
        if self.positions not in (len(CORNERS), len(THIRTEEN)):
            raise ValueError(
                f"data.augment.positions={self.positions}: expected {len(CORNERS)} or "
                f"{len(THIRTEEN)}"
            )
        if not 0 <= self.flip <= 1:
            raise ValueError(f"data.augment.flip={self.flip}: expected 0 .. 1")

    def draw(self, height: int, width: int, seed: int) -> Crop:
        """Draw the one crop of a clip whose pictures have this size."""
        rng = np.random.default_rng(seed)
        pairs = [
            (a, b)
            for i, a in enumerate(self.scales)
            for j, b in enumerate(self.scales)
            if abs(i - j) <= self.max_distort
        ]
        short = min(height, width)
        tall, wide = (max(1, int(short * s)) for s in pairs[int(rng.integers(len(pairs)))])
        places = CORNERS if self.positions == len(CORNERS) else THIRTEEN
        down, right = places[int(rng.integers(len(places)))]
        return _at(height, width, tall, wide, down, right, bool(rng.random() < self.flip))


def evaluation_crops(height: int, width: int, size: int, count: int) -> list[Crop]:
    """Return the crops of a test clip: the centre, or corners and centre, plain and mirrored.

    Raises:
        ValueError: The picture is smaller than the crop.
    """
    if min(height, width) < size:
        raise ValueError(
            f"data.crop={size}: expected at most {min(height, width)}, the short side of pictures "
            f"of {height} x {width}; data.short_side= enlarges them"
        )
    if count == 1:
        return [_at(height, width, size, size, 2, 2)]
    return [_at(height, width, size, size, *at, f) for f in (False, True) for at in CORNERS]


def _at(
    height: int, width: int, tall: int, wide: int, down: int, right: int, flipped: bool = False
) -> Crop:
    top, left = down * (height - tall) // 4, right * (width - wide) // 4
    return Crop(top, left, tall, wide, flipped)


def cut(frames: NDArray[np.uint8], crop: Crop, size: int) -> NDArray[np.uint8]:
    """Cut frames (..., H, W, C) and resize the part to ``size``, mirrored where the crop says so.

    Values are moved, not changed: mirrored flow still needs its horizontal part inverted.
    """
    flat = frames.reshape(-1, *frames.shape[-3:])
    drawn = np.asarray(_compose(crop, size)(images=flat)["images"], np.uint8)
    return np.ascontiguousarray(drawn).reshape(*frames.shape[:-3], size, size, frames.shape[-1])


@lru_cache(maxsize=512)
def _compose(crop: Crop, size: int) -> Any:
    """Build the transform; a dataset has some hundred crops, and building one takes a while."""
    # Without this the import asks a server for its newest version.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations  # takes three seconds: only runs that read clips pay them

    bottom, right = crop.top + crop.height, crop.left + crop.width
    transforms: list[Any] = [
        albumentations.Crop(crop.left, crop.top, right, bottom, p=1.0),
        albumentations.Resize(size, size, p=1.0),
    ]
    if crop.flipped:
        transforms.append(albumentations.HorizontalFlip(p=1.0))
    return albumentations.Compose(transforms)
