"""The OFF layer (Figure 4): two maps of one level -> their gradients in space and in time.

It knows no task: recognition stacks it under residual blocks, detection and restoration add what it
gives to the features. ``reduce`` and ``compare`` are apart so that a stream reduces a frame once.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from flowfeat.draws import drop
from flowfeat.ops.spatial_gradients import Kernels, SpatialGradients, temporal_difference


class Reduced(NamedTuple):
    """One frame's reduced maps: what a stream remembers until the next frame."""

    maps: Tensor | None  # (B, C, h, w), for the temporal difference
    spatial: Tensor | None  # (B, C', h, w), for the spatial gradients; the same where shared


class OffLayer(nn.Module):
    """1x1 reduction, spatial gradients of the previous map, temporal difference, concatenation.

    Gives (B, ``out_channels``, h, w): F_x, F_y (or their one response), F_t, as far as asked for.

    Args:
        channels: Of the maps that come in.
        reduce_to: Channels after the reduction, of which the gradients are taken.
        spatial: Whether the result holds spatial gradients.
        temporal: Whether it holds the temporal difference.
        maps: Whether it holds the current frame's reduced maps themselves; these alone are what the
            hypercolumn network of Table 4 has in the OFF's place, and need no pair.
        kernels: Of the spatial gradients; see :class:`SpatialGradients`.
        relu: ReLU after the reduction, as in the released code; the paper names none.
        own_spatial: Channels of a reduction of the spatial branch's own, without ReLU, as in the
            released code; None: both branches share one, as in the paper.
        spatial_dropout: Dropout on the spatial gradients.
        bias: Where the biases start.

    Raises:
        ValueError: Nothing asked for, a width below 1, a dropout outside 0 .. 1, unknown kernels.
    """

    def __init__(
        self,
        channels: int,
        reduce_to: int = 128,
        spatial: bool = True,
        temporal: bool = True,
        maps: bool = False,
        kernels: Kernels = "prewitt",
        relu: bool = False,
        own_spatial: int | None = None,
        spatial_dropout: float = 0.0,
        bias: float = 0.0,
    ) -> None:
        super().__init__()
        if not (spatial or temporal or maps):
            raise ValueError("spatial, temporal and maps are all false: expected one of them")
        if reduce_to < 1 or (own_spatial is not None and own_spatial < 1):
            raise ValueError(
                f"reduce_to={reduce_to}, own_spatial={own_spatial}: expected 1 or more"
            )
        if not 0 <= spatial_dropout < 1:
            raise ValueError(f"spatial_dropout={spatial_dropout}: expected 0 .. 1, without 1")
        self.spatial, self.temporal, self.maps = spatial, temporal, maps
        self.needs_pair = spatial or temporal
        self.gradients = SpatialGradients(kernels)
        self.own: nn.Module | None = None
        if spatial and own_spatial is not None:
            self.own = reduction(channels, own_spatial, False, bias)
        self.reduction: nn.Module | None = None
        if temporal or maps or self.own is None:
            self.reduction = reduction(channels, reduce_to, relu, bias)
        self.spatial_dropout = spatial_dropout
        self.out_channels = reduce_to * (temporal + maps)
        if spatial:
            self.out_channels += len(self.gradients) * (own_spatial or reduce_to)

    def reduce(self, maps: Tensor) -> Reduced:
        """Reduce maps (B, channels, h, w): what ``compare`` needs of one frame."""
        shared = None if self.reduction is None else self.reduction(maps)
        own = shared if self.own is None else self.own(maps)
        return Reduced(
            shared if self.temporal or self.maps else None, own if self.spatial else None
        )

    def compare(self, previous: Reduced, current: Reduced, seeds: Tensor | None = None) -> Tensor:
        """Return the OFF of pairs; the spatial gradients are the previous map's.

        Args:
            previous: Of each pair's first frame.
            current: Of its second frame.
            seeds: (B,) on the CPU, of each pair's dropout; None for the global generator.
        """
        parts = []
        if previous.spatial is not None:
            share = self.spatial_dropout if self.training else 0.0
            parts.append(drop(self.gradients(previous.spatial), share, seeds))
        if self.temporal and previous.maps is not None and current.maps is not None:
            parts.append(temporal_difference(previous.maps, current.maps))
        if self.maps and current.maps is not None:
            parts.append(current.maps)
        return torch.cat(parts, dim=1)

    def forward(self, previous: Tensor, current: Tensor) -> Tensor:
        """Return the OFF of two maps (B, channels, h, w)."""
        return self.compare(self.reduce(previous), self.reduce(current))

    if TYPE_CHECKING:

        def __call__(self, previous: Tensor, current: Tensor) -> Tensor: ...


def reduction(channels: int, width: int, relu: bool, bias: float) -> nn.Module:
    """Build a 1x1 convolution, He-initialised (He et al., 2015), with ReLU where asked."""
    conv = nn.Conv2d(channels, width, 1)
    start(conv, bias)
    return nn.Sequential(conv, nn.ReLU()) if relu else conv


def start(conv: nn.Conv2d, bias: float) -> None:
    """Initialise a convolution of the OFF sub-network, which has no BatchNorm to rescale it."""
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    if conv.bias is not None:
        nn.init.constant_(conv.bias, bias)
