"""No flow at all: propagation becomes copying, the baseline that flow must beat."""

from collections.abc import Sequence

from torch import Tensor

from flowfeat.interfaces import Flow, FlowNetwork

PYRAMID_STRIDES = (64, 32, 16, 8, 4)


class ZeroFlow(FlowNetwork):
    """Displacement zero and scale one everywhere; it has no weights."""

    def __init__(self, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        del channels  # a scale field of ones needs no channels
        self.stride = min(strides)

    def pyramid(self, current: Tensor, key: Tensor) -> tuple[Tensor, ...]:
        """Return zeros at strides 64 .. 4."""
        return tuple(_zeros(current, stride) for stride in PYRAMID_STRIDES)

    def forward(self, current: Tensor, key: Tensor) -> Flow:
        """Return zeros on the finest feature grid, without a scale field."""
        return Flow(_zeros(current, self.stride), None)


def _zeros(frames: Tensor, stride: int) -> Tensor:
    height, width = frames.shape[-2:]
    return frames.new_zeros(frames.shape[0], 2, -(-height // stride), -(-width // stride))
