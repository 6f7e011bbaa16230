"""BN-Inception (Ioffe & Szegedy, 2015) as OFF taps it: registered with timm, and as N_feat.

Weights have the names and shapes of the public PyTorch weights (converted from Caffe), pools round
up as Caffe's do, and averages count the padding: at 224 the grids measure 28, 14 and 7.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn import functional as F

from flowfeat.features.first_layer import average_first_layer, input_statistics
from flowfeat.features.timm_features import TimmFeatures

OFF_TAPS = (0, 1, 2, 3, 4, 5, 6, 8, 9)
"""Levels that feed OFF units: 3a 3b | 3c 4a 4b 4c 4d | 5a 5b, all but 4e."""


class Block(NamedTuple):
    """One Inception block: channels of its branches."""

    name: str
    single: int  # 1x1; 0 where the block halves the grid, and the pooled maps stay as they are
    triple: tuple[int, int]  # 1x1, 3x3
    double: tuple[int, int]  # 1x1, and two 3x3
    pool: str  # "avg" or "max"
    project: int  # 1x1 behind the pool


BLOCKS = (
    Block("3a", 64, (64, 64), (64, 96), "avg", 32),
    Block("3b", 64, (64, 96), (64, 96), "avg", 64),
    Block("3c", 0, (128, 160), (64, 96), "max", 0),
    Block("4a", 224, (64, 96), (96, 128), "avg", 128),
    Block("4b", 192, (96, 128), (96, 128), "avg", 128),
    Block("4c", 160, (128, 160), (128, 160), "avg", 128),
    Block("4d", 96, (128, 192), (160, 192), "avg", 128),
    Block("4e", 0, (128, 192), (192, 256), "max", 0),
    Block("5a", 352, (192, 320), (160, 224), "avg", 128),
    Block("5b", 352, (192, 320), (192, 224), "max", 128),
)


class BnInceptionNetwork(nn.Module):
    """The whole network, as timm's models are: images (B, in_chans, H, W) -> scores.

    Each of the ten blocks is a feature of ``features_only=True``. H and W whose halves are odd
    somewhere on the way down do not fit: use multiples of 32.

    Args:
        num_classes: 0 leaves out the classifier.
        in_chans: Channels of the images.
    """

    def __init__(self, num_classes: int = 1000, in_chans: int = 3) -> None:
        super().__init__()
        self.num_classes = num_classes
        self._add("conv1_7x7_s2", in_chans, 64, 7, 2)
        self._add("conv2_3x3_reduce", 64, 64, 1)
        self._add("conv2_3x3", 64, 192, 3)
        self.feature_info: list[dict[str, Any]] = []
        channels, reduction = 192, 8
        for block in BLOCKS:
            channels = self._add_block(block, channels)
            reduction *= 1 if block.single else 2
            module = f"inception_{block.name}"
            info = {"num_chs": channels, "reduction": reduction, "module": module}
            self.feature_info.append(info)
        self.num_features = channels
        self.last_linear: nn.Module = nn.Identity()
        if num_classes:
            self.last_linear = nn.Linear(channels, num_classes)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Return the results of the wanted blocks, under timm's contract."""
        wanted = _places(indices)
        early = stop_early or intermediates_only
        x = F.max_pool2d(self._conv("conv1_7x7_s2", x), 3, 2, ceil_mode=True)
        x = self._conv("conv2_3x3", self._conv("conv2_3x3_reduce", x))
        x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        found = []
        for index, block in enumerate(BLOCKS[: max(wanted) + 1] if early else BLOCKS):
            x = self._block(block, x)
            if index in wanted:
                found.append(x)
        return found if intermediates_only else (x, found)

    def prune_intermediate_layers(
        self,
        indices: int | Sequence[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Drop the blocks behind the wanted ones, and the classifier, under timm's contract."""
        wanted = _places(indices)
        for block in BLOCKS[max(wanted) + 1 :]:
            for name in [n for n, _ in self.named_children() if f"_{block.name}_" in n]:
                delattr(self, name)
        if prune_head:
            self.last_linear = nn.Identity()
        return wanted

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last block's maps (B, 1024, H / 32, W / 32)."""
        maps: Tensor
        maps, _ = self.forward_intermediates(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """Return scores (B, num_classes) before the softmax."""
        pooled = self.forward_features(x).mean(dim=(2, 3))
        scores: Tensor = self.last_linear(pooled)
        return scores

    def _add(self, name: str, channels: int, out: int, size: int, stride: int = 1) -> int:
        # A bias before BatchNorm does nothing, but the public weights have it.
        self.add_module(name, nn.Conv2d(channels, out, size, stride, padding=size // 2))
        self.add_module(f"{name}_bn", nn.BatchNorm2d(out))
        return out

    def _add_block(self, block: Block, channels: int) -> int:
        start, stride = f"inception_{block.name}_", 1 if block.single else 2
        total = channels if block.project == 0 else block.project
        if block.single:
            total += self._add(f"{start}1x1", channels, block.single, 1)
        self._add(f"{start}3x3_reduce", channels, block.triple[0], 1)
        total += self._add(f"{start}3x3", *block.triple, 3, stride)
        self._add(f"{start}double_3x3_reduce", channels, block.double[0], 1)
        self._add(f"{start}double_3x3_1", *block.double, 3)
        total += self._add(f"{start}double_3x3_2", block.double[1], block.double[1], 3, stride)
        if block.project:
            self._add(f"{start}pool_proj", channels, block.project, 1)
        return total

    def _conv(self, name: str, x: Tensor) -> Tensor:
        return F.relu(self.get_submodule(f"{name}_bn")(self.get_submodule(name)(x)))

    def _block(self, block: Block, x: Tensor) -> Tensor:
        start = f"inception_{block.name}_"
        parts = [self._conv(f"{start}1x1", x)] if block.single else []
        parts.append(self._conv(f"{start}3x3", self._conv(f"{start}3x3_reduce", x)))
        inner = self._conv(f"{start}double_3x3_1", self._conv(f"{start}double_3x3_reduce", x))
        parts.append(self._conv(f"{start}double_3x3_2", inner))
        if not block.project:
            parts.append(F.max_pool2d(x, 3, 2, ceil_mode=True))
        else:
            pooled = (
                F.avg_pool2d(x, 3, 1, padding=1, count_include_pad=True)
                if block.pool == "avg"
                else F.max_pool2d(x, 3, 1, padding=1)
            )
            parts.append(self._conv(f"{start}pool_proj", pooled))
        return torch.cat(parts, dim=1)


def _places(indices: int | Sequence[int] | None) -> list[int]:
    """Settle timm's ways to say which blocks: all (None), the last n, or a list."""
    every = list(range(len(BLOCKS)))
    if indices is None:
        return every
    return every[-indices:] if isinstance(indices, int) else [every[i] for i in indices]


default_cfgs = generate_default_cfgs(
    {
        "bn_inception.untrained": {
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "mean": IMAGENET_DEFAULT_MEAN,
            "std": IMAGENET_DEFAULT_STD,
            "first_conv": "conv1_7x7_s2",
            "classifier": "last_linear",
        }
    }
)


@register_model
def bn_inception(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Build BN-Inception; with weights only where an overlay of the config brings them."""
    if pretrained and not kwargs.get("pretrained_cfg_overlay"):
        raise RuntimeError("there is no address of bn_inception's weights")
    return build_model_with_cfg(
        BnInceptionNetwork,
        "bn_inception",
        pretrained,
        feature_cfg={"feature_cls": "getter"},
        **kwargs,
    )


class BnInception(TimmFeatures):
    """N_feat of TSN and of OFF; the levels are Inception blocks, 3a 3b 3c 4a 4b 4c 4d 4e 5a 5b.

    Args:
        levels: Blocks to publish, 0 .. 9 for 3a .. 5b.
        stride: The coarsest stride allowed; blocks have 8, 8, 16 (3c .. 4d) and 32.
        reduce_to: None for the raw blocks, as recognition wants them.
        bgr_255: Feed BGR in 0 .. 255 minus (104, 117, 128), as the public PyTorch weights and the
            released code want it; else RGB as timm normalises ImageNet.
        in_channels: Of the frames. With other than 3 (flow, differences) the first layer's weights
            are their average over RGB; ``bgr_255`` then gives the range of 255 alone.
        mean: What is taken from the frames as they come (differences 0, flow 0.5), one number or
            one per channel; null for RGB's own.
        std: By what the rest is divided; null: as for RGB, the mean of its three.
        **arguments: Of :class:`TimmFeatures`; ``checkpoint_path`` reads the public weights.

    Raises:
        ValueError: No channels, or no mean for others than RGB; see also :class:`TimmFeatures`.
    """

    def __init__(
        self,
        levels: Sequence[int] = OFF_TAPS,
        stride: int = 32,
        reduce_to: int | None = None,
        bgr_255: bool = True,
        in_channels: int = 3,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        **arguments: Any,
    ) -> None:
        if in_channels < 1:
            raise ValueError(f"features.in_channels={in_channels}: expected 1 or more")
        arguments = {"model": "bn_inception"} | arguments
        super().__init__(levels=levels, stride=stride, reduce_to=reduce_to, **arguments)
        self.bgr = bgr_255 and in_channels == 3
        usual = (self.mean.flatten().tolist(), self.std.flatten().tolist())
        if bgr_255:
            usual = ([value / 255 for value in (128, 117, 104)], [1 / 255] * 3)  # RGB, as frames
        self.mean, self.std = input_statistics(in_channels, (mean, std), usual)
        if in_channels != 3:
            average_first_layer(self.backbone, in_channels)

    def _normal(self, frames: Tensor) -> Tensor:
        normal = super()._normal(frames)
        return normal.flip(1) if self.bgr else normal
