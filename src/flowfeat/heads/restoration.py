"""Artifact removal: the rest of DnCNN predicts the residual, which is taken from the frame."""

from typing import Literal

import torch
from torch import Tensor, nn

from flowfeat.features.dncnn import convolution, convolutions
from flowfeat.interfaces import Features, TaskHead

Loss = Literal["mse", "l1"]


class Restoration(TaskHead):
    """Predict N of Eq. 10, what compression added: restored = frame - N, the global identity.

    Args:
        channels: Channels per level; the last level is used, and its width kept.
        strides: Network pixels per cell, per level; the last one must be 1.
        depth: Convolutions; 17 after the 3 of the feature network are DnCNN's 20.
        loss: ``mse``, as in DnCNN and as PSNR counts, or ``l1``, with which the residual stays at 0
            for as long as a short training takes. The OFF paper names none.
        residual_gain: Factor of the last convolution's initial weights. Smaller ones let a short
            training begin near the degraded frame itself; the paper's start is 1.

    Raises:
        ValueError: On a value out of range, or features that are coarser than the frame.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        strides: tuple[int, ...],
        depth: int = 17,
        loss: Loss = "mse",
        residual_gain: float = 1.0,
    ) -> None:
        super().__init__()
        if strides[-1] != 1:
            raise ValueError(
                f"features: stride {strides[-1]}, artifact removal works on every pixel: "
                "expected features=dncnn or dncnn_small, of stride 1"
            )
        if depth < 1:
            raise ValueError(f"head.depth={depth}: expected at least 1 convolution")
        if loss not in ("mse", "l1"):
            raise ValueError(f"head.loss={loss}: expected mse or l1")
        if residual_gain < 0:
            raise ValueError(f"head.residual_gain={residual_gain}: expected 0 or more")
        self.loss_name = loss
        width = channels[-1]
        self.layers = nn.Sequential(
            *convolutions(width, width, depth - 1),
            # The paper puts ReLU after every convolution; here none follows the last, because
            # compression darkens as often as it brightens: the residual has both signs.
            convolution(width, 3, after="linear", share=residual_gain),
        )

    def forward(self, features: Features, frames: Tensor) -> Tensor:
        """Return restored frames (B, 3, H, W), RGB, not clamped to [0, 1]."""
        return frames - self.layers(features[-1])

    @torch.no_grad()
    def postprocess(self, raw: Tensor, sizes: Tensor) -> list[Tensor]:
        """Return every picture as 8-bit RGB (3, H, W) u8, without its padding."""
        return [
            levels(restored[:, :height, :width])
            for restored, (height, width) in zip(raw, sizes.tolist(), strict=True)
        ]

    def loss(self, raw: Tensor, labels: list[Tensor]) -> dict[str, Tensor]:
        """Return the mean over pictures of their mean error per value, in units of [0, 1].

        Args:
            raw: What ``forward`` gave.
            labels: Clean pictures (3, H, W), RGB in [0, 1], one per row of ``raw``.

        Raises:
            ValueError: A clean picture that is larger than its frame.
        """
        errors = []
        for restored, clean in zip(raw.float(), labels, strict=True):
            height, width = clean.shape[-2:]
            if height > restored.shape[-2] or width > restored.shape[-1]:
                raise ValueError(
                    f"clean picture {height} x {width}: larger than its degraded frame, "
                    f"{restored.shape[-2]} x {restored.shape[-1]}"
                )
            error = restored[:, :height, :width] - clean
            errors.append((error.square() if self.loss_name == "mse" else error.abs()).mean())
        return {self.loss_name: torch.stack(errors).mean()}


def levels(picture: Tensor) -> Tensor:
    """Round a picture in [0, 1], clamped, to 8 bits, u8."""
    return (picture.float().clamp(0, 1) * 255).round().byte()
