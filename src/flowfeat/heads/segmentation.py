"""Semantic segmentation: one 1x1 convolution to class scores, upsampled to the frame."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowfeat.interfaces import Features, TaskHead

IGNORED = 255
"""Label of pixels that neither train nor count."""

Upsampling = Literal["bilinear", "deconvolution"]


class Segmentation(TaskHead):
    """Score every cell of the last feature level (section 4, "Semantic segmentation").

    The grid of a level of stride s is a picture of 1 / s of the size: pixel x lies at
    ``(x + 0.5) / s - 0.5`` cells, whatever the size of the frame and its padding. The right and
    bottom rest of the last cells, where the frame's size is no multiple of s, is cut off.

    Args:
        channels: Channels per level; the last level is used.
        strides: Network pixels per cell, per level.
        num_classes: C.
        upsampling: ``bilinear``, or ``deconvolution``: the fixed one of the released port (kernel
            2 s, not learned), the same in the middle, and fading to score 0 at the frame's border.
        strip: Rows that are upsampled at once when label maps are made: bounds the memory.

    Raises:
        ValueError: On a value out of range.
    """

    kernel: Tensor

    def __init__(
        self,
        channels: tuple[int, ...],
        strides: tuple[int, ...],
        num_classes: int,
        upsampling: Upsampling = "bilinear",
        strip: int = 64,
    ) -> None:
        super().__init__()
        if not 1 <= num_classes <= IGNORED:
            raise ValueError(f"num_classes={num_classes}: expected 1 .. {IGNORED}")
        if upsampling not in ("bilinear", "deconvolution"):
            raise ValueError(f"head.upsampling={upsampling}: expected bilinear or deconvolution")
        if strip < 1:
            raise ValueError(f"head.strip={strip}: expected at least 1 row")
        self.stride, self.upsampling, self.strip = strides[-1], upsampling, strip
        # The paper predicts C + 1 maps, background included; here C, because Cityscapes has no
        # background: every pixel is of a class or ignored.
        self.scores = nn.Conv2d(channels[-1], num_classes, 1)
        self.map_channels = (num_classes,)
        nn.init.normal_(self.scores.weight, std=0.01)
        nn.init.zeros_(self.scores.bias)  # type: ignore[arg-type]
        self.register_buffer("kernel", bilinear_kernel(self.stride), persistent=False)

    def forward(self, features: Features, frames: Tensor) -> Tensor:
        """Return scores (B, C, h, w) on the feature grid; the frames are not needed."""
        maps = features if self.gets_maps else self.maps(features)
        return maps[-1]

    def maps(self, features: Features) -> Features:
        """Return the scores, as the one map that there is."""
        return (self.scores(features[-1]),)

    def upsample(self, scores: Tensor, height: int, width: int) -> Tensor:
        """Return scores (B, C, height, width) of the frame's upper left part."""
        s = self.stride
        if self.upsampling == "deconvolution":
            channels = scores.shape[1]
            kernel = self.kernel.to(scores.dtype).expand(channels, 1, -1, -1)
            padding = math.ceil((s - 1) / 2)
            full = F.conv_transpose2d(scores, kernel, stride=s, padding=padding, groups=channels)
        else:
            size = (scores.shape[-2] * s, scores.shape[-1] * s)
            full = F.interpolate(scores, size=size, mode="bilinear", align_corners=False)
        return full[..., :height, :width]

    @torch.no_grad()
    def postprocess(self, raw: Tensor, sizes: Tensor) -> list[Tensor]:
        """Return the label map (H, W) u8 of every picture, without its padding.

        The scores of a whole frame never exist at once, only those of ``strip`` rows.
        """
        return [
            self._label_map(scores, int(height), int(width))
            for scores, (height, width) in zip(raw.float(), sizes.tolist(), strict=True)
        ]

    def _label_map(self, scores: Tensor, height: int, width: int) -> Tensor:
        """Take the best class of each pixel, strip by strip, from scores (C, h, w)."""
        # A strip of whole cells needs the cells on either side of it, which are cut off again.
        cells = max(1, self.strip // self.stride)
        labels = torch.empty(height, width, dtype=torch.uint8, device=scores.device)
        # Channels last: a pixel's scores lie side by side, which makes this three times faster.
        scores = scores[None].contiguous(memory_format=torch.channels_last)
        for first in range(0, math.ceil(height / self.stride), cells):
            above = min(first, 1)
            part = scores[:, :, first - above : first + cells + 1]
            top, skip = first * self.stride, above * self.stride
            rows = min(cells * self.stride, height - top)
            upsampled = self.upsample(part, skip + rows, width)[0, :, skip:]
            labels[top : top + rows] = upsampled.permute(1, 2, 0).argmax(-1)
        return labels

    def loss(self, raw: Tensor, labels: list[Tensor]) -> dict[str, Tensor]:
        """Return the cross-entropy with label maps (H, W), one per row of ``raw``.

        Each picture's sum over its labelled pixels is divided by all its pixels, labelled or not
        (the released port divides by the labelled pixels of the batch, so that a picture's weight
        would depend on its neighbours); then the mean over pictures.

        Raises:
            ValueError: A label map that is larger than the frame.
        """
        height, width = (max(label.shape[axis] for label in labels) for axis in (0, 1))
        if math.ceil(height / self.stride) > raw.shape[-2] or (
            math.ceil(width / self.stride) > raw.shape[-1]
        ):
            raise ValueError(
                f"label map {height} x {width}: larger than its frame, which has "
                f"{raw.shape[-2]} x {raw.shape[-1]} cells of {self.stride} pixels"
            )
        upsampled = self.upsample(raw.float(), height, width)
        losses = [
            F.cross_entropy(
                scores[None, :, : label.shape[0], : label.shape[1]],
                label[None].long(),
                ignore_index=IGNORED,
                reduction="sum",
            )
            / label.numel()
            for scores, label in zip(upsampled, labels, strict=True)
        ]
        return {"segmentation": torch.stack(losses).mean()}


def bilinear_kernel(stride: int) -> Tensor:
    """Return the kernel (1, 1, k, k), k = 2 s - s % 2, of bilinear upsampling by ``stride`` = s."""
    size = 2 * stride - stride % 2
    centre = (size - 1) / 2
    line = 1 - (torch.arange(size) - centre).abs() / stride
    return torch.outer(line, line)[None, None]
