"""Deep Feature Flow with OFF, which none of the papers has: motion between propagated features."""

from dataclasses import dataclass

import torch
from torch import Tensor

from flowfeat.interfaces import (
    FeatureNetwork,
    FlowNetwork,
    KeyFrameScheduler,
    Output,
)
from flowfeat.metering import part
from flowfeat.ops.upload import upload
from flowfeat.temporal.feature_flow import FeatureFlow
from flowfeat.temporal.flow_guided import choose
from flowfeat.temporal.key_memory import KeyFrames, latest_keys
from flowfeat.temporal.off_fusion import check_split
from flowfeat.temporal.off_layer import OffLayer, Reduced
from flowfeat.temporal.off_motion import Layer, Motion, MotionMerge, Pair
from flowfeat.temporal.pictures import neighbours, number_pictures


@dataclass(frozen=True)
class PropagatedFrames(KeyFrames):
    """State of B streams: beside the key frames, the previous frames' features, reduced."""

    reduced: tuple[Reduced, ...]


class OffPropagation(FeatureFlow):
    """DFF whose last level is changed by the OFF between a frame's features and its predecessor's.

    Each frame's features are propagated from its key frame as in DFF, without OFF; what OFF adds is
    never propagated. At a key frame the pair is its fresh features and the propagated ones before
    it. A frame without a predecessor keeps its features, and a fresh module is DFF.

    Args:
        features: N_feat.
        flow: F.
        key_frames: The schedule.
        layer: Builds an OFF layer for so many channels.
        motion: Builds the sub-network for the last level's channels and stride.

    Raises:
        ValueError: A split before the head.
    """

    def __init__(
        self,
        features: FeatureNetwork,
        flow: FlowNetwork,
        key_frames: KeyFrameScheduler,
        layer: Layer = OffLayer,
        motion: Motion = MotionMerge,
    ) -> None:
        super().__init__(features, flow, key_frames)
        check_split(features)
        self.off_network = motion(features.channels[-1:], features.strides[-1:], layer)

    def step(
        self, frames: Tensor, starts: Tensor, state: KeyFrames | None
    ) -> tuple[Output, PropagatedFrames]:
        output, keys = super().step(frames, starts, state)
        with part("OFF"):
            current = self.off_network.reduce(output.features[-1:])
            previous, there = current, torch.zeros_like(starts)
            if isinstance(state, PropagatedFrames) and state.frames.shape == frames.shape:
                previous, there = state.reduced, ~starts
            merged = self.off_network(output.features[-1], [Pair(previous, current, there)])
        state = PropagatedFrames(keys.frames, keys.features, keys.age, keys.tick, current)
        return output._replace(features=(*output.features[:-1], merged)), state

    def forward(
        self, clip: Tensor, is_key: Tensor, targets: Tensor, indices: Tensor | None = None
    ) -> Output:
        before, there = neighbours(number_pictures(indices, clip), targets.cpu(), -1)
        keys, keys_before = latest_keys(is_key, targets), latest_keys(is_key, before)
        return self._run(clip, keys, targets.cpu(), keys_before, before, there)

    def pairs(self, clip: Tensor, keys: Tensor, targets: Tensor) -> Output:
        """Run explicit pairs; a target that is its own key frame has no predecessor here."""
        keys, targets = keys.cpu(), targets.cpu()
        there = targets > keys
        return self._run(clip, keys, targets, keys, torch.where(there, targets - 1, targets), there)

    def _run(
        self,
        clip: Tensor,
        keys: Tensor,
        targets: Tensor,
        keys_before: Tensor,
        before: Tensor,
        there: Tensor,
    ) -> Output:
        """Propagate to targets and to the frames before them, and merge; all (B, S) on the CPU."""
        count = targets.shape[1]
        both = super().pairs(
            clip, torch.cat((keys, keys_before), dim=1), torch.cat((targets, before), dim=1)
        )
        order = torch.arange(len(both.frames)).unflatten(0, (len(clip), 2 * count))
        rows, rows_before = order[:, :count].flatten(), order[:, count:].flatten()
        here, here_before = (upload(r, clip.device) for r in (rows, rows_before))
        with part("OFF"):
            reduced = self.off_network.reduce(both.features[-1:])
            pair = Pair(choose(reduced, here_before), choose(reduced, here), there.flatten())
            merged = self.off_network(both.features[-1][here], [pair])
        others = tuple(level[here] for level in both.features[:-1])
        return Output((*others, merged), both.frames[here], both.valid[here], both.is_key[rows])
