"""Boxes as offsets from reference boxes, and back (Fast R-CNN's parametrisation)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from flowfeat.ops.upload import upload

LARGEST_GROWTH = math.log(1000 / 16)
"""A box is at most 62.5 times as long as its reference: exp must not overflow."""


def _centre_form(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Split xyxy boxes (..., 4) into centres (..., 2) and lengths (..., 2)."""
    # The released code measures widths as x2 - x1 + 1; here boxes are half-open.
    lengths = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + lengths / 2, lengths


def encode(boxes: Tensor, references: Tensor, std: Sequence[float]) -> Tensor:
    """Return the offsets (dx, dy, dw, dh) / std that move references onto boxes.

    Args:
        boxes: (..., 4) xyxy with positive sides.
        references: (..., 4) xyxy with positive sides.
        std: Four divisors, so that regression targets have about unit variance.
    """
    centres, lengths = _centre_form(boxes)
    from_centres, from_lengths = _centre_form(references)
    offsets = torch.cat(
        ((centres - from_centres) / from_lengths, (lengths / from_lengths).log()), -1
    )
    return offsets / _like(offsets, std)


def decode(offsets: Tensor, references: Tensor, std: Sequence[float]) -> Tensor:
    """Undo ``encode``: offsets (..., 4), references (..., 4) -> boxes (..., 4) xyxy."""
    offsets = offsets * _like(offsets, std)
    from_centres, from_lengths = _centre_form(references)
    centres = from_centres + offsets[..., :2] * from_lengths
    half = from_lengths * offsets[..., 2:].clamp_max(LARGEST_GROWTH).exp() / 2
    return torch.cat((centres - half, centres + half), -1)


def _like(offsets: Tensor, std: Sequence[float]) -> Tensor:
    return upload(torch.tensor(std, dtype=offsets.dtype), offsets.device)


def clip(boxes: Tensor, height: float, width: float) -> Tensor:
    """Cut boxes (..., 4) to the picture 0 .. width, 0 .. height."""
    x, y = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
    return torch.stack((x[..., 0], y[..., 0], x[..., 1], y[..., 1]), -1)
