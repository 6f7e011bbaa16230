"""Spatial gradients and temporal difference of feature maps (Eq. 5-7 of OFF), nothing to learn.

With the default kernels Eq. 4 holds: ``F_x v_x + F_y v_y + F_t = 0`` where a pattern that is linear
in x and y moves by ``v`` pixels per step, x to the right and y down, as everywhere in flowfeat.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Kernels = Literal["prewitt", "printed", "cross"]

_ACROSS = ((-1.0, 0.0, 1.0),) * 3  # Eq. 5
_UP = ((1.0,) * 3, (0.0,) * 3, (-1.0,) * 3)  # Eq. 6: what lies above minus what lies below
_CROSS = ((0.0, 1.0, 0.0), (-1.0, 0.0, 1.0), (0.0, -1.0, 0.0))

KERNELS: dict[Kernels, Tensor] = {
    # The paper prints sums over three pixels two apart, with y up: neither is a gradient. Divided
    # by 6 and with y down they are, and Eq. 4 holds.
    "prewitt": torch.stack((torch.tensor(_ACROSS), -torch.tensor(_UP))) / 6,
    "printed": torch.stack((torch.tensor(_ACROSS), torch.tensor(_UP))),
    # The released code's only kernel: both directions in one response, y up, not divided.
    "cross": torch.tensor(_CROSS)[None],
}
"""Kernels (K, 3, 3) by name, applied as cross-correlation, as all convolutions are."""


class SpatialGradients(nn.Module):
    """F_x and F_y of every channel: (B, C, h, w) -> (B, K * C, h, w), all F_x before all F_y.

    A grouped convolution with fixed kernels; beyond the border the map counts as 0.

    Args:
        kernels: ``prewitt`` (per pixel, y down), ``printed`` (Eq. 5-6 to the letter: 6 times
            larger, y up) or ``cross`` (the released code's single one, so K is 1).

    Raises:
        ValueError: Unknown kernels.
    """

    kernel: Tensor

    def __init__(self, kernels: Kernels = "prewitt") -> None:
        super().__init__()
        if kernels not in KERNELS:
            raise ValueError(f"kernels={kernels!r}: expected one of {', '.join(KERNELS)}")
        self.register_buffer("kernel", KERNELS[kernels].clone()[:, None, None], persistent=False)

    def __len__(self) -> int:
        """Return K, the responses per channel."""
        return len(self.kernel)

    def forward(self, maps: Tensor) -> Tensor:
        """Return the gradients of maps (B, C, h, w)."""
        channels = maps.shape[1]
        weights = self.kernel.to(maps.dtype).expand(-1, channels, -1, -1, -1)  # (K, C, 1, 3, 3)
        return torch.cat([F.conv2d(maps, w, padding=1, groups=channels) for w in weights], dim=1)


def temporal_difference(previous: Tensor, current: Tensor) -> Tensor:
    """Return F_t of Eq. 7: maps of t minus maps of t - 1, both (B, C, h, w)."""
    return current - previous
