"""Propagation W of Eq. 1-3: sample key features where the flow points, times the scale field.

`warp` and `resize_flow` are the only functions that carry features by a displacement or convert it
(`ops/move.py` moves results).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from flowfeat.interfaces import Features, Flow


def warp(features: Tensor, displacement: Tensor, scale: Tensor | None = None) -> Tensor:
    """Propagate key features to the current frame (Eq. 3).

    Bilinear interpolation (Eq. 1-2); what lies outside the map counts as zero, as in the reference
    operator. Zero flow is the identity and integer flow a shift, exactly, at every map size.

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
    if _lies_in_rows(features, flow):
        sampled = _sample_rows(features, flow)
        return sampled if scale is None else sampled * scale.to(sampled.dtype)
    # grid_sample wants positions in -1..1, and going there and back rounds: at 38 x 63 zero flow
    # changes features by 2e-5. With sizes that are powers of two both ways are exact, and the zeros
    # that fill up the map are the zeros that lie outside it anyway.
    full_height, full_width = _power_of_two(height), _power_of_two(width)
    padded = F.pad(features.to(flow.dtype), (0, full_width - width, 0, full_height - height))
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
        sampled = F.grid_sample(padded, grid, align_corners=False).to(features.dtype)
    return sampled if scale is None else sampled * scale.to(sampled.dtype)


def in_rows(features: Features) -> Features:
    """Lay key features out so that ``warp`` is fastest; their values stay.

    On the CPU, without gradients, channels last: a cell is a row, and a result is the weighted sum
    of four rows, 4 to 10 times faster than going through the map once per channel.
    """
    if any(level.device.type != "cpu" for level in features) or torch.is_grad_enabled():
        return features
    return tuple(level.contiguous(memory_format=torch.channels_last) for level in features)


def _lies_in_rows(features: Tensor, flow: Tensor) -> bool:
    return (
        features.device.type == "cpu"
        and not torch.is_grad_enabled()
        and features.dtype == flow.dtype == torch.float32
        and features.is_contiguous(memory_format=torch.channels_last)
    )


def _sample_rows(features: Tensor, flow: Tensor) -> Tensor:
    """Interpolate as above, without the rounding on the way to -1..1 and back."""
    batch, channels, height, width = features.shape
    x, x_weight = _neighbours(torch.arange(width) + flow[:, 0], width)  # (B, h, w, 2)
    y, y_weight = _neighbours(torch.arange(height)[:, None] + flow[:, 1], height)
    first = torch.arange(batch).view(-1, 1, 1, 1, 1) * (height * width)
    rows = first + y[..., :, None] * width + x[..., None, :]  # (B, h, w, 2, 2)
    weights = y_weight[..., :, None] * x_weight[..., None, :]
    table = features.permute(0, 2, 3, 1).view(-1, channels)
    sampled = F.embedding_bag(
        rows.view(-1, 4), table, mode="sum", per_sample_weights=weights.view(-1, 4)
    )
    return sampled.view(batch, height, width, channels).permute(0, 3, 1, 2)


def _neighbours(position: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the two cells around positions along one axis, and their weights: 0 outside."""
    low = position.floor()
    cells = torch.stack((low, low + 1), -1)
    share = position - low
    inside = (cells >= 0) & (cells < size)  # false for what is no number, too
    weights = torch.where(inside, torch.stack((1 - share, share), -1), 0.0)
    return torch.where(inside, cells, 0).long(), weights


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
