"""FlowNet Inception (Table 8): the cheapest of the paper's flow networks."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from flowfeat.flow.refinement import RefinedFlowNetwork, convolution

# Table 8, per module: stride, #1x1, #1x1-#3x3, #1x1-#3x3-#3x3, #pool; 0 where a branch is missing.
CONV2 = (1, 0, (24, 32), (24, 32, 32), 0)
CONV3 = ((1, 48, (32, 64), (8, 16, 16), 0), (1, 48, (48, 64), (12, 16, 16), 0))
CONV4 = ((2, 32, (112, 128), (28, 32, 32), 64), (1, 96, (112, 128), (28, 32, 32), 0))
CONV5 = ((2, 48, (96, 192), (36, 48, 48), 96), (1, 144, (96, 192), (36, 48, 48), 0))
CONV6 = ((2, 64, (192, 256), (48, 64, 64), 128), (1, 192, (192, 256), (48, 64, 64), 0))
OUTPUTS = (64, 128, 256, 384, 512)  # of conv2, conv3_3, conv4_2, conv5_2, conv6_2
# The paper gives no decoder, but a complexity of 1/8 of FlowNet's: here FlowNet's widths / 8.
# With it 1/r is 94.4 and 68.6 (ResNet-101, ResNet-50), Table 2 has 95.24 and 68.97.
DECODER = (8, 16, 32, 64)
Module = tuple[int, int, tuple[int, int], tuple[int, int, int], int]


class Inception(nn.Module):
    """An "Inception" or (stride 2) "Reduction" module: branches side by side, concatenated.

    A stride of 2 sits in the last convolution of each branch and in the pooling (unspecified).
    """

    def __init__(
        self,
        inputs: int,
        stride: int,
        single: int,
        double: tuple[int, int],
        triple: tuple[int, int, int],
        pool: int,
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList()
        if single:
            self.branches.append(convolution(inputs, single, 1, stride))
        self.branches.append(
            nn.Sequential(
                convolution(inputs, double[0], 1), convolution(double[0], double[1], 3, stride)
            )
        )
        self.branches.append(
            nn.Sequential(
                convolution(inputs, triple[0], 1),
                convolution(triple[0], triple[1], 3),
                convolution(triple[1], triple[2], 3, stride),
            )
        )
        if pool:
            self.branches.append(
                nn.Sequential(nn.MaxPool2d(3, stride, padding=1), convolution(inputs, pool, 1))
            )
        self.channels = single + double[-1] + triple[-1] + pool

    def forward(self, features: Tensor) -> Tensor:
        """Concatenate the branches."""
        return torch.cat([branch(features) for branch in self.branches], dim=1)


class FlowNetInception(RefinedFlowNetwork):
    """Table 8's encoder, skips from conv2, conv3_3, conv4_2 and conv5_2, and a light decoder.

    Args:
        channels: See :class:`RefinedFlowNetwork`.
        strides: See there.
        with_scale: See there.
        predict_at: See there.
        train_scale_bias: See there.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        with_scale: bool = True,
        predict_at: Literal["features", "refined"] = "features",
        train_scale_bias: bool = True,
    ) -> None:
        super().__init__(
            OUTPUTS, DECODER, channels, strides, with_scale, predict_at, train_scale_bias
        )
        stem = (convolution(6, 32, 7, 2), nn.MaxPool2d(3, 2, padding=1))
        self.stages = nn.ModuleList(
            (
                nn.Sequential(*stem, Inception(32, *CONV2)),
                nn.Sequential(convolution(64, 128, 3, 2), *_modules(128, CONV3)),
                nn.Sequential(*_modules(128, CONV4)),
                nn.Sequential(*_modules(256, CONV5)),
                nn.Sequential(*_modules(384, CONV6)),
            )
        )
        self.initialise()

    def encode(self, pair: Tensor) -> list[Tensor]:
        """Compute the maps of conv2, conv3_3, conv4_2, conv5_2 and conv6_2."""
        maps = []
        for stage in self.stages:
            pair = stage(pair)
            maps.append(pair)
        return maps


def _modules(inputs: int, specifications: Sequence[Module]) -> list[Inception]:
    modules = []
    for specification in specifications:
        modules.append(Inception(inputs, *specification))
        inputs = modules[-1].channels
    return modules
