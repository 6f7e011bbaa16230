"""Large batches in pieces: on a CPU they gain nothing, and leave the caches."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

R = TypeVar("R")

PIXELS = 2**19
"""Of a piece: 600 x 1000 goes one by one; small pictures together, which share the weights' way."""


def rows_at_once(frames: Tensor) -> int:
    """Return how many rows of a batch (B, 3, H, W) are good to take at a time; at least 1."""
    if frames.device.type != "cpu" or torch.is_grad_enabled():
        return max(1, len(frames))
    return max(1, PIXELS // max(1, frames.shape[-2] * frames.shape[-1]))


def in_pieces(network: Callable[..., R], *frames: Tensor) -> R:
    """Run a network on as many rows of a batch at a time as are good for this device.

    That is all of them on a GPU and wherever gradients are wanted.

    Args:
        network: Treats rows independently; returns tensors with a batch axis, or (named) tuples of
            tensors and Nones.
        frames: One or more (B, 3, H, W).

    Returns:
        What ``network(*frames)`` returns.
    """
    rows = rows_at_once(frames[0])
    if len(frames[0]) <= rows:
        return network(*frames)
    pieces = [network(*piece) for piece in zip(*(f.split(rows) for f in frames), strict=True)]
    return _joined(pieces)


def _joined(pieces: list[Any]) -> Any:
    kind = pieces[0]
    if kind is None:
        return None
    if isinstance(kind, Tensor):
        return torch.cat(pieces)
    columns = [_joined(list(column)) for column in zip(*pieces, strict=True)]
    return type(kind)(*columns) if hasattr(kind, "_fields") else tuple(columns)
