"""What a user would otherwise do: the whole per-frame network every l frames, results held."""

import torch
from torch import Tensor

from flowfeat.interfaces import (
    FeatureNetwork,
    Features,
    KeyFrameScheduler,
    Motion,
    Output,
    TemporalModule,
)
from flowfeat.metering import part
from flowfeat.ops.pieces import in_pieces
from flowfeat.temporal.key_memory import KeyFrames, ages, fitting, latest_keys, renew, run_pairs


class Hold(TemporalModule):
    """Keeps the boxes or labels of a key frame until the next one; nothing else runs in between.

    Trains as per_frame does, on key frames alone.

    Raises:
        ValueError: A schedule that asks for a flow.
    """

    carries = "results"
    key_frames: KeyFrameScheduler

    def __init__(self, features: FeatureNetwork, key_frames: KeyFrameScheduler) -> None:
        super().__init__()
        if key_frames.needs_flow:
            raise ValueError(
                "key_frames: results are carried without asking a flow, expected fixed"
            )
        self.features = features
        self.key_frames = key_frames
        self.channels, self.strides = features.channels, features.strides

    def step(
        self, frames: Tensor, starts: Tensor, state: KeyFrames | None
    ) -> tuple[Output, KeyFrames]:
        state = fitting(state, frames)
        age = ages(state, starts)
        keys = None if state is None else state.frames
        is_key = (age == 0) | self.key_frames(age, frames, keys, None)
        state = renew(state, frames, is_key, age, self.key_frames, self._network)
        return self._output(state, frames, is_key), state

    def _network(self, frames: Tensor) -> Features:
        with part("N_feat"):
            trunk = in_pieces(self.features.trunk, frames)
        with part("tail"):
            return self.features.tail(trunk)

    def _output(self, state: KeyFrames, frames: Tensor, is_key: Tensor) -> Output:
        shape = (len(frames), len(state.features))
        valid = torch.ones(shape, dtype=torch.bool, device=frames.device)
        motion = self._moved_by(frames, state.frames, is_key)
        return Output(state.features, state.frames, valid, is_key, motion)

    def _moved_by(self, current: Tensor, key: Tensor, is_key: Tensor) -> Motion | None:
        """Return what moves the results of the rows that are no key frames."""
        return None

    def training_keys(self, indices: Tensor) -> Tensor:
        return torch.ones(indices.shape, dtype=torch.bool)

    def forward(
        self, clip: Tensor, is_key: Tensor, targets: Tensor, indices: Tensor | None = None
    ) -> Output:
        return self.pairs(clip, latest_keys(is_key, targets), targets)

    def pairs(self, clip: Tensor, keys: Tensor, targets: Tensor) -> Output:
        current, is_key, state = run_pairs(clip, keys, targets, self._network)
        return self._output(state, current, is_key)
