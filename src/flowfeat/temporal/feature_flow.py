"""Deep Feature Flow: N_feat on key frames, its features carried to the others by a learned flow."""

import torch
from torch import Tensor

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
from flowfeat.ops.warp import warp_levels
from flowfeat.temporal.key_memory import (
    KeyFrames,
    ages,
    fitting,
    latest_keys,
    put_rows,
    renew,
    run_pairs,
)


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
        state = fitting(state, frames)
        age = ages(state, starts)
        flow = None
        if state is not None and self.key_frames.needs_flow:
            flow = self._flow(frames, state.frames)
        keys = None if state is None else state.frames
        is_key = (age == 0) | self.key_frames(age, frames, keys, flow)
        state = renew(state, frames, is_key, age, self._trunk)
        propagated = self._propagate_rows(state, frames, ~is_key, flow)
        return self._output(propagated, frames, is_key), state

    def _trunk(self, frames: Tensor) -> Features:
        with part("N_feat"):
            return self.features.trunk(frames)

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
        return put_rows(state.features, rows, warped)

    def _flow(self, current: Tensor, key: Tensor) -> Flow:
        with part("F"):
            return self.flow(current, key)

    def _propagate(
        self, features: Features, current: Tensor, key: Tensor, flow: Flow | None = None
    ) -> Features:
        flow = flow or self._flow(current, key)
        with part("W"):
            return warp_levels(features, flow, self.features.trunk_strides)

    def _output(self, trunk: Features, frames: Tensor, is_key: Tensor) -> Output:
        with part("tail"):
            features = self.features.tail(trunk)
        valid = torch.ones(len(frames), len(features), dtype=torch.bool, device=frames.device)
        return Output(features, frames, valid, is_key)

    def training_keys(self, indices: Tensor) -> Tensor:
        """Make the first step the key frame, and every repetition of that very picture."""
        return (indices == indices[:, :1]).cpu()

    def forward(self, clip: Tensor, is_key: Tensor, targets: Tensor) -> Output:
        return self.pairs(clip, latest_keys(is_key, targets), targets)

    def pairs(self, clip: Tensor, keys: Tensor, targets: Tensor) -> Output:
        current, is_key, state = run_pairs(clip, keys, targets, self._trunk)
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
