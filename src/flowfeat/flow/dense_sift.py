"""Dense SIFT: one descriptor of 4 x 4 cells x 8 orientations for every pixel."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

CELLS = 4  # per side
ORIENTATIONS = 8
CHANNELS = CELLS * CELLS * ORIENTATIONS
BYTE = 255.0  # the published weights of SIFT Flow are for descriptors kept as bytes
CLAMP = 0.2  # of the unit norm: one strong edge does not decide alone
FAINT = 0.01  # norm, in brightness per pixel, below which a descriptor fades instead of being noise
LUMINANCE = (0.299, 0.587, 0.114)


def dense_sift(frames: Tensor, cell: int = 3) -> Tensor:
    """Describe every pixel of frames by its surroundings (Liu et al. 2011, section 2.1).

    Gradients are central differences of the luminance, shared linearly between the two nearest
    orientations and bilinearly between the nearest cells, whose centres lie at (+-0.5, +-1.5) cells
    from the pixel, upright and without a Gaussian window. Outside the frame there is no gradient.
    As in Lowe's SIFT the unit vector is clamped and made unit again.

    Args:
        frames: (B, 3, H, W) RGB in [0, 1].
        cell: Side of a cell in pixels.

    Returns:
        (B, 128, H, W), of norm 255 at most; channel ``(row * 4 + column) * 8 + orientation``,
        orientation 0 pointing right, 2 down.
    """
    with torch.autocast(frames.device.type, enabled=False):  # 8 bits are too few to compare
        cells = _cell_sums(_oriented(frames.detach().float()), cell)
    unit = cells / (cells.square().sum(1, keepdim=True) + FAINT**2).sqrt()
    unit = unit.clamp(max=CLAMP)
    return unit / unit.norm(dim=1, keepdim=True).clamp(min=CLAMP) * BYTE


def _oriented(frames: Tensor) -> Tensor:
    """Split the gradient of frames (B, 3, H, W) by orientation: magnitudes (B, 8, H, W)."""
    grey = (frames * frames.new_tensor(LUMINANCE)[:, None, None]).sum(1, keepdim=True)
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    dx = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    dy = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    turn = torch.atan2(dy, dx) * (ORIENTATIONS / (2 * math.pi))  # in bins
    bins = torch.arange(ORIENTATIONS, device=frames.device)[:, None, None]
    half = ORIENTATIONS / 2
    apart = torch.remainder(turn - bins + half, ORIENTATIONS) - half  # around the circle
    return (1 - apart.abs()).clamp(min=0) * torch.hypot(dx, dy)


def _cell_sums(oriented: Tensor, cell: int) -> Tensor:
    """Gather (B, 8, H, W) in cells around every pixel: (B, 128, H, W)."""
    batch, _, height, width = oriented.shape
    reach = math.ceil(2.5 * cell)
    pixels = torch.arange(-reach, reach + 1, device=oriented.device, dtype=oriented.dtype)
    centres = (torch.arange(CELLS, device=oriented.device) - (CELLS - 1) / 2) * cell
    tents = (1 - (pixels - centres[:, None]).abs() / cell).clamp(min=0)  # (4, 2 * reach + 1)
    maps = oriented.reshape(-1, 1, height, width)
    maps = F.conv2d(maps, tents[:, None, None, :], padding=(0, reach))  # columns
    maps = F.conv2d(maps.reshape(-1, 1, height, width), tents[:, None, :, None], padding=(reach, 0))
    by_orientation = maps.view(batch, ORIENTATIONS, CELLS, CELLS, height, width)  # column, row
    return by_orientation.permute(0, 3, 2, 1, 4, 5).reshape(batch, CHANNELS, height, width)
