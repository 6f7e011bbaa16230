"""Augmentation of a pair with its flow: one geometric draw moves the pictures and the flow alike.

Albumentations has no target for displacements, which must turn, grow and flip with the picture;
colours are its matter here too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from data_modules.augment import Augment
from data_modules.flow_photometric import Photometric
from data_modules.options import AugmentOptions, check_crop_fits, checked_crop

Matrix = NDArray[np.float64]
"""(3, 3), an affine map of points (x, y, 1) in pixels; pixel centres have whole coordinates."""


class FlowAugmented(NamedTuple):
    """A pair after its draw."""

    current: NDArray[np.uint8]  # (H, W, 3) RGB
    key: NDArray[np.uint8]  # (H, W, 3) RGB
    flow: NDArray[np.float32]  # (H, W, 2), (dx, dy) in pixels, current -> key
    valid: NDArray[np.bool_]  # (H, W): the place lies inside the given current frame


@dataclass
class FlowAugment(AugmentOptions):
    """Random changes of a pair; with the values given here nothing changes.

    Args:
        crop: Height and width in pixels of what is cut out, at a place drawn uniformly.
        flip: Probability of mirroring left and right.
        flip_vertical: Probability of mirroring upside down.
        scale: Range of the zoom; its logarithm is uniform.
        rotation: Largest turn to either side, in degrees.
        translation: Largest shift as a share of each side.
        relative: The key frame is moved once more, by a draw from these ranges times this share
            (0..1): motion that the data do not have.
        brightness: Largest relative change, the same for both frames.
        contrast: Likewise.
        saturation: Likewise.
        hue: Largest turn, 0 .. 0.5.
        photometric: Options of :class:`Photometric`, FlowNet's own changes of colour, made last.
    """

    crop: Sequence[int] | None = None
    flip: float = 0.0
    flip_vertical: float = 0.0
    scale: Sequence[float] = (1.0, 1.0)
    rotation: float = 0.0
    translation: float = 0.0
    relative: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    photometric: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for name in ("flip", "flip_vertical", "translation", "relative"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"data.augment.{name}={getattr(self, name)}: expected 0 .. 1")
        if not 0 <= self.rotation <= 180:
            raise ValueError(f"data.augment.rotation={self.rotation}: expected 0 .. 180 degrees")
        self.scale = tuple(self.scale)
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(
                f"data.augment.scale={list(self.scale)}: expected [least, most], both above 0"
            )
        self.crop = checked_crop(self.crop)
        _ = self._colour, self._photometric  # their numbers are checked there

    def __call__(
        self,
        current: NDArray[np.uint8],
        key: NDArray[np.uint8],
        flow: NDArray[np.float32],
        seed: int,
    ) -> FlowAugmented:
        """Change a pair (H, W, 3) and its flow (H, W, 2) as ``seed`` decides.

        Raises:
            ValueError: A crop that is larger than the pictures.
        """
        rng = np.random.default_rng(seed)
        size = (current.shape[0], current.shape[1])
        out = size if self.crop is None else (self.crop[0], self.crop[1])
        check_crop_fits(out, size)
        to_current = self._place(rng, size, out)
        # The key frame's own small move, in the pixels of the result.
        to_key = to_current @ self._move(rng, out, self.relative)
        moved = move_pair(current, key, flow, to_current, to_key, out)
        frames = np.stack((moved.current, moved.key))
        nothing = np.zeros((0, 4), np.float32)
        coloured = self._colour(frames, nothing, int(rng.integers(2**31))).frames
        if self._photometric is not None:
            coloured = self._photometric(coloured, rng)
        return moved._replace(current=coloured[0], key=coloured[1])

    @cached_property
    def _colour(self) -> Augment:
        return Augment(
            brightness=self.brightness,
            contrast=self.contrast,
            saturation=self.saturation,
            hue=self.hue,
        )

    @cached_property
    def _photometric(self) -> Photometric | None:
        return None if self.photometric is None else Photometric.from_mapping(self.photometric)

    def _place(
        self, rng: np.random.Generator, size: tuple[int, int], out: tuple[int, int]
    ) -> Matrix:
        """Draw the map from the result's pixels to those of the given pictures."""
        offset = np.eye(3)  # whole pixels, so that a crop alone takes pixels as they are
        offset[0, 2] = rng.integers(size[1] - out[1], endpoint=True)
        offset[1, 2] = rng.integers(size[0] - out[0], endpoint=True)
        mirror = np.eye(3)
        mirror[0, 0] = -1.0 if rng.random() < self.flip else 1.0
        mirror[1, 1] = -1.0 if rng.random() < self.flip_vertical else 1.0
        to_centre = _shift(-(out[1] - 1) / 2, -(out[0] - 1) / 2)
        flipped = np.linalg.inv(to_centre) @ mirror @ to_centre
        return offset @ self._move(rng, out, 1.0) @ flipped

    def _move(self, rng: np.random.Generator, size: tuple[int, int], share: float) -> Matrix:
        """Draw a zoom, a turn and a shift around the centre, from a share of their ranges."""
        low, high = np.log(np.asarray(self.scale, np.float64)) * share
        zoom = np.exp(rng.uniform(low, high))
        angle = np.deg2rad(self.rotation) * share * rng.uniform(-1, 1)
        dx, dy = self.translation * share * rng.uniform(-1, 1, 2) * (size[1], size[0])
        cos, sin = np.cos(angle) / zoom, np.sin(angle) / zoom
        turn = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
        to_centre = _shift(-(size[1] - 1) / 2, -(size[0] - 1) / 2)
        return np.linalg.inv(to_centre) @ _shift(dx, dy) @ turn @ to_centre


