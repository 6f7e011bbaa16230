"""FlowNet, the "Simple" version (Table 6), and with half of the width FlowNet Half (Table 7)."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from flowfeat.flow.refinement import RefinedFlowNetwork, convolution

# Table 6: kernel, stride, channels of conv1, conv2, conv3, conv3_1, ...
ENCODER = (
    (7, 2, 64),
    (5, 2, 128),
    (5, 2, 256),
    (3, 1, 256),
    (3, 2, 512),
    (3, 1, 512),
    (3, 2, 512),
    (3, 1, 512),
    (3, 2, 1024),
    (3, 1, 1024),
)
ENDS = (1, 3, 5, 7, 9)  # conv2, conv3_1, conv4_1, conv5_1, conv6_1: strides 4 .. 64
DECODER = (64, 128, 256, 512)  # deconvolutions to strides 4, 8, 16, 32, of FlowNet-S


class FlowNet(RefinedFlowNetwork):
    """FlowNet-S with a scale field.

    Args:
        channels: See :class:`RefinedFlowNetwork`.
        strides: See there.
        width: Factor on the channels of every layer: 1 is Table 6, 0.5 Table 7 (FlowNet Half).
        with_scale: See there.
        predict_at: See there.
        train_scale_bias: See there.
        groups: Normalise every convolution of the encoder in this many groups of channels. None is
            the paper's; from scratch, a short training only gets off the ground with it.

    Raises:
        ValueError: A width that leaves a layer without channels, or channels that the groups do
            not divide; see also there.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        width: float = 1.0,
        with_scale: bool = True,
        predict_at: Literal["features", "refined"] = "features",
        train_scale_bias: bool = True,
        groups: int | None = None,
    ) -> None:
        if not width * ENCODER[0][2] >= 1:
            raise ValueError(f"flow.width={width}: expected at least 1/64")
        sizes = [int(width * outputs) for _, _, outputs in ENCODER]
        super().__init__(
            [sizes[end] for end in ENDS],
            [int(width * outputs) for outputs in DECODER],
            channels,
            strides,
            with_scale,
            predict_at,
            train_scale_bias,
        )
        self.convs = nn.ModuleList()
        inputs = 6
        for (kernel, stride, _), outputs in zip(ENCODER, sizes, strict=True):
            self.convs.append(convolution(inputs, outputs, kernel, stride, groups))
            inputs = outputs
        self.initialise()

    def encode(self, pair: Tensor) -> list[Tensor]:
        """Compute the maps of conv2, conv3_1, conv4_1, conv5_1 and conv6_1."""
        maps = []
        for index, conv in enumerate(self.convs):
            pair = conv(pair)
            if index in ENDS:
                maps.append(pair)
        return maps
