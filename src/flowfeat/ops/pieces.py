"""Large batches in pieces: on a CPU they gain nothing, and leave the caches."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

R = TypeVar("R")

PIXELS = 2**19
"""Of a piece: 600 x 1000 goes one by one; small pictures together, which share the weights' way."""


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
    first = frames[0]
    rows = max(1, PIXELS // max(1, first.shape[-2] * first.shape[-1]))
    if first.device.type != "cpu" or torch.is_grad_enabled() or len(first) <= rows:
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
