"""Sizes: clips are resized to a short and a long side, and stacked by padding right and bottom."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Frames = NDArray[np.uint8]
"""(T, H, W, 3) RGB."""


@dataclass(frozen=True)
class Resize:
    """Scale so that the short side is ``short`` and the long side at most ``long`` pixels.

    None means no wish: without ``short`` a picture only shrinks, where its long side is too long.
    The aspect ratio is kept up to rounding to whole pixels.
    """

    short: int | None = None
    long: int | None = None

    def __post_init__(self) -> None:
        for name, side in (("short_side", self.short), ("long_side", self.long)):
            if side is not None and side < 1:
                raise ValueError(
                    f"data.{name}={side}: expected 1 or more, or null to keep the size"
                )
        if self.short is not None and self.long is not None and self.long < self.short:
            raise ValueError(
                f"data.long_side={self.long}: expected at least data.short_side={self.short}"
            )

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return the new (height, width)."""
        ratio = 1.0 if self.short is None else self.short / min(height, width)
        if self.long is not None:
            ratio = min(ratio, self.long / max(height, width))
        return max(1, round(height * ratio)), max(1, round(width * ratio))

    def __call__(self, frames: Frames) -> tuple[Frames, tuple[float, float]]:
        """Return resized frames and (sx, sy): new pixels per old pixel, exactly, after rounding."""
        height, width = frames.shape[1:3]
        new_height, new_width = self.size(height, width)
        if (new_height, new_width) != (height, width):
            # Bilinear as in the reference; the corners of the pictures coincide, so x -> sx * x.
            resized = [cv2.resize(frame, (new_width, new_height)) for frame in frames]
            frames = np.stack(resized)
        return frames, (new_width / width, new_height / height)


def pad_clips(clips: Sequence[Frames]) -> tuple[Tensor, Tensor]:
    """Stack clips of equal length and any sizes, with zeros right and below.

    Returns:
        frames (B, T, 3, H, W) uint8 and the pictures' sizes (B, 2), height and width.
    """
    lengths = {len(clip) for clip in clips}
    if len(lengths) != 1:
        raise ValueError(f"clip lengths {sorted(lengths)} in one batch: expected a single length")
    sizes = torch.tensor([clip.shape[1:3] for clip in clips], dtype=torch.int64)  # (B, 2)
    height, width = sizes.amax(0).tolist()
    frames = torch.zeros(len(clips), lengths.pop(), 3, height, width, dtype=torch.uint8)
    for row, clip in zip(frames, clips, strict=True):
        row[..., : clip.shape[1], : clip.shape[2]] = torch.from_numpy(clip).permute(0, 3, 1, 2)
    return frames, sizes
