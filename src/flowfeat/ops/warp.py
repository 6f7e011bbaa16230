"""Propagation W of Eq. 1-3: sample key features where the flow points, times the scale field.

`warp` and `resize_flow` are the only functions that carry features by a displacement or convert it
(`ops/move.py` moves results).
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from flowfeat.interfaces import Features, Flow

AT_ONCE, LEAST = 2**20, 64
"""Numbers of a map that are brought to rows together, and channels at least: what is larger leaves
the caches and takes memory, short rows take time."""

SHORT = 128
"""Channels up to which maps that do not lie in rows are not worth being brought there."""


def warp(features: Tensor, displacement: Tensor, scale: Tensor | None = None) -> Tensor:
    """Propagate key features to the current frame (Eq. 3).

    Bilinear interpolation (Eq. 1-2); what lies outside the map counts as zero, as in the reference
    operator. Zero flow is the identity and integer flow a shift, exactly, at every map size. Where
    the displacement is no finite number, neither is the result: a broken flow is seen.

    Args:
        features: (B, C, h, w), features of the key frame.
        displacement: (B, 2, h, w), (dx, dy) in pixels of this grid, current -> key.
        scale: (B, C, h, w) or None for all ones.

    Returns:
        (B, C, h, w), features of the current frame, in the type of ``features``.

    Raises:
        ValueError: The three do not share one grid.
    """
    height, width = features.shape[-2:]
    if displacement.shape[-2:] != (height, width) or displacement.shape[1] != 2:
        raise ValueError(
            f"displacement {tuple(displacement.shape)}: expected (B, 2, {height}, {width}), "
            "the grid of the features"
        )
    if scale is not None and scale.shape != features.shape:
        raise ValueError(f"scale {tuple(scale.shape)}: expected {tuple(features.shape)}")
    # Positions need float32 even under autocast: half precision resolves 1/8 pixel at column 200.
    flow = displacement if displacement.dtype == torch.float64 else displacement.float()
    flow = flow + (flow - flow)  # what is infinite has no place either: NaN, on every device
    sample = _Rows.apply if _goes_by_rows(features) else _sample_grid
    sampled: Tensor = sample(features.to(flow.dtype), flow).to(features.dtype)
    return sampled if scale is None else sampled * scale.to(sampled.dtype)


def _goes_by_rows(features: Tensor) -> bool:
    lies_so = features.is_contiguous(memory_format=torch.channels_last)
    return features.device.type == "cpu" and (lies_so or features.shape[1] > SHORT)


def _sample_grid(features: Tensor, flow: Tensor) -> Tensor:
    height, width = features.shape[-2:]
    # grid_sample wants positions in -1..1, and going there and back rounds: at 38 x 63 zero flow
    # changes features by 2e-5. With sizes that are powers of two both ways are exact, and the zeros
    # that fill up the map are the zeros that lie outside it anyway.
    full_height, full_width = _power_of_two(height), _power_of_two(width)
    padded = F.pad(features, (0, full_width - width, 0, full_height - height))
    x = torch.arange(width, device=flow.device, dtype=flow.dtype)
    y = torch.arange(height, device=flow.device, dtype=flow.dtype)
    grid = torch.stack(
        (
            (2 * (x + flow[:, 0]) + 1) / full_width - 1,
            (2 * (y[:, None] + flow[:, 1]) + 1) / full_height - 1,
        ),
        dim=-1,
    )  # (B, h, w, 2)
    with torch.autocast(features.device.type, enabled=False):
        return F.grid_sample(padded, grid, align_corners=False)


def in_rows(features: Features) -> Features:
    """Lay key features out so that ``warp`` is fastest; their values stay.

    On the CPU, without gradients, channels last: what lies in rows need not be brought there.
    """
    if any(level.device.type != "cpu" for level in features) or torch.is_grad_enabled():
        return features
    return tuple(level.contiguous(memory_format=torch.channels_last) for level in features)


class _Rows(torch.autograd.Function):
    """Sample on the CPU: a cell is a row of C numbers, a result the weighted sum of four rows.

    Several times faster than going through the map once per channel, and without the rounding on
    the way to -1..1 and back. Maps that do not lie in rows are brought there some channels at a
    time; the gradient does so anew instead of keeping a second map.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, flow: Tensor) -> Tensor | None:
        ctx.save_for_backward(features, flow)
        rows, weights = _bags(flow)
        sampled = None
        for some in _channels(features):
            sums = _sums(_to_rows(features[:, some]), rows, weights)
            sampled = _put(sums, some, sampled, features)
        return sampled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        features, flow = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        with torch.enable_grad():
            flow = flow.detach().requires_grad_()
            rows, weights = _bags(flow)
        shares = weights.detach().requires_grad_(wanted[1])
        of_features, of_shares = None, torch.zeros_like(shares)
        for some in _channels(features):
            table = _to_rows(features[:, some]).detach().requires_grad_(wanted[0])
            with torch.enable_grad():
                sums = _sums(table, rows, shares)
            inputs = [each for each in (table, shares) if each.requires_grad]
            found = list(torch.autograd.grad(sums, inputs, _to_rows(gradient[:, some])))
            if wanted[1]:
                of_shares += found.pop()
            if wanted[0]:
                of_features = _put(found.pop(), some, of_features, features)
        of_flow = torch.autograd.grad(weights, flow, of_shares)[0] if wanted[1] else None
        return of_features, of_flow


