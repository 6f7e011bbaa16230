"""The first convolutions of DnCNN, at the size of the frame: N_feat of artifact removal."""

from typing import Literal

from torch import Tensor, nn

from flowfeat.interfaces import FeatureNetwork, Features


class DnCNN(FeatureNetwork):
    """Zhang et al., 2017, up to where OFF comes in; ``heads.restoration`` is the rest.

    3x3 convolutions with ReLU and without BatchNorm (OFF, section 7.2). 3 here and 17 in the head
    are DnCNN's 20. What is learnt is the residual of the frames, RGB in [0, 1].

    Args:
        depth: Convolutions; the paper found 3 best.
        width: Channels.
        mean: Taken from the frames. 0 as published; the middle of the range lets a short training
            begin at once, where the brightness that all values share otherwise hides the texture.

    Raises:
        ValueError: Either below 1.
    """

    def __init__(self, depth: int = 3, width: int = 64, mean: float = 0.0) -> None:
        super().__init__()
        if depth < 1 or width < 1:
            raise ValueError(
                f"features.depth={depth}, features.width={width}: expected 1 or more of each"
            )
        self.mean = mean
        self.layers = convolutions(3, width, depth)
        self.channels, self.strides = (width,), (1,)

    def trunk(self, frames: Tensor) -> Features:
        return (self.layers(frames - self.mean),)


def convolutions(inputs: int, width: int, depth: int) -> nn.Sequential:
    """Chain ``depth`` 3x3 convolutions of ``width`` channels, each with ReLU."""
    layers: list[nn.Module] = []
    for index in range(depth):
        layers += [convolution(width if index else inputs, width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def convolution(
    inputs: int, outputs: int, after: Literal["relu", "linear"] = "relu", share: float = 1.0
) -> nn.Conv2d:
    """Build a 3x3 convolution with Xavier's uniform weights and biases of 0.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        after: What follows. The gain is that of ReLU, where the paper names Xavier's alone: without
            it activations and gradients halve in energy with every layer, and there are 20 layers
            and no BatchNorm to restore them.
        share: Factor of the gain.
    """
    layer = nn.Conv2d(inputs, outputs, 3, padding=1)
    nn.init.xavier_uniform_(layer.weight, share * nn.init.calculate_gain(after))
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # it has one
    return layer
