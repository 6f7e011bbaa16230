"""Deep Feature Flow: N_feat on key frames, its features carried to the others by a learned flow."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from flowfeat.flow.zero import ZeroFlow
from flowfeat.interfaces import (
    FeatureNetwork,
    Features,
    Flow,
    FlowNetwork,
    KeyFrameScheduler,
    Output,
    TemporalModule,
)
from flowfeat.metering import part
from flowfeat.ops.warp import resize_flow, warp


@dataclass(frozen=True)
class KeyFrames:
    """State of B streams: what the next frames are propagated from."""

    frames: Tensor  # (B, 3, H, W), the key frames
    features: Features  # N_feat's trunk on them
    age: Tensor  # (B,) i64 on the CPU, frames since the key frame


class FeatureFlow(TemporalModule):
    """Algorithm 1 for B independent streams, and its training on pairs (Figure 2b).

    Each frame is propagated directly from its key frame, never from the frame before; a frame that
    is its own key frame is not warped.
    """

    key_frames: KeyFrameScheduler

    def __init__(
        self, features: FeatureNetwork, flow: FlowNetwork, key_frames: KeyFrameScheduler
    ) -> None:
        super().__init__()
        self.features = features
        self.flow = flow
        self.key_frames = key_frames
        self.channels, self.strides = features.channels, features.strides

    def step(
        self, frames: Tensor, starts: Tensor, state: KeyFrames | None
    ) -> tuple[Output, KeyFrames]:
        if state is not None and state.frames.shape != frames.shape:
            state = None  # another resolution: nothing that was remembered fits
        if state is None:
            age = torch.zeros(len(frames), dtype=torch.int64)
            flow = None
        else:
            age = torch.where(starts, 0, state.age + 1)
            flow = self._flow(frames, state.frames) if self.key_frames.needs_flow else None
        keys = None if state is None else state.frames
        is_key = (age == 0) | self.key_frames(age, frames, keys, flow)
        state = self._renew(frames, is_key, age, state)
        propagated = self._propagate_rows(state, frames, ~is_key, flow)
        return self._output(propagated, frames, is_key), state

    def _renew(
        self, frames: Tensor, is_key: Tensor, age: Tensor, state: KeyFrames | None
    ) -> KeyFrames:
        """Run N_feat where a key frame falls, and remember it."""
        age = torch.where(is_key, 0, age)
        if state is not None and not is_key.any():
            return KeyFrames(state.frames, state.features, age)
        if state is None or is_key.all():
            with part("N_feat"):
                return KeyFrames(frames, self.features.trunk(frames), age)
        rows = is_key.nonzero().flatten().to(frames.device)
        with part("N_feat"):
            fresh = self.features.trunk(frames[rows])
        features = tuple(
            old.index_copy(0, rows, new) for old, new in zip(state.features, fresh, strict=True)
        )
        return KeyFrames(state.frames.index_copy(0, rows, frames[rows]), features, age)

    def _propagate_rows(
        self, state: KeyFrames, frames: Tensor, moved: Tensor, flow: Flow | None
    ) -> Features:
        """Return features of all frames; only the streams in ``moved`` (B,) are warped."""
        if not moved.any():
            return state.features
        if moved.all():
            return self._propagate(state.features, frames, state.frames, flow)
        rows = moved.nonzero().flatten().to(frames.device)
        if flow is not None:
            scale = None if flow.scale is None else flow.scale[rows]
            flow = Flow(flow.displacement[rows], scale)
        warped = self._propagate(
            tuple(level[rows] for level in state.features), frames[rows], state.frames[rows], flow
        )
        return tuple(
            old.index_copy(0, rows, new) for old, new in zip(state.features, warped, strict=True)
        )

    def _flow(self, current: Tensor, key: Tensor) -> Flow:
        with part("F"):
            return self.flow(current, key)

    def _propagate(
        self, features: Features, current: Tensor, key: Tensor, flow: Flow | None = None
    ) -> Features:
        """Apply Eq. 3 to every level, all under the one flow on the finest grid."""
        flow = flow or self._flow(current, key)
        strides = self.features.trunk_strides
        finest = min(strides)
        scales: tuple[Tensor | None, ...] = (None,) * len(features)
        if flow.scale is not None:
            scales = flow.scale.split([level.shape[1] for level in features], dim=1)
        with part("W"):
            return tuple(
                _warp_level(level, flow.displacement, scale, finest / stride)
                for level, scale, stride in zip(features, scales, strides, strict=True)
            )

    def _output(self, trunk: Features, frames: Tensor, is_key: Tensor) -> Output:
        with part("tail"):
            features = self.features.tail(trunk)
        valid = torch.ones(len(frames), len(features), dtype=torch.bool, device=frames.device)
        return Output(features, frames, valid, is_key)

    def training_keys(self, indices: Tensor) -> Tensor:
        """Make the first step the key frame, and every repetition of that very picture."""
        return (indices == indices[:, :1]).cpu()

    def forward(self, clip: Tensor, is_key: Tensor, targets: Tensor) -> Output:
        steps = torch.arange(clip.shape[1]).expand(is_key.shape)
        latest = torch.where(is_key.cpu(), steps, -1).cummax(dim=1).values  # (B, T)
        return self.pairs(clip, latest.gather(1, targets.cpu()), targets)

    def pairs(self, clip: Tensor, keys: Tensor, targets: Tensor) -> Output:
        keys, targets = keys.cpu(), targets.cpu()
        if (keys < 0).any() or (keys > targets).any():
            raise ValueError("every target needs a key frame at or before it in its clip")
        length = clip.shape[1]
        first = torch.arange(len(clip))[:, None] * length
        key_rows, current_rows = (first + keys).flatten(), (first + targets).flatten()
        # A key frame that serves several targets runs through N_feat once.
        unique, inverse = key_rows.unique(return_inverse=True)
        flat = clip.flatten(0, 1)
        with part("N_feat"):
            fresh = self.features.trunk(flat[unique.to(clip.device)])
        current, key = flat[current_rows.to(clip.device)], flat[key_rows.to(clip.device)]
        features = tuple(level[inverse.to(clip.device)] for level in fresh)
        is_key = key_rows == current_rows
        state = KeyFrames(key, features, torch.zeros_like(key_rows))
        propagated = self._propagate_rows(state, current, ~is_key, None)
        if self.training and is_key.all():
            # No pair needed the flow network; ranks that average gradients still expect its own.
            unused = sum(p.sum() for p in self.flow.parameters() if p.requires_grad)
            propagated = tuple(level + 0.0 * unused for level in propagated)
        return self._output(propagated, current, is_key)

    def motion(self, current: Tensor, key: Tensor) -> Tensor:
        return self.flow(current, key).displacement

    def copying(self) -> "FeatureFlow":
        zero = ZeroFlow(self.features.trunk_channels, self.features.trunk_strides)
        return FeatureFlow(self.features, zero, self.key_frames).train(self.training)


def _warp_level(
    features: Tensor, displacement: Tensor, scale: Tensor | None, ratio: float
) -> Tensor:
    """Warp one level; flow and scale are resized where its grid is not the finest."""
    size = (features.shape[-2], features.shape[-1])
    if ratio != 1:
        displacement = resize_flow(displacement, size, ratio)
        if scale is not None:
            scale = F.interpolate(scale, size=size, mode="bilinear", align_corners=False)
    return warp(features, displacement, scale)
