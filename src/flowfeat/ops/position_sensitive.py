"""Position-sensitive RoI pooling and voting (R-FCN), exact, by integral images.

The same averages as ``torchvision.ops.ps_roi_pool`` followed by a mean over the bins, with two
differences. Channels are bin-major (``bin * C + c``; there ``c * k * k + bin``), so that one bin of
a RoI reads contiguous rows. And torchvision clips bins to ``height - 1`` and ``width - 1``, which
keeps the last row and column of the map out of every bin; here, as in R-FCN, they count.
"""

from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Corners = Literal["cells", "pixels"]

ONE_THREAD = 32768
"""Numbers up to which torch keeps an element-wise operation on the CPU in one thread."""


def bin_edges(
    first: Tensor, last: Tensor, k: int, stride: int, extent: int, corners: Corners
) -> tuple[Tensor, Tensor]:
    """Return the first cell and the end cell (exclusive) of each of k bins along one axis.

    Bin j of a RoI of n cells spans floor(j n / k) .. ceil((j + 1) n / k) (R-FCN, Eq. 1), at least
    one cell, inside the map.

    Args:
        first: (R,) start of the RoIs in network pixels.
        last: (R,) end of the RoIs (exclusive) in network pixels.
        k: Bins per axis.
        stride: Network pixels per cell.
        extent: Cells of the map along this axis.
        corners: ``cells`` rounds the corners to whole cells (R-FCN's formula, torchvision);
            ``pixels`` to whole network pixels (R-FCN's released code): fractions of cells stay.
    """
    j = torch.arange(k, device=first.device)
    if corners == "cells":
        start = torch.floor(first / stride + 0.5).long().clamp(0, extent - 1)[:, None]
        end = torch.floor(last / stride + 0.5).long()[:, None]
        size = (end - start).clamp_min(1)
        low = start + (j * size).div(k, rounding_mode="floor")
        high = start + ((j + 1) * size + k - 1).div(k, rounding_mode="floor")
    else:
        begin = (torch.floor(first + 0.5) / stride)[:, None]
        step = ((torch.floor(last + 0.5) / stride)[:, None] - begin).clamp_min(0.1) / k
        slack = 1e-3  # an edge that rounding put just beyond a cell must not claim that cell
        low = torch.floor(begin + j * step + slack).long()
        high = torch.ceil(begin + (j + 1) * step - slack).long()
    low = low.clamp(0, extent - 1)
    return low, torch.maximum(high.clamp_max(extent), low + 1)


def exact_type(maps: Tensor) -> torch.dtype:
    """Return the type of sums whose differences stay exact to about 1e-12 (MPS has no float64)."""
    return torch.float32 if maps.device.type == "mps" else torch.float64


def integral_image(maps: Tensor) -> Tensor:
    """Sum maps (B, C, h, w) over all cells above and left: (B, h + 1, w + 1, C), 0 at the edge."""
    batch, channels, height, width = maps.shape
    # In place, because at full size the allocation of each copy costs as much as the sums.
    sums = maps.new_zeros(batch, height + 1, width + 1, channels, dtype=exact_type(maps))
    sums[:, 1:, 1:] = maps.permute(0, 2, 3, 1)
    return sums.cumsum_(1).cumsum_(2)