def move_pair(
    current: NDArray[np.uint8],
    key: NDArray[np.uint8],
    flow: NDArray[np.float32],
    to_current: Matrix,
    to_key: Matrix,
    size: tuple[int, int],
) -> FlowAugmented:
    """Move both frames by affine maps, and the flow with them.

    The point p of the result shows ``to_current(p)``, which moves to ``to_current(p) + flow``; in
    the moved key frame that point lies at ``to_key^-1`` of it.

    Args:
        current: (H, W, 3).
        key: (H, W, 3).
        flow: (H, W, 2), current -> key.
        to_current: From the result's pixels to those of ``current``.
        to_key: The same for ``key``.
        size: Height and width of the result.
    """
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float64)
    places = np.stack([x, y, np.ones_like(x)], axis=-1)  # (h, w, 3)
    here = (places @ to_current.T)[..., :2]
    known = _between(flow, here)
    there = np.concatenate([here + known, places[..., 2:]], axis=-1) @ np.linalg.inv(to_key).T
    height, width = flow.shape[:2]
    rim = 1e-6  # rounding must not lose the border of a crop at the edge
    inside = (here >= -rim) & (here <= np.array([width - 1, height - 1]) + rim)
    return FlowAugmented(
        current=_sample(current, to_current, size),
        key=_sample(key, to_key, size),
        flow=(there - places)[..., :2].astype(np.float32),
        valid=np.asarray(inside.all(axis=-1)),
    )


def _shift(dx: float, dy: float) -> Matrix:
    shift = np.eye(3)
    shift[:2, 2] = dx, dy
    return shift


def _sample(picture: NDArray[np.uint8], to_source: Matrix, size: tuple[int, int]) -> Any:
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    # What lies outside is mirrored: black corners would teach edges that no frame has.
    return cv2.warpAffine(
        picture, to_source[:2], size[::-1], flags=flags, borderMode=cv2.BORDER_REFLECT_101
    )


def _between(flow: NDArray[np.float32], places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Interpolate a flow at places (h, w, 2); outside it is that of the nearest border pixel.

    Bilinear, so that an affine motion stays exactly affine (OpenCV rounds places to 1/32 pixel).
    """
    height, width = flow.shape[:2]
    limit = np.array([width - 1, height - 1], np.float64)
    at = np.clip(places, 0, limit)
    low = np.minimum(np.floor(at), np.maximum(limit - 1, 0)).astype(np.int64)
    part = (at - low)[..., None]  # (h, w, 2, 1)
    x0, y0 = low[..., 0], low[..., 1]
    x1, y1 = np.minimum(x0 + 1, width - 1), np.minimum(y0 + 1, height - 1)
    px, py = part[..., 0, :], part[..., 1, :]
    above = flow[y0, x0] * (1 - px) + flow[y0, x1] * px
    below = flow[y1, x0] * (1 - px) + flow[y1, x1] * px
    return np.asarray(above * (1 - py) + below * py)
