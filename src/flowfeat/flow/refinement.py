"""What the papers' flow networks share: refinement to stride 4, and F and S on the feature grid."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowfeat.interfaces import Flow, FlowNetwork
from flowfeat.ops.precision import without_autocast
from flowfeat.ops.warp import resize_flow

LEAK = 0.1
FLOW_UNIT = 20.0  # pixels of the network's input per unit of its raw output
MEAN = (123.15 / 255, 115.90 / 255, 103.06 / 255)  # RGB, as the released code subtracts


class Refinement(nn.Module):
    """The decoder of FlowNet-S: coarse maps grow by deconvolution and meet the finer ones.

    At every level a flow is predicted, doubled in size and concatenated; all maps are cropped on
    the right and at the bottom to the finer level's size. Strides are those of the network's input.

    Args:
        inputs: Channels of the encoder's maps at strides 4, 8, 16, 32, 64.
        widths: Channels of the deconvolutions to strides 4, 8, 16, 32.
    """

    def __init__(self, inputs: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__()
        self.deconvs = nn.ModuleList()  # coarse to fine
        self.predicts = nn.ModuleList()
        self.enlarges = nn.ModuleList()
        channels = inputs[-1]
        for skip, width in reversed(list(zip(inputs[:-1], widths, strict=True))):
            self.predicts.append(prediction(channels))
            self.enlarges.append(_enlargement())
            self.deconvs.append(_deconvolution(channels, width))
            channels = skip + width + 2
        self.channels = channels  # of the refined map

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Refine maps of strides 4 .. 64.

        Returns:
            The refined map (B, channels, h, w) at stride 4, and the raw flows at 64, 32, 16, 8.
        """
        refined, flows = maps[-1], []
        steps = zip(reversed(maps[:-1]), self.predicts, self.enlarges, self.deconvs, strict=True)
        for skip, predict, enlarge, deconv in steps:
            height, width = skip.shape[-2:]
            flow = in_full(predict, refined)
            flows.append(flow)
            grown = F.leaky_relu(deconv(refined), LEAK)[..., :height, :width]
            enlarged = in_full(enlarge, flow)[..., :height, :width]
            refined = torch.cat((skip, grown, enlarged), dim=1)
        return refined, flows


