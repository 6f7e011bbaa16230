"""The OFF layer (Figure 4): two maps of one level -> their gradients in space and in time.

It knows no task: recognition stacks it under residual blocks, detection and restoration add what it
gives to the features. ``reduce`` and ``compare`` are apart so that a stream reduces a frame once.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from flowfeat.ops.spatial_gradients import Kernels, SpatialGradients, temporal_difference


class Reduced(NamedTuple):
    """One frame's reduced maps: what a stream remembers until the next frame."""

    temporal: Tensor | None  # (B, C, h, w), for the temporal difference
    spatial: Tensor | None  # (B, C', h, w), for the spatial gradients; the same where shared


class OffLayer(nn.Module):
    """1x1 reduction, spatial gradients of the previous map, temporal difference, concatenation.

    Gives (B, ``out_channels``, h, w): F_x, F_y (or their one response), then F_t.

    Args:
        channels: Of the maps that come in.
        reduce_to: Channels after the reduction, of which the gradients are taken.
        spatial: Whether the result holds spatial gradients.
        temporal: Whether it holds the temporal difference.
        kernels: Of the spatial gradients; see :class:`SpatialGradients`.
        relu: ReLU after the reduction, as in the released code; the paper names none.
        own_spatial: Channels of a reduction of the spatial branch's own, without ReLU, as in the
            released code; None: both branches share one, as in the paper.
        spatial_dropout: Dropout on the spatial gradients.
        bias: Where the biases start.

    Raises:
        ValueError: Neither branch, a width below 1, a dropout outside 0 .. 1, unknown kernels.
    """

    needs_pair = True

    def __init__(
        self,
        channels: int,
        reduce_to: int = 128,
        spatial: bool = True,
        temporal: bool = True,
        kernels: Kernels = "prewitt",
        relu: bool = False,
        own_spatial: int | None = None,
        spatial_dropout: float = 0.0,
        bias: float = 0.0,
    ) -> None:
        super().__init__()
        if not spatial and not temporal:
            raise ValueError("spatial=false, temporal=false: expected at least one of them")
        if reduce_to < 1 or (own_spatial is not None and own_spatial < 1):
            raise ValueError(
                f"reduce_to={reduce_to}, own_spatial={own_spatial}: expected 1 or more"
            )
        if not 0 <= spatial_dropout < 1:
            raise ValueError(f"spatial_dropout={spatial_dropout}: expected 0 .. 1, without 1")
        self.spatial, self.temporal = spatial, temporal
        self.gradients = SpatialGradients(kernels)
        self.own: nn.Module | None = None
        if spatial and own_spatial is not None:
            self.own = reduction(channels, own_spatial, False, bias)
        self.reduction: nn.Module | None = None
        if temporal or self.own is None:
            self.reduction = reduction(channels, reduce_to, relu, bias)
        self.dropout = nn.Dropout(spatial_dropout)
        self.out_channels = reduce_to if temporal else 0
        if spatial:
            self.out_channels += len(self.gradients) * (own_spatial or reduce_to)

    def reduce(self, maps: Tensor) -> Reduced:
        """Reduce maps (B, channels, h, w): what ``compare`` needs of one frame."""
        shared = None if self.reduction is None else self.reduction(maps)
        own = shared if self.own is None else self.own(maps)
        return Reduced(shared if self.temporal else None, own if self.spatial else None)

    def compare(self, previous: Reduced, current: Reduced) -> Tensor:
        """Return the OFF of a pair; the spatial gradients are the previous map's."""
        parts = []
        if previous.spatial is not None:
            parts.append(self.dropout(self.gradients(previous.spatial)))
        if previous.temporal is not None and current.temporal is not None:
            parts.append(temporal_difference(previous.temporal, current.temporal))
        return torch.cat(parts, dim=1)

    def forward(self, previous: Tensor, current: Tensor) -> Tensor:
        """Return the OFF of two maps (B, channels, h, w)."""
        return self.compare(self.reduce(previous), self.reduce(current))

    if TYPE_CHECKING:

        def __call__(self, previous: Tensor, current: Tensor) -> Tensor: ...


class HypercolumnLayer(nn.Module):
    """What Table 4 puts in the OFF layer's place: the current frame's reduced maps themselves.

    Args:
        channels: Of the maps that come in.
        reduce_to: Channels after the reduction.
        relu: ReLU after it.
        bias: Where the biases start.
    """

    needs_pair = False

    def __init__(
        self, channels: int, reduce_to: int = 128, relu: bool = False, bias: float = 0.0
    ) -> None:
        super().__init__()
        if reduce_to < 1:
            raise ValueError(f"reduce_to={reduce_to}: expected 1 or more")
        self.reduction = reduction(channels, reduce_to, relu, bias)
        self.out_channels = reduce_to

    def reduce(self, maps: Tensor) -> Reduced:
        """Reduce maps (B, channels, h, w)."""
        return Reduced(self.reduction(maps), None)

    def compare(self, previous: Reduced, current: Reduced) -> Tensor:
        """Return the current frame's reduced maps."""
        if current.temporal is None:
            raise ValueError("maps that another layer has reduced")
        return current.temporal


Layer = OffLayer | HypercolumnLayer


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
