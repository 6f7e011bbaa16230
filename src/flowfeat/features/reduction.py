"""The 3x3 convolution from a backbone's level to the channels that are propagated (section 4)."""

from torch import Tensor, nn

LIMIT = 1024  # channels of the paper's feature maps
SHARE = 0.8  # of the backbone's multiply-adds; on ResNet-50, 2048 -> 1024 takes 0.6


class Reduction(nn.Module):
    """3x3 convolution with holes, then ReLU: (B, C, h, w) -> (B, width, h, w).

    The padding equals the dilation (6 in the paper), so the grid stays as it is. Weights start from
    N(0, 0.01), the bias from 0.
    """

    def __init__(self, channels: int, width: int, dilation: int = 6) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=dilation, dilation=dilation)
        self.relu = nn.ReLU()
        nn.init.normal_(self.conv.weight, std=0.01)
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Return the reduced level."""
        return self.relu(self.conv(features))


def automatic_width(channels: int, backbone_macs_per_cell: float) -> int:
    """Choose the channels after the reduction so that it scales with the backbone.

    Half of the level's channels (2048 -> 1024, 512 -> 256), at most 1024 as in the paper, and at
    most what keeps the reduction below 0.8 of the backbone's multiply-adds: the last levels of
    networks with depthwise convolutions are wide but cheap. Rounded down to a multiple of 16.

    Args:
        channels: Channels of the level.
        backbone_macs_per_cell: Multiply-adds of the whole backbone, divided by the level's cells.
    """
    affordable = SHARE * backbone_macs_per_cell / (9 * channels)
    return max(16, int(min(channels / 2, LIMIT, affordable)) // 16 * 16)
