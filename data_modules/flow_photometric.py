"""FlowNet's changes of colour: channels, gamma, brightness and contrast, and noise per frame."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_modules.options import AugmentOptions


@dataclass
class Photometric(AugmentOptions):
    """Random changes of a pair's colours in 0 .. 1; with the values given here nothing changes.

    One draw serves both frames, so that what belongs together still looks alike; noise is each
    pixel's own. (FlowNet, section 4.3, has the ranges; the order is that of the released code.)

    Args:
        channels: Range of the factor of red, green and blue, each drawn by itself.
        gamma: Range of the exponent.
        brightness: Deviation of the normally distributed summand.
        contrast: Range of the relative change around grey, -1 or more.
        noise: Largest deviation of the Gaussian noise; drawn uniformly for each pair.
    """

    channels: Sequence[float] = (1.0, 1.0)
    gamma: Sequence[float] = (1.0, 1.0)
    brightness: float = 0.0
    contrast: Sequence[float] = (0.0, 0.0)
    noise: float = 0.0

    key = "data.augment.photometric"

    def __post_init__(self) -> None:
        for name, least in (("channels", 0.0), ("gamma", 0.0), ("contrast", -1.0)):
            values = tuple(getattr(self, name))
            if len(values) != 2 or not least <= values[0] <= values[1]:
                raise ValueError(
                    f"{self.key}.{name}={list(values)}: expected [least, most], both at least "
                    f"{least:g}"
                )
        for name in ("brightness", "noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{self.key}.{name}={getattr(self, name)}: expected 0 .. 1")

    def __call__(self, frames: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """Change frames (T, H, W, 3) RGB alike, as ``rng`` decides."""
        colours = frames.astype(np.float32) / 255
        colours *= rng.uniform(self.channels[0], self.channels[1], 3).astype(np.float32)
        colours **= rng.uniform(self.gamma[0], self.gamma[1])
        colours += rng.normal(0, self.brightness)
        colours = (colours - 0.5) * (1 + rng.uniform(self.contrast[0], self.contrast[1])) + 0.5
        colours += rng.uniform(0, self.noise) * rng.standard_normal(colours.shape, np.float32)
        return np.asarray((colours.clip(0, 1) * 255).round(), np.uint8)
