"""Flow that is computed for every pixel, by whatever method, and brought to the feature grid."""

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from flowfeat.flow.zero import PYRAMID_STRIDES
from flowfeat.interfaces import Flow, FlowNetwork
from flowfeat.ops.warp import resize_flow


class FullFlow(FlowNetwork):
    """Adapter for any flow: a subclass gives displacements of full resolution, without a scale.

    A cell of the feature grid gets the mean over its pixels (one pixel of it could lie beside a
    moving object).

    Args:
        channels: Channels per level of the features that the flow will propagate; unused.
        strides: Their strides; the flow is given on the finest level's grid.
        halve: Compute on frames of half the size (2x2 average pooling, sizes round up), as DFF
            does; four times cheaper, and blind to what is small.
    """

    def __init__(
        self, channels: Sequence[int], strides: Sequence[int], halve: bool = False
    ) -> None:
        super().__init__()
        del channels  # a scale field of ones needs no channels
        self.stride = min(strides)
        self.halve = halve

    @abstractmethod
    def displacement(self, current: Tensor, key: Tensor) -> Tensor:
        """Return (B, 2, H, W), current -> key in pixels, for frames (B, 3, H, W) of any size."""

    def at_half_size(self, current: Tensor, key: Tensor) -> Tensor:
        """Return (B, 2, ceil(H / 2), ceil(W / 2)), in pixels of that grid."""
        return self.displacement(*(F.avg_pool2d(f, 2, ceil_mode=True) for f in (current, key)))

    def pyramid(self, current: Tensor, key: Tensor) -> tuple[Tensor, ...]:
        """Return the one displacement, pooled to strides 64 .. 4, in pixels of the frames."""
        full = self.displacement(current, key)
        return tuple(_pool(full, stride) for stride in PYRAMID_STRIDES)

    def forward(self, current: Tensor, key: Tensor) -> Flow:
        """Return the mean displacement of every cell, in cells, without a scale field."""
        height, width = current.shape[-2:]
        size = (-(-height // self.stride), -(-width // self.stride))
        stride = 2 if self.halve else 1  # of the displacement's grid
        full = (self.at_half_size if self.halve else self.displacement)(current, key)
        if self.stride % stride == 0:
            full = _pool(full, self.stride // stride)
        return Flow(resize_flow(full, size, stride / self.stride), None)


def _pool(displacement: Tensor, factor: int) -> Tensor:
    """Average cells of ``factor`` pixels; the values stay in pixels."""
    return F.avg_pool2d(displacement, factor, ceil_mode=True) if factor > 1 else displacement