class RefinedFlowNetwork(FlowNetwork):
    """F and S over an encoder (subclasses) and :class:`Refinement`.

    ``forward`` halves the frames by 2x2 average pooling (sizes round up), so that the refined map
    has stride 8 of the frames. With ``predict_at="features"`` that map is average-pooled to the
    feature stride, and flow (3x3) and scale (1x1) are predicted there; with ``"refined"`` they are
    predicted at stride 8 and resized bilinearly. Both use the one flow predictor that ``pyramid``
    trains at stride 4; it then sees pooled features, and a neighbourhood of 3x3 coarser cells.
    Feature strides that are no multiple of 8 are always resized.

    Args:
        encoder: Channels of the encoder's maps at strides 4, 8, 16, 32, 64 of its input.
        decoder: Channels of the deconvolutions to strides 4, 8, 16, 32.
        channels: Channels per level of the features that the flow will propagate.
        strides: Their strides; the flow is given on the finest level's grid.
        with_scale: Predict the scale field S; without it, ``scale`` is None.
        predict_at: Where flow and scale are predicted, see above.
        train_scale_bias: Whether the bias of S is trained; the released code keeps it at 1.

    Raises:
        ValueError: An unknown ``predict_at``; channels and strides that do not pair up.
    """

    mean: Tensor

    def __init__(
        self,
        encoder: Sequence[int],
        decoder: Sequence[int],
        channels: Sequence[int],
        strides: Sequence[int],
        with_scale: bool = True,
        predict_at: Literal["features", "refined"] = "features",
        train_scale_bias: bool = True,
    ) -> None:
        super().__init__()
        if predict_at not in ("features", "refined"):
            raise ValueError(f"flow.predict_at={predict_at!r}: expected features or refined")
        if not strides or len(strides) != len(channels):
            raise ValueError(f"channels={channels}, strides={strides}: expected one each per level")
        self.stride = min(strides)
        # The paper resizes predictions from stride 8; here, like the released code and Table 2's
        # ratios, the features are pooled first, which keeps the scale field four times cheaper.
        self.pooled = predict_at == "features" and self.stride % 8 == 0
        self.refinement = Refinement(encoder, decoder)
        self.coarse_channels = encoder[-1]
        self.predict = prediction(self.refinement.channels)
        self.has_scale = with_scale
        self.scale: nn.Conv2d | None = None
        if with_scale:
            # The paper widens the last (3x3) convolution; here 1x1, as in the released code.
            self.scale = nn.Conv2d(self.refinement.channels, sum(channels), 1)
        self._train_scale_bias = train_scale_bias
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)

    @abstractmethod
    def encode(self, pair: Tensor) -> list[Tensor]:
        """Compute maps at strides 4, 8, 16, 32, 64 of a pair (B, 6, H, W), current frame first."""

    def pyramid(self, current: Tensor, key: Tensor) -> tuple[Tensor, ...]:
        """Predict displacements at strides 64 .. 4, in pixels of the frames given."""
        refined, flows, _ = self._refine(current, key)
        return tuple(flow * FLOW_UNIT for flow in (*flows, in_full(self.predict, refined)))

    def forward(self, current: Tensor, key: Tensor) -> Flow:
        """Predict flow and scale on the feature grid."""
        height, width = current.shape[-2:]
        refined, _, coarse = self._refine(_halve(current), _halve(key))
        stride = 8  # of the refined map, in pixels of the frame
        if self.pooled and self.stride > stride:
            factor = self.stride // stride
            refined = F.avg_pool2d(refined, factor, ceil_mode=True)
            stride = self.stride
        displacement = in_full(self.predict, refined) * (FLOW_UNIT * 2 / stride)
        scale = None
        if self.scale is not None:
            # Channels last: on the CPU a 1x1 convolution is then one matrix product, and W, which
            # multiplies by its result, has its maps in this order too.
            scale = self.scale(refined.contiguous(memory_format=torch.channels_last))
        if stride != self.stride:
            size = (-(-height // self.stride), -(-width // self.stride))
            displacement = resize_flow(displacement, size, stride / self.stride)
            if scale is not None:
                # Around 1: the weights of interpolation may add up to slightly less.
                scale = 1 + F.interpolate(scale - 1, size, mode="bilinear", align_corners=False)
        return Flow(displacement, scale, coarse)

    def _refine(self, current: Tensor, key: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        """Return the refined map, the raw flows, and the encoder's coarsest map."""
        if current.shape != key.shape:
            raise ValueError(f"frames {tuple(current.shape)} and {tuple(key.shape)} differ in size")
        pair = torch.cat((current - self.mean, key - self.mean), dim=1)  # (B, 6, H, W)
        maps = self.encode(pair)
        refined, flows = self.refinement(maps)
        return refined, flows, maps[-1]

    def initialise(self) -> None:
        """Set the weights for training from scratch; subclasses call it when they are complete.

        He's initialisation for leaky ReLU; predictors near zero, so that a fresh network predicts
        almost no motion; the scale field exactly one (weights 0, bias 1).
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=LEAK)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for predict in (*self.refinement.predicts, self.predict):
            nn.init.normal_(predict.weight, std=1e-3)
        if self.scale is not None and self.scale.bias is not None:
            nn.init.zeros_(self.scale.weight)
            nn.init.ones_(self.scale.bias)
            self.scale.bias.requires_grad_(self._train_scale_bias)


def convolution(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int | None = None
) -> nn.Sequential:
    """Convolution and leaky ReLU; sizes divide by the stride and round up.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        kernel: Side of the kernel.
        stride: Stride.
        groups: Normalise the outputs in this many groups of channels; None does not.
    """
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2)
    norm = [] if groups is None else [nn.GroupNorm(groups, outputs)]
    return nn.Sequential(conv, *norm, nn.LeakyReLU(LEAK))


def in_full(layer: nn.Module, maps: Tensor) -> Tensor:
    """Run a layer in the precision of its weights, where autocast would take half of it.

    For flow: the 8 bits of bfloat16 tell displacements of 32 cells and more no nearer than 1/4.
    """
    with without_autocast(maps.device):
        full: Tensor = layer(maps.to(next(layer.parameters()).dtype))
    return full


def prediction(inputs: int) -> nn.Conv2d:
    """Predict a raw flow, which times 20 is in pixels of the network's input."""
    return nn.Conv2d(inputs, 2, 3, padding=1)


def _deconvolution(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    deconv = nn.ConvTranspose2d(inputs, outputs, 4, 2, padding=1)
    # Every output sees 2x2 of the 4x4 weights; torch's own fan counts all of them, and outputs.
    nn.init.normal_(deconv.weight, std=math.sqrt(2 / (1 + LEAK**2) / (4 * inputs)))
    if deconv.bias is not None:
        nn.init.zeros_(deconv.bias)
    return deconv


def _enlargement() -> nn.ConvTranspose2d:
    """Double a raw flow's grid; it starts as bilinear interpolation (the unit is the input's)."""
    deconv = nn.ConvTranspose2d(2, 2, 4, 2, padding=1)
    ramp = torch.tensor([0.25, 0.75, 0.75, 0.25])
    with torch.no_grad():
        deconv.weight.zero_()
        for channel in range(2):
            deconv.weight[channel, channel] = ramp[:, None] * ramp
        if deconv.bias is not None:
            deconv.bias.zero_()
    return deconv


def _halve(frames: Tensor) -> Tensor:
    return F.avg_pool2d(frames, 2, ceil_mode=True)