def _channels(features: Tensor) -> Iterator[slice]:
    """Yield the channels that are taken together: all of a map that lies in rows or is small."""
    batch, channels, height, width = features.shape
    step = max(LEAST, AT_ONCE // (batch * height * width))
    if features.is_contiguous(memory_format=torch.channels_last):
        step = channels
    yield from (slice(first, first + step) for first in range(0, channels, step))


def _to_rows(maps: Tensor) -> Tensor:
    """Return maps (B, C, h, w) as rows (B * h * w, C): a view, where they lie so."""
    batch, channels, height, width = maps.shape
    if maps.is_contiguous(memory_format=torch.channels_last):
        return maps.permute(0, 2, 3, 1).reshape(-1, channels)
    rows = maps.new_empty(batch, height * width, channels)
    for own, one in zip(rows, maps, strict=True):
        own.copy_(one.reshape(channels, -1).t())  # a matrix's transpose torch copies in blocks
    return rows.view(-1, channels)


def _put(rows: Tensor, some: slice, maps: Tensor | None, like: Tensor) -> Tensor:
    """Write rows (B * h * w, c) into some channels of maps, which are made where there are none."""
    batch, _, height, width = like.shape
    new = rows.view(batch, height, width, -1).permute(0, 3, 1, 2)
    if new.shape == like.shape:
        return new
    if maps is None:
        maps = torch.empty_like(like, memory_format=torch.channels_last)
    maps[:, some] = new
    return maps


def _sums(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    return F.embedding_bag(rows, table, mode="sum", per_sample_weights=weights)


def _bags(flow: Tensor) -> tuple[Tensor, Tensor]:
    """Return the four rows around every position (B * h * w, 4), and their weights."""
    batch, _, height, width = flow.shape
    x, x_weight = _neighbours(torch.arange(width) + flow[:, 0], width)  # (B, h, w, 2)
    y, y_weight = _neighbours(torch.arange(height)[:, None] + flow[:, 1], height)
    first = torch.arange(batch).view(-1, 1, 1, 1, 1) * (height * width)
    rows = first + y[..., :, None] * width + x[..., None, :]  # (B, h, w, 2, 2)
    weights = y_weight[..., :, None] * x_weight[..., None, :]
    return rows.view(-1, 4), weights.view(-1, 4)


def _neighbours(position: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the two cells around positions along one axis, and their weights: 0 outside.

    What is no number has a cell, and a weight that is none.
    """
    low = position.floor()
    cells = torch.stack((low, low + 1), -1)
    share = position - low
    outside = (cells < 0) | (cells >= size)
    weights = torch.where(outside, 0.0, torch.stack((1 - share, share), -1))
    return cells.nan_to_num(0).clamp(0, size - 1).long(), weights


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()


def resize_flow(displacement: Tensor, size: tuple[int, int], ratio: float) -> Tensor:
    """Bring a displacement to another grid, bilinearly.

    Args:
        displacement: (B, 2, h, w), in pixels of its grid.
        size: Height and width of the new grid.
        ratio: Old stride over new stride (a ratio of strides, not of sizes, which odd sizes round).

    Returns:
        (B, 2, *size), in pixels of the new grid.
    """
    if displacement.shape[-2:] != size:
        displacement = F.interpolate(displacement, size=size, mode="bilinear", align_corners=False)
    return displacement * ratio


def warp_levels(features: Features, flow: Flow, strides: Sequence[int]) -> Features:
    """Apply Eq. 3 to every level of key features, all under the one flow on the finest grid.

    Args:
        features: Levels (B, C_l, h_l, w_l) of the key frames.
        flow: On the finest level's grid, with the channels of all levels in its scale.
        strides: Of the levels.
    """
    finest = min(strides)
    return tuple(
        warp(level, _on_grid(flow.displacement, level, finest / stride), scale)
        for level, scale, stride in zip(features, _scales(features, flow), strides, strict=True)
    )


def scale_levels(features: Features, flow: Flow) -> Features:
    """Multiply every level by its part of the scale field, moving nothing."""
    return tuple(
        level if scale is None else level * scale.to(level.dtype)
        for level, scale in zip(features, _scales(features, flow), strict=True)
    )


def _on_grid(displacement: Tensor, level: Tensor, ratio: float) -> Tensor:
    size = (level.shape[-2], level.shape[-1])
    return displacement if ratio == 1 else resize_flow(displacement, size, ratio)


def _scales(features: Features, flow: Flow) -> tuple[Tensor | None, ...]:
    """Return each level's scale field, resized where its grid is not the finest."""
    if flow.scale is None:
        return (None,) * len(features)
    fields = flow.scale.split([level.shape[1] for level in features], dim=1)
    return tuple(
        field
        if field.shape[-2:] == level.shape[-2:]
        else F.interpolate(field, size=level.shape[-2:], mode="bilinear", align_corners=False)
        for field, level in zip(fields, features, strict=True)
    )
