"""Clockwork: features are copied without motion, by a fixed clock or when shallow layers change.

Shelhamer et al.'s networks score classes on a shallow layer (pool4) and update the deep layers when
the share of pixels whose best class there has changed since the last update reaches a threshold.
Backbones have no such scores, so here the "label" of a shallow cell is its strongest channel.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from flowfeat.interfaces import FeatureNetwork, Features, KeyFrameScheduler, Output, TemporalModule
from flowfeat.metering import part
from flowfeat.ops.upload import upload
from flowfeat.temporal.key_memory import (
    KeyFrames,
    ages,
    fitting,
    latest_keys,
    put_rows,
    renew,
    run_pairs,
)


@dataclass(frozen=True)
class Clock:
    """State of B streams."""

    keys: KeyFrames
    labels: Tensor | None  # (B, h, w) i64, of the shallow maps at the last update; None when fixed


class Clockwork(TemporalModule):
    """Copies the features of the last update to the frames after it.

    Args:
        features: N_feat; nothing else is needed, and nothing is trained beyond it.
        key_frames: The fixed clock; with a threshold its interval is the longest that one update
            serves.
        threshold: Adaptive: the first stages run on every frame, the others go on from their maps
            where the share (0..1) of changed labels reaches the threshold. None: the clock decides.
        stages: How many stages are shallow.
        pipelined: An update serves from the next frame on, so that the deep layers may run while
            the next frame comes in, as in the original's pipelines. It costs a frame of delay in
            the features, and saves time only where the two really run at once (not here).

    Raises:
        ValueError: A threshold outside 0..1; a schedule that asks for a flow.
    """

    key_frames: KeyFrameScheduler

    def __init__(
        self,
        features: FeatureNetwork,
        key_frames: KeyFrameScheduler,
        threshold: float | None = None,
        stages: int = 1,
        pipelined: bool = False,
    ) -> None:
        super().__init__()
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"temporal.threshold={threshold}: expected 0..1, or null for fixed")
        if key_frames.needs_flow:
            raise ValueError("key_frames: clockwork has no flow to decide by, expected fixed")
        self.features = features
        self.key_frames = key_frames
        self.threshold, self.stages, self.pipelined = threshold, stages, pipelined
        self.channels, self.strides = features.channels, features.strides

    def step(self, frames: Tensor, starts: Tensor, state: Clock | None) -> tuple[Output, Clock]:
        old = fitting(None if state is None else state.keys, frames)
        age = ages(old, starts)
        is_key = (age == 0) | self.key_frames(
            age, frames, None if old is None else old.frames, None
        )
        labels = None
        if self.threshold is None:
            keys = renew(old, frames, is_key, age, self.key_frames, self._trunk)
        else:
            maps = self._shallow(frames)
            labels = maps.argmax(dim=1)  # (B, h, w)
            if old is not None and state is not None and state.labels is not None:
                is_key = is_key | _changed(labels, state.labels, is_key, self.threshold)
                there = upload(is_key, frames.device)[:, None, None]
                labels = torch.where(there, labels, state.labels)
            rows = upload(is_key.nonzero().flatten(), frames.device)
            keys = renew(
                old, frames, is_key, age, self.key_frames, partial(self._deepen, maps[rows])
            )
        trunk = keys.features
        if self.pipelined and old is not None:
            late = upload((is_key & (age > 0)).nonzero().flatten(), frames.device)
            trunk = put_rows(trunk, late, tuple(level[late] for level in old.features))
        return self._output(trunk, frames, is_key), Clock(keys, labels)

    def _trunk(self, frames: Tensor) -> Features:
        with part("N_feat"):
            return self.features.trunk(frames)

    def _shallow(self, frames: Tensor) -> Tensor:
        with part("shallow"):
            return self.features.shallow(frames, self.stages)

    def _deepen(self, maps: Tensor, frames: Tensor) -> Features:
        with part("N_feat"):
            return self.features.deepen(maps, frames, self.stages)

    def _output(self, trunk: Features, frames: Tensor, is_key: Tensor) -> Output:
        with part("tail"):
            features = self.features.tail(trunk)
        valid = torch.ones(len(frames), len(features), dtype=torch.bool, device=frames.device)
        return Output(features, frames, valid, is_key)

    def training_keys(self, indices: Tensor) -> Tensor:
        return torch.ones(indices.shape, dtype=torch.bool)

    def forward(
        self, clip: Tensor, is_key: Tensor, targets: Tensor, indices: Tensor | None = None
    ) -> Output:
        served = is_key.cpu()
        keys = latest_keys(served, targets)
        if self.pipelined:
            before = latest_keys(served, (targets - 1).clamp(min=0))
            keys = torch.where(keys == targets.cpu(), before, keys)
        output = self.pairs(clip, keys, targets)
        return output._replace(is_key=served.gather(1, targets.cpu()).flatten())

    def pairs(self, clip: Tensor, keys: Tensor, targets: Tensor) -> Output:
        current, is_key, state = run_pairs(clip, keys, targets, self._trunk)
        return self._output(state.features, current, is_key)


def _changed(labels: Tensor, before: Tensor, is_key: Tensor, threshold: float) -> Tensor:
    """Say (B,), on the CPU, where enough labels differ from those at the last update."""
    if is_key.all():
        return is_key  # nothing to ask, so the host need not wait for the device
    return ((labels != before).float().mean(dim=(1, 2)) >= threshold).cpu()
