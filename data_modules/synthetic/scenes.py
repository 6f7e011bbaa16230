"""The scene generator: renders pictures of moving things and knows the truth about every pixel."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from data_modules.synthetic.motion import (
    MOTIONS,
    Matrix,
    Path,
    background_size,
    camera_path,
    object_path,
)
from data_modules.synthetic.shapes import NAMED, numbered
from data_modules.synthetic.textures import REGIONS, Array, landscape, thing
from flowfeat.argument_kinds import check_values

GENERATOR_VERSION = 2
"""Counts changes of what a seed gives; part of the hash of every embedded dataset."""

VID_MOTIONS = ("wander", "wander", "wander", *MOTIONS[2:])


@dataclass(frozen=True)
class SceneSettings:
    """What kind of scenes to draw. Lengths are shares of the frame's shorter side.

    Raises:
        ValueError: A range is empty or outside its limits.
    """

    size: tuple[int, int] = (128, 160)  # height, width in pixels
    classes: int = 4
    named: bool = False  # draw the shapes of ``shapes.NAMED``, each class what it is called
    regions: int = 1  # kinds of background; see ``textures.landscape``
    objects: tuple[int, int] = (1, 3)  # fewest, most
    object_size: tuple[float, float] = (0.22, 0.46)  # diameter
    travel: tuple[float, float] = (0.1, 0.9)  # own diameters in 9 frames, a draw per scene
    pan: tuple[float, float] = (0.0, 0.015)  # of the camera, per frame
    liveliness: float = 1.0  # 0..1, how much things turn and swell beside their motion
    motions: tuple[str, ...] = VID_MOTIONS  # drawn from with equal weight
    length: int = 40  # frames over which `grow` and `shrink` keep their direction
    pace: float = 0.0  # 0..1: how far the speed of everything swings around its mean
    pace_period: float = 24.0  # frames from one rest to the next
    detail: float = 0.25  # 0..1, strength of the finest texture
    background_colour: float = 1.0  # 0..1, share of the colours behind the objects
    noise: float = 4.0  # standard deviation of the sensor's noise, in 0..255
    brightness: float = 0.12  # 0..1, how far the exposure swings

    def __post_init__(self) -> None:
        for name in ("size", "objects", "object_size", "travel", "pan", "motions"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # config gives lists
        for name in ("objects", "object_size", "travel", "pan"):
            low, high = getattr(self, name)
            if not 0 <= low <= high:
                raise ValueError(f"scene {name}: expected 0 <= low <= high, found {(low, high)}")
        if len(self.size) != 2 or min(self.size) < 16:
            raise ValueError(f"scene size: expected (height, width) >= 16, found {self.size}")
        if self.named and self.classes > len(NAMED):
            raise ValueError(
                f"scene classes: expected 1 .. {len(NAMED)} named shapes, found {self.classes}"
            )
        if self.classes < 1 or self.objects[1] > 254:
            raise ValueError(
                "scene classes >= 1 and objects <= 254 expected, "
                f"found {self.classes} and {self.objects[1]}"
            )
        if not (0 <= self.pace <= 1 and self.pace_period > 0):
            found = f"found {self.pace} and {self.pace_period}"
            raise ValueError(f"scene pace in 0..1 and pace_period > 0 expected, {found}")
        if not 1 <= self.regions <= len(REGIONS):
            raise ValueError(f"scene regions: expected 1 .. {len(REGIONS)}, found {self.regions}")
        if not 0 <= self.background_colour <= 1:
            raise ValueError(
                f"scene background_colour: expected 0..1, found {self.background_colour}"
            )
        unknown = [name for name in self.motions if name not in MOTIONS]
        if unknown or not self.motions:
            raise ValueError(f"scene motions: expected some of {MOTIONS}, found {self.motions}")


def scene_settings(values: Mapping[str, Any], usual: SceneSettings | None = None) -> SceneSettings:
    """Build settings from a config's values; others are as in ``usual``.

    Raises:
        ValueError: An unknown key, with those that exist; a value outside its range.
    """
    known = [entry.name for entry in fields(SceneSettings)]
    for name in values:
        if name not in known:
            raise ValueError(f"scene: unknown key {name}: expected one of {', '.join(known)}")
    check_values(SceneSettings, values, "data.synthetic.scene.")
    return replace(usual or SceneSettings(), **dict(values))


class Picture(NamedTuple):
    """One rendered frame and its truth; N objects show at least one pixel."""

    image: NDArray[np.uint8]  # (H, W, 3) RGB
    instances: NDArray[np.uint8]  # (H, W): 0 is background, else what `numbers` holds
    numbers: NDArray[np.int64]  # (N,) 1 ..: which object of the scene, back to front
    boxes: NDArray[np.int64]  # (N, 4) xyxy, half-open, tight around the visible part
    classes: NDArray[np.int64]  # (N,) 0 .. classes - 1
    tracks: NDArray[np.int64]  # (N,) one per appearance: new when an object comes back in
    motions: NDArray[np.int64]  # (N,) index into MOTIONS
    visible: NDArray[np.float64]  # (N,) in 0..1: visible share of the whole object
    regions: NDArray[np.uint8]  # (H, W): kind of the background, also where objects hide it


class _Thing(NamedTuple):
    texture: Array  # (side, side, 4), RGB times alpha, alpha
    area: float  # pixels of the texture that belong to the object
    path: Path
    kind: int
    motion: int


class _Layers(NamedTuple):
    colours: Array  # (H, W, 3) in 0..255, before exposure and noise
    instances: NDArray[np.uint8]  # (H, W)
    regions: NDArray[np.uint8]  # (H, W)


class Scene:
    """A moving camera over a background, and objects in front of one another.

    The same (seed, settings) gives the same scene; any time can be asked for, in any order. Pixel
    centres have whole coordinates.

    Args:
        seed: One or more non-negative integers.
        settings: What to draw.
        first: Class of the first object, the rearmost; None: drawn like those of the others.
    """

    def __init__(
        self, seed: int | tuple[int, ...], settings: SceneSettings, first: int | None = None
    ) -> None:
        self.settings = settings
        self.seed = (seed,) if isinstance(seed, int) else tuple(seed)
        # Not 0: numpy takes (seed, 0) for (seed), which callers may draw from themselves.
        rng = np.random.default_rng((*self.seed, 1))
        unit = min(settings.size)
        self._camera = camera_path(rng, settings.size, rng.uniform(*settings.pan) * unit)
        size = background_size(self._camera, settings.size)
        drawn = landscape(
            rng, size, unit, settings.detail, settings.regions, settings.background_colour
        )
        self._background, self._regions = drawn
        self._phase = np.random.default_rng((*self.seed, 3)).uniform(0, 2 * np.pi)  # of the pace
        self._exposure = (rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.3))
        travel = rng.uniform(*settings.travel)
        count = int(rng.integers(settings.objects[0], settings.objects[1], endpoint=True))
        kinds = [first, *[None] * count][:count]
        self._things = tuple(self._draw(rng, unit, travel, kind) for kind in kinds)
        height, width = settings.size
        y, x = np.mgrid[:height, :width].astype(np.float32)
        self._grid = np.stack([x, y, np.ones_like(x)], axis=-1)  # (H, W, 3)
        self._recent: dict[float, _Layers] = {}

    def _draw(self, rng: np.random.Generator, unit: int, travel: float, kind: int | None) -> _Thing:
        settings = self.settings
        drawn = int(rng.integers(settings.classes))
        kind = drawn if kind is None else kind
        motion = settings.motions[int(rng.integers(len(settings.motions)))]
        diameter = rng.uniform(*settings.object_size) * unit
        speed = travel * rng.uniform(0.75, 1.25) * diameter / 9
        path = object_path(
            rng, motion, settings.size, diameter, speed, settings.liveliness, settings.length
        )
        look = list(NAMED.values())[kind] if settings.named else numbered(kind, settings.classes)
        texture = thing(rng, look, round(diameter) + 4)
        area = float((texture[..., 3] >= 0.5).sum())
        return _Thing(texture, area, path, kind, MOTIONS.index(motion))

    def _clock(self, t: float) -> float:
        """Return how far everything has come along its path at frame ``t``: its own time."""
        rate = 2 * np.pi / self.settings.pace_period
        swing = np.sin(self._phase + rate * t) - np.sin(self._phase)
        return float(t + self.settings.pace / rate * swing)

    def _pose(self, layer: int, t: float) -> Matrix:
        """Return the 3x3 affine map from the texture's pixels of a layer (0: background) to t."""
        path = self._things[layer - 1].path if layer else self._camera
        t = self._clock(t)
        texture = self._things[layer - 1].texture if layer else self._background
        pose = np.eye(3)
        pose[:2] = path.pose(t)
        centre = np.eye(3)
        centre[:2, 2] = -(texture.shape[1] - 1) / 2, -(texture.shape[0] - 1) / 2
        return pose @ centre

    def _layers(self, t: float) -> _Layers:
        if t in self._recent:
            return self._recent[t]
        height, width = self.settings.size
        colours = _place(self._background, self._pose(0, t), (width, height))
        instances = np.zeros((height, width), np.uint8)
        regions = instances.copy()
        if self.settings.regions > 1:
            pose, nearest = self._pose(0, t)[:2], cv2.INTER_NEAREST
            drawn = cv2.warpAffine(self._regions, pose, (width, height), flags=nearest)
            regions = np.asarray(drawn, np.uint8)
        for number, item in enumerate(self._things, start=1):
            pose = self._pose(number, t)
            window = _window(pose, item.texture.shape[0], height, width)
            if window is None:
                continue
            x0, y0, x1, y1 = window
            pose[0, 2] -= x0
            pose[1, 2] -= y0
            patch = _place(item.texture, pose, (x1 - x0, y1 - y0))
            alpha = patch[..., 3:]
            part = colours[y0:y1, x0:x1]
            part *= 1 - alpha
            part += patch[..., :3]
            instances[y0:y1, x0:x1][alpha[..., 0] >= 0.5] = number
        layers = _Layers(colours, instances, regions)
        while len(self._recent) >= 2:  # what `flow` needs right after `render`
            self._recent.pop(next(iter(self._recent)))
        self._recent[t] = layers
        return layers

    def render(self, t: int) -> Picture:
        """Render frame ``t`` and its truth."""
        colours, instances, regions = self._layers(t)
        image = colours * np.float32(self._gain(t))
        if self.settings.noise > 0:
            rng = np.random.default_rng((*self.seed, 2, t))
            image += rng.standard_normal(image.shape, np.float32) * np.float32(self.settings.noise)
        image += np.float32(0.5)  # rounds, once the fraction is cut off
        pixels = np.clip(image, 0, 255, out=image).astype(np.uint8)
        numbers, boxes, visible = [], [], []
        for number, item in enumerate(self._things, start=1):
            mask = instances == number
            box = cv2.boundingRect(mask.view(np.uint8))
            if box[2] == 0:
                continue
            numbers.append(number)
            boxes.append((box[0], box[1], box[0] + box[2], box[1] + box[3]))
            whole = item.area * abs(np.linalg.det(item.path.pose(self._clock(t))[:, :2]))
            visible.append(min(1.0, mask.sum() / whole))
        things = [self._things[number - 1] for number in numbers]
        laps = [item.path.lap(self._clock(t)) for item in things]
        return Picture(
            image=pixels,
            instances=instances.copy(),
            numbers=np.array(numbers, np.int64),
            boxes=np.array(boxes, np.int64).reshape(-1, 4),
            classes=np.array([item.kind for item in things], np.int64),
            tracks=np.array(
                [n - 1 + lap * len(self._things) for n, lap in zip(numbers, laps, strict=True)],
                np.int64,
            ),
            motions=np.array([item.motion for item in things], np.int64),
            visible=np.array(visible, np.float64),
            regions=regions.copy(),
        )

    def _gain(self, t: float) -> float:
        phase, rate = self._exposure
        return 1 + self.settings.brightness * float(np.sin(phase + rate * t))

    def flow(self, i: int, k: int) -> tuple[Array, NDArray[np.bool_]]:
        """Return the exact flow from frame ``i`` to frame ``k`` and where it can be seen.

        Returns:
            Displacements (dx, dy) in pixels (H, W, 2): the point at x in frame i is at x + flow in
            frame k; known behind other objects and outside frame k, too. And (H, W) bool: that
            point is inside frame k and visible there with all four pixels around it.
        """
        here, there = self._layers(i).instances, self._layers(k).instances
        flow = self._grid @ self._between(0, i, k)
        seen = np.ones(here.shape, bool)
        for number, item in enumerate(self._things, start=1):
            mask = here == number
            if mask.any():
                flow[mask] = self._grid[mask] @ self._between(number, i, k)
                if item.path.lap(self._clock(i)) != item.path.lap(self._clock(k)):
                    seen[mask] = False
        return flow, seen & self._visible(flow, here, there)

    def _between(self, layer: int, i: int, k: int) -> Array:
        """Return (3, 2): (x, y, 1) in frame i times it is the displacement to frame k."""
        move = self._pose(layer, k) @ np.linalg.inv(self._pose(layer, i)) - np.eye(3)
        return np.asarray(move[:2].T, np.float32)

    def _visible(
        self, flow: Array, here: NDArray[np.uint8], there: NDArray[np.uint8]
    ) -> NDArray[np.bool_]:
        height, width = here.shape
        target = self._grid[..., :2] + flow
        low = np.floor(target).astype(np.int64)
        inside = (target[..., 0] >= 0) & (target[..., 0] <= width - 1)
        inside &= (target[..., 1] >= 0) & (target[..., 1] <= height - 1)
        x0, y0 = np.clip(low[..., 0], 0, width - 1), np.clip(low[..., 1], 0, height - 1)
        x1, y1 = np.minimum(x0 + 1, width - 1), np.minimum(y0 + 1, height - 1)
        flat = there.ravel()
        for y, x in ((y0, x0), (y0, x1), (y1, x0), (y1, x1)):
            inside &= flat[y * width + x] == here
        return inside


def _window(pose: Matrix, side: int, height: int, width: int) -> tuple[int, int, int, int] | None:
    """Return the part of the frame (x0, y0, x1, y1) that a square texture can touch, or None."""
    rim = np.array([[-1, side, side, -1], [-1, -1, side, side], [1, 1, 1, 1]])
    corners = pose[:2] @ rim
    x0, y0 = np.maximum(np.floor(corners.min(axis=1)), 0).astype(int)
    x1, y1 = np.minimum(np.ceil(corners.max(axis=1)) + 1, (width, height)).astype(int)
    return (int(x0), int(y0), int(x1), int(y1)) if x0 < x1 and y0 < y1 else None


def _place(texture: Array, pose: Matrix, size: tuple[int, int]) -> Array:
    """Draw a texture into a canvas of (width, height); transparent where it does not reach."""
    return np.asarray(cv2.warpAffine(texture, pose[:2], size, flags=cv2.INTER_LINEAR), np.float32)
