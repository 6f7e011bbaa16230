"""Small networks with known behaviour, for the methods' tests."""

import pytest
import torch
from torch import Tensor, nn

from flowfeat.interfaces import FeatureNetwork, Features, Flow, FlowNetwork


class TwoLevels(FeatureNetwork):
    """Convolutions at strides 4 and 8; counts the frames that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.channels, self.strides = (6, 4), (4, 8)
        self.fine = nn.Conv2d(3, 6, 4, stride=4)
        self.coarse = nn.Conv2d(6, 4, 2, stride=2)
        self.frames_seen = 0

    def trunk(self, frames: Tensor) -> Features:
        self.frames_seen += len(frames)
        fine = self.fine(frames)
        return fine, self.coarse(fine)


class FrameDependentFlow(FlowNetwork):
    """A flow and a scale that differ for every pair of frames."""

    has_scale = True

    def __init__(self, channels: int = 10) -> None:
        super().__init__()
        self.move = nn.Conv2d(6, 2, 4, stride=4)
        self.factor = nn.Conv2d(6, channels, 4, stride=4)

    def pyramid(self, current: Tensor, key: Tensor) -> tuple[Tensor, ...]:
        return (self.move(torch.cat((current, key), dim=1)),)

    def forward(self, current: Tensor, key: Tensor) -> Flow:
        pair = torch.cat((current, key), dim=1)
        return Flow(3 * self.move(pair), 1 + self.factor(pair))


@pytest.fixture
def features() -> TwoLevels:
    torch.manual_seed(0)
    return TwoLevels().eval()


@pytest.fixture
def flow() -> FrameDependentFlow:
    torch.manual_seed(1)
    return FrameDependentFlow().eval()