def sums_by_rows(maps: Tensor) -> Tensor:
    """Return the integral image on the CPU: the same sums in the same order, three times as fast.

    Adds whole rows, then whole columns, where ``cumsum_`` walks down the map once for every single
    number of a row. A band of the maps at a time: what is larger, torch hands to all threads, whose
    meeting costs more than it saves.
    """
    batch, channels, height, width = maps.shape
    sums = maps.new_empty(batch, height + 1, width + 1, channels, dtype=torch.float64)
    sums[:, 0] = 0
    sums[:, 1:, 0] = 0
    cells = maps.permute(0, 2, 3, 1)  # (B, h, w, C)
    for some, band in _pictures_and_bands(batch, width, channels):
        own, ours = sums[some], cells[some]
        for x in range(0, width, band):
            down, new = own[:, :, x + 1 : min(x + band, width) + 1], ours[:, :, x : x + band]
            down[:, 1] = new[:, 0]
            for y in range(1, height):
                torch.add(down[:, y], new[:, y], out=down[:, y + 1])
        rows = max(1, band // len(own))
        for y in range(1, height + 1, rows):
            right = own[:, y : y + rows]
            for x in range(2, width + 1):
                right[:, :, x] += right[:, :, x - 1]
    return sums


def _sum_back(gradient: Tensor) -> Tensor:
    """Turn the gradient of the integral image into that of the cells, in its own memory.

    A cell was added to all sums below and right of it, so it gets the sum of theirs.

    Args:
        gradient: (B, h + 1, w + 1, C), overwritten.

    Returns:
        (B, h, w, C).
    """
    cells = gradient[:, 1:, 1:]
    batch, height, width, channels = cells.shape
    for some, band in _pictures_and_bands(batch, width, channels):
        own = cells[some]
        for x in range(0, width, band):
            up = own[:, :, x : x + band]
            for y in reversed(range(height - 1)):
                up[:, y] += up[:, y + 1]
        rows = max(1, band // len(own))
        for y in range(0, height, rows):
            left = own[:, y : y + rows]
            for x in reversed(range(width - 1)):
                left[:, :, x] += left[:, :, x + 1]
    return cells


def _pictures_and_bands(batch: int, width: int, channels: int) -> Iterator[tuple[slice, int]]:
    """Yield pictures whose rows stay in one thread together, and the cells that do so."""
    band = max(1, ONE_THREAD // channels)
    together = max(1, band // width)
    yield from ((slice(at, at + together), band) for at in range(0, batch, together))


class _VotesByRows(torch.autograd.Function):
    """Vote on the CPU.

    Autograd would keep the integral image, copy it for every corner and turn it over before and
    behind each ``cumsum``; here the gradient has one such table, and goes back by rows as well.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(rows, weights)
        ctx.shape, ctx.dtype = maps.shape, maps.dtype
        return _weighted_rows(sums_by_rows(maps), rows, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        rows, weights = ctx.saved_tensors
        batch, channels, height, width = ctx.shape
        sums = weights.new_zeros(batch, height + 1, width + 1, channels)
        shares = weights[:, :, None] * gradient[:, None]  # (R, 4 k^2, C)
        sums.view(-1, gradient.shape[1]).index_add_(0, rows.flatten(), shares.flatten(0, 1))
        return _sum_back(sums).permute(0, 3, 1, 2).to(ctx.dtype), None, None


def _weighted_rows(sums: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Add rows (R, 4 k^2) of the integral image, weighted: (R, C)."""
    bins = rows.shape[1] // 4
    corner_sums = F.embedding(rows, sums.view(-1, sums.shape[-1] // bins))
    with torch.autocast(sums.device.type, enabled=False):
        return torch.bmm(weights[:, None], corner_sums)[:, 0]


def position_sensitive_vote(
    maps: Tensor,
    rois: Tensor,
    owners: Tensor,
    k: int,
    stride: int,
    corners: Corners = "cells",
) -> Tensor:
    """Pool every RoI position-sensitively and average its k x k bins.

    Args:
        maps: (B, k * k * C, h, w); channel ``(row * k + column) * C + c`` is bin's and class c's.
        rois: (R, 4) xyxy, half-open, network pixels.
        owners: (R,) i64, the picture of each RoI, 0 .. B - 1.
        k: Bins per axis.
        stride: Network pixels per cell.
        corners: See ``bin_edges``.

    Returns:
        Votes (R, C), float32 at least, differentiable in the maps.
    """
    _, channels, height, width = maps.shape
    if channels % (k * k):
        raise ValueError(f"maps have {channels} channels, expected a multiple of k * k = {k * k}")
    rois = rois.detach().float()
    x0, x1 = bin_edges(rois[:, 0], rois[:, 2], k, stride, width, corners)  # (R, k)
    y0, y1 = bin_edges(rois[:, 1], rois[:, 3], k, stride, height, corners)
    area = (y1 - y0)[:, :, None] * (x1 - x0)[:, None, :]  # (R, k, k)
    weight = area.to(exact_type(maps)).mul(k * k).reciprocal()

    row = owners[:, None] * (height + 1)
    bins = torch.arange(k * k, device=maps.device).view(k, k)

    def address(y: Tensor, x: Tensor) -> Tensor:
        cell = (row + y)[:, :, None] * (width + 1) + x[:, None, :]
        return (cell * (k * k) + bins).flatten(1)

    rows = torch.cat((address(y1, x1), address(y0, x0), address(y0, x1), address(y1, x0)), 1)
    plus = weight.flatten(1)
    signed = torch.cat((plus, plus, -plus, -plus), 1)  # (R, 4 k^2)
    # Every vote is one weighted sum of 4 k^2 rows of the integral image.
    if maps.device.type == "cpu":
        votes = _VotesByRows.apply(maps, rows, signed)
    else:
        votes = _weighted_rows(integral_image(maps), rows, signed)
    return votes.to(torch.promote_types(maps.dtype, torch.float32))
