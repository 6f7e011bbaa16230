"""Anchors: the reference boxes that the region proposal network moves and scores."""

from collections.abc import Sequence

import torch
from torch import Tensor


def anchor_shapes(sizes: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """Return the anchors of one cell around its centre.

    Args:
        sizes: Side lengths in network pixels; an anchor's area is its size squared.
        ratios: Height over width.

    Returns:
        (A, 4) xyxy relative to the centre, ratio-major (all sizes of the first ratio first).

    Raises:
        ValueError: On an empty or non-positive list.
    """
    for name, values in (("anchor_sizes", sizes), ("anchor_ratios", ratios)):
        if not values or min(values) <= 0:
            raise ValueError(f"{name}={list(values)}: expected one or more numbers above 0")
    # The released code rounds sides of a 16-pixel base box (184 x 96 for 181.0 x 90.5); here exact,
    # because sizes are free and need not be multiples of 16.
    size = torch.tensor([float(s) for _ in ratios for s in sizes])
    ratio = torch.tensor([float(r) for r in ratios for _ in sizes])
    half_width, half_height = size / ratio.sqrt() / 2, size * ratio.sqrt() / 2
    return torch.stack((-half_width, -half_height, half_width, half_height), 1)


def grid_anchors(shapes: Tensor, stride: int, height: int, width: int) -> Tensor:
    """Lay the anchors of one cell (A, 4) on every cell of a map.

    The centre of cell (y, x) is ``stride * (x + 0.5), stride * (y + 0.5)`` as in R-FCN.

    Returns:
        (height * width * A, 4) xyxy in network pixels, ordered by row, column, anchor.
    """
    x = (torch.arange(width, device=shapes.device) + 0.5) * stride
    y = (torch.arange(height, device=shapes.device) + 0.5) * stride
    centre_y, centre_x = torch.meshgrid(y, x, indexing="ij")
    centres = torch.stack((centre_x, centre_y, centre_x, centre_y), -1)  # (h, w, 4)
    return (centres[:, :, None] + shapes).reshape(-1, 4)
