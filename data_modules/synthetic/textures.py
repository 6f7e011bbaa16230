"""What synthetic things look like: muted noise for backgrounds, a shape and a pattern per class."""

import cv2
import numpy as np
from numpy.typing import NDArray

from data_modules.synthetic.shapes import Look

Array = NDArray[np.float32]


def _noise(rng: np.random.Generator, size: tuple[int, int], cell: float, channels: int) -> Array:
    """Return smooth noise (H, W, channels) in about -1..1 whose blobs are ``cell`` pixels wide."""
    height, width = size
    grid = (max(2, round(height / cell) + 1), max(2, round(width / cell) + 1))
    coarse = rng.random((*grid, channels), dtype=np.float32) * 2 - 1
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(smooth, np.float32).reshape(height, width, channels)


def background(
    rng: np.random.Generator,
    size: tuple[int, int],
    unit: float,
    detail: float,
    colour: float = 1.0,
) -> Array:
    """Draw a background that no object looks like, but on which flow can be estimated.

    Args:
        rng: Source of every draw.
        size: Height and width of the texture in pixels.
        unit: The frame's shorter side in pixels: the coarsest blobs are a quarter of it.
        detail: Share of the finest blobs (2 pixels), 0..1; high for restoration, low for flow.
        colour: Share of the colours, 0..1; 0 is grey.

    Returns:
        (H, W, 3) in 0..255: greyish colours around one tint, blobs of four sizes.
    """
    quarter = (-(-size[0] // 4), -(-size[1] // 4))  # coarse blobs need few pixels: half the time
    coarse = _noise(rng, quarter, unit / 16, 3) * np.float32(26 * colour)
    coarse += _noise(rng, quarter, unit / 40, 1) * 34
    coarse += np.float32(rng.uniform(75, 165)) + (colour * rng.uniform(-22, 22, 3)).astype(
        np.float32
    )
    smooth = cv2.resize(coarse, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    texture: Array = np.asarray(smooth, np.float32)
    fine = _noise(rng, size, max(4.0, unit / 24), 1) * 26
    if detail > 0:
        fine += _noise(rng, size, 2.0, 1) * (60 * detail)
    texture += fine
    return np.clip(texture, 5, 250, out=texture)


REGIONS: tuple[tuple[float, float, float, float], ...] = (
    (0.58, 0.35, 0.82, 0.5),  # far above, bright
    (0.06, 0.30, 0.56, 1.0),  # blocks in the middle
    (0.30, 0.45, 0.42, 1.3),  # other blocks in the middle
    (0.75, 0.08, 0.36, 0.7),  # the ground
)
"""Hue, saturation, value and contrast of the kinds of background, from top to bottom."""


def landscape(
    rng: np.random.Generator,
    size: tuple[int, int],
    unit: float,
    detail: float,
    kinds: int,
    colour: float = 1.0,
) -> tuple[Array, NDArray[np.uint8]]:
    """Draw a background of several kinds of regions, one above the other, with a steep skyline.

    Args:
        rng: Source of every draw.
        size: Height and width of the texture in pixels.
        unit: The frame's shorter side in pixels.
        detail: Of ``background``.
        colour: Of ``background``.
        kinds: 1 is a plain ``background``; 2 is top and ground, 3 and 4 have one or two kinds of
            blocks between them.

    Returns:
        (H, W, 3) in 0..255, and (H, W): the region's kind, 0 .. kinds - 1 from top to bottom.
    """
    texture = background(rng, size, unit, detail, colour)
    if kinds == 1:
        return texture, np.zeros(size, np.uint8)
    looks = np.array((*REGIONS[: kinds - 1], REGIONS[-1]))
    regions = _regions(rng, size, unit, kinds)
    colours = np.stack(
        [
            _colour(hue + rng.uniform(-0.03, 0.03), s, v * rng.uniform(0.85, 1.15))
            for hue, s, v, _ in looks
        ]
    )
    texture -= texture.mean(axis=(0, 1))
    texture *= looks[:, 3].astype(np.float32)[regions][..., None]
    texture += colours[regions]
    return np.clip(texture, 5, 250, out=texture), regions


def _regions(
    rng: np.random.Generator, size: tuple[int, int], unit: float, kinds: int
) -> NDArray[np.uint8]:
    """Lay out regions around the texture's middle, where the camera looks."""
    height, width = size
    rows, columns = np.arange(height)[:, None], np.arange(width)
    wave = _noise(rng, (2, width), unit / 4, 1)[0, :, 0]
    ground = height / 2 + unit * (0.15 + 0.08 * wave)
    regions = np.where(rows < ground, 0, kinds - 1).astype(np.uint8)
    blocks = kinds - 2
    left = 0.0
    while blocks and left < width:
        right = left + rng.uniform(0.15, 0.5) * unit
        inside = (columns >= left) & (columns < right)
        roof = height / 2 - unit * rng.uniform(0.0, 0.4)
        kind = 1 + int(rng.integers(blocks))
        regions[inside & (rows >= roof) & (rows < ground)] = kind
        left = right
    return regions


def _colour(hue: float, saturation: float, value: float) -> Array:
    pixel = np.array([[[hue % 1 * 360, saturation, value]]], np.float32)
    return np.asarray(cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0] * 255, np.float32)


def thing(rng: np.random.Generator, look: Look, side: int) -> Array:
    """Draw one object: its shape, pattern and hue belong to its class.

    Hue, frequency, aspect, the pattern's angle, contrast and a fine mottling vary from object to
    object; the mottling also makes rotation visible in rotationally symmetric patterns.

    Args:
        rng: Source of every draw.
        look: What the objects of its class have in common.
        side: Side of the square canvas in pixels; (u, v) = +-1 lies two pixels inside its rim.

    Returns:
        (side, side, 4): RGB in 0..255 times alpha, and alpha in 0..1 with a rim one pixel wide.
    """
    radius = side / 2 - 2
    axis = (np.arange(side, dtype=np.float32) - (side - 1) / 2) / np.float32(radius)
    u, v = np.meshgrid(axis, axis)
    aspect = rng.uniform(look.aspect, 1.0)
    distance = look.shape(u, v / np.float32(aspect)) * radius * aspect
    alpha = np.clip(0.5 - distance, 0, 1)[..., None]
    turn = rng.uniform(0, np.pi)
    along, across = u * np.cos(turn) + v * np.sin(turn), v * np.cos(turn) - u * np.sin(turn)
    wave = np.clip(look.pattern(along, across, rng.uniform(6.0, 9.5)) * 1.5, -1, 1)[..., None]
    hue = look.hue + rng.uniform(-look.spread, look.spread)
    light = _colour(hue, look.colour * rng.uniform(0.45, 0.8), rng.uniform(0.75, 1.0))
    other = hue + rng.uniform(-0.04, 0.04)
    dark = _colour(other, look.colour * rng.uniform(0.6, 0.95), rng.uniform(0.3, 0.5))
    rgb = dark + (light - dark) * (wave * 0.5 + 0.5)
    rgb *= 1 + 0.16 * _noise(rng, (side, side), max(3.0, side / 10), 1)
    texture = np.concatenate([np.clip(rgb, 0, 255) * alpha, alpha], axis=2)
    return np.ascontiguousarray(texture, np.float32)
