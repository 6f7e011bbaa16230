"""The per-frame baseline ("Frame" of Table 3): N_feat runs on every frame."""

from typing import Any

import torch
from torch import Tensor

from flowfeat.interfaces import FeatureNetwork, Output, TemporalModule
from flowfeat.metering import part
from flowfeat.ops.pieces import in_pieces


class PerFrame(TemporalModule):
    """Every frame is its own key frame, and nothing is remembered."""

    def __init__(self, features: FeatureNetwork) -> None:
        super().__init__()
        self.features = features
        self.channels, self.strides = features.channels, features.strides

    def step(self, frames: Tensor, starts: Tensor, state: Any | None) -> tuple[Output, None]:
        with part("N_feat"):
            trunk = in_pieces(self.features.trunk, frames)
        with part("tail"):
            features = self.features.tail(trunk)
        batch = frames.shape[0]
        valid = torch.ones(batch, len(features), dtype=torch.bool, device=frames.device)
        return Output(features, frames, valid, torch.ones(batch, dtype=torch.bool)), None

    def training_keys(self, indices: Tensor) -> Tensor:
        return torch.ones(indices.shape, dtype=torch.bool)

    def forward(
        self, clip: Tensor, is_key: Tensor, targets: Tensor, indices: Tensor | None = None
    ) -> Output:
        rows = torch.arange(clip.shape[0], device=clip.device)[:, None]
        frames = clip[rows, targets].flatten(0, 1)  # (B * S, 3, H, W)
        return self.step(frames, torch.ones(len(frames), dtype=torch.bool), None)[0]
