"""Deep Feature Flow: N_feat on key frames, its features carried to the others by a learned flow."""

import copy

import torch
from torch import Tensor

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
from flowfeat.ops.pieces import in_pieces
from flowfeat.ops.upload import upload
from flowfeat.ops.warp import in_rows, scale_levels, warp_levels
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
    is its own key frame is not warped. A schedule that asks for the flow is asked before, and the
    flow that it was given is the one that propagates.

    Args:
        features: N_feat.
        flow: F and S.
        key_frames: The schedule.
        scale_keys: Multiply a key frame's own features by its scale field S(k, k) as well, at the
            price of F on key frames. S sees the current frame, so it can do a part of N_feat's
            work; with this the head finds that part done on every frame. The paper: false.
    """

    key_frames: KeyFrameScheduler
    moves = True  # False: zero flow
    scales = True  # False: unit scale

    def __init__(
        self,
        features: FeatureNetwork,
        flow: FlowNetwork,
        key_frames: KeyFrameScheduler,
        scale_keys: bool = False,
    ) -> None:
        super().__init__()
        self.scale_keys = scale_keys
        self.features = features
        self.flow = flow
        self.key_frames = key_frames
        if key_frames.network is not None:
            self.schedule = key_frames.network
        self.channels, self.strides = features.channels, features.strides

    def step(
        self, frames: Tensor, starts: Tensor, state: KeyFrames | None
    ) -> tuple[Output, KeyFrames]:
        state = fitting(state, frames)
        age = ages(state, starts)
        is_key, flow = self._decide(state, frames, age)
        state = renew(state, frames, is_key, age, self.key_frames, self._trunk)
        return self._output(self._carry(state, frames, is_key, flow), frames, is_key), state

    def _decide(
        self, state: KeyFrames | None, frames: Tensor, age: Tensor
    ) -> tuple[Tensor, Flow | None]:
        """Return where key frames fall (B,), and the flow of the other streams if it was needed."""
        schedule = self.key_frames
        if state is None or not schedule.needs_flow:
            keys = None if state is None else state.frames
            return (age == 0) | schedule(age, frames, keys, None), None
        is_key = (age == 0) | (age >= schedule.interval)
        if is_key.all():
            return is_key, None
        asked = ~is_key
        rows = upload(asked.nonzero().flatten(), frames.device)
        current, key = frames[rows], state.frames[rows]
        flow = self._flow(current, key)
        chosen = schedule(age[asked], current, key, flow)
        is_key[asked] = chosen
        if chosen.any():
            flow = _some(flow, upload((~chosen).nonzero().flatten(), frames.device))
        return is_key, flow

    def _trunk(self, frames: Tensor) -> Features:
        with part("N_feat"):
            return in_rows(in_pieces(self.features.trunk, frames))

    def _carry(
        self, state: KeyFrames, frames: Tensor, is_key: Tensor, flow: Flow | None = None
    ) -> Features:
        """Return features of all frames: key frames' own ones, and for the others propagated."""
        features = self._propagate_rows(state, frames, ~is_key, flow)
        if not (self.scale_keys and self.scales and self.flow.has_scale and is_key.any()):
            return features
        if is_key.all():
            return self._scale(features, frames)
        rows = upload(is_key.nonzero().flatten(), frames.device)
        own = tuple(level[rows] for level in state.features)
        return put_rows(features, rows, self._scale(own, frames[rows]))

    def _scale(self, features: Features, frames: Tensor) -> Features:
        flow = self._flow(frames, frames)
        with part("W"):
            return scale_levels(features, flow)

    def _propagate_rows(
        self, state: KeyFrames, frames: Tensor, moved: Tensor, flow: Flow | None
    ) -> Features:
        """Return features of all frames; only the streams in ``moved`` (B,) are warped.

        A flow, if given, is that of the moved streams alone.
        """
        if not moved.any():
            return state.features
        if moved.all():
            return self._propagate(state.features, frames, state.frames, flow)
        rows = upload(moved.nonzero().flatten(), frames.device)
        warped = self._propagate(
            tuple(level[rows] for level in state.features), frames[rows], state.frames[rows], flow
        )
        return put_rows(state.features, rows, warped)

    def _flow(self, current: Tensor, key: Tensor) -> Flow:
        with part("F"):
            return in_pieces(self.flow, current, key)

    def _propagate(
        self, features: Features, current: Tensor, key: Tensor, flow: Flow | None = None
    ) -> Features:
        if not self.moves and not (self.scales and self.flow.has_scale):
            return features  # without a need for the flow
        displacement, scale, *_ = flow or self._flow(current, key)
        with part("W"):
            used = Flow(
                displacement if self.moves else torch.zeros_like(displacement),
                scale if self.scales else None,
            )
            return warp_levels(features, used, self.features.trunk_strides)

    def _output(self, trunk: Features, frames: Tensor, is_key: Tensor) -> Output:
        with part("tail"):
            features = self.features.tail(trunk)
        valid = torch.ones(len(frames), len(features), dtype=torch.bool, device=frames.device)
        return Output(features, frames, valid, is_key)

    def training_keys(self, indices: Tensor) -> Tensor:
        """Make the first step the key frame, and every repetition of that very picture."""
        return (indices == indices[:, :1]).cpu()

    def forward(
        self, clip: Tensor, is_key: Tensor, targets: Tensor, indices: Tensor | None = None
    ) -> Output:
        return self.pairs(clip, latest_keys(is_key, targets), targets)

    def pairs(self, clip: Tensor, keys: Tensor, targets: Tensor) -> Output:
        current, is_key, state = run_pairs(clip, keys, targets, self._trunk)
        propagated = self._carry(state, current, is_key)
        if self.training and is_key.all():
            # No pair needed the flow network; ranks that average gradients still expect its own.
            unused = sum(p.sum() for p in self.flow.parameters() if p.requires_grad)
            propagated = tuple(level + 0.0 * unused for level in propagated)
        return self._output(propagated, current, is_key)

    def motion(self, current: Tensor, key: Tensor) -> Tensor:
        displacement = self.flow(current, key).displacement
        return displacement if self.moves else torch.zeros_like(displacement)

    def expected_agreement(self, current: Tensor, key: Tensor) -> Tensor:
        coarse = self.flow(current, key).coarse
        network = self.key_frames.network
        if network is None or coarse is None:
            return super().expected_agreement(current, key)
        return network(coarse)

    def controls(self) -> dict[str, TemporalModule]:
        if not self.flow.has_scale:
            return {"copy": self._with(moves=False, scales=False)}
        return {
            "copy": self._with(moves=False, scales=False),
            "no_flow": self._with(moves=False, scales=True),
            "no_scale": self._with(moves=True, scales=False),
        }

    def _with(self, moves: bool, scales: bool) -> "FeatureFlow":
        """Return the same method, weights and schedule included, without a part of its work."""
        control = copy.copy(self)
        control.moves, control.scales = moves, scales
        return control


def _some(flow: Flow, rows: Tensor) -> Flow:
    """Return the flow of some streams; what the network knows beside it has served its purpose."""
    return Flow(flow.displacement[rows], None if flow.scale is None else flow.scale[rows])
