"""How like a clean picture another one is: PSNR and BT.601 luma, on 8-bit pictures."""

import torch
from torch import Tensor

_LUMA = (65.481, 128.553, 24.966)  # of R, G and B in [0, 1]; black is 16, white 235


def psnr(found: Tensor, truth: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio in dB, over all values, with a peak of 255.

    torchmetrics gives infinity for equal pictures, and so for the mean of a set that holds one
    black frame. Here equal pictures count as if one value was one level off (103.5 dB for
    3 x 256 x 448 values).

    Args:
        found: Any shape, values in 0 .. 255.
        truth: The same shape.
    """
    error = (found.float() - truth.float()).square().mean()
    least = 1 / found.numel()
    return 10 * torch.log10(255**2 / error.clamp(min=least))


def luma(picture: Tensor) -> Tensor:
    """Return Y of BT.601, (H, W) in 16 .. 235, of an RGB picture (3, H, W) in 0 .. 255."""
    weights = torch.tensor(_LUMA, device=picture.device) / 255
    return 16 + torch.einsum("c,chw->hw", weights, picture.float())
