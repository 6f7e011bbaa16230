"""Temporal shift (TSM; Lin et al., ICCV 2019) inside the residual branches of a timm ResNet.

An eighth of the channels that enter a block's first convolution comes from the previous frame (and
another from the next one, offline), so that 2D convolutions mix time; nothing to learn, no FLOPs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

from flowfeat.interfaces import FeatureNetwork, Features, Output, TemporalModule
from flowfeat.metering import part
from flowfeat.ops.upload import upload
from flowfeat.temporal.pictures import number_pictures


@dataclass(frozen=True)
class Shifted:
    """State of B streams: per block, the channels (B, c, h, w) that the next frame receives."""

    channels: tuple[Tensor, ...]
    size: tuple[int, int]  # height, width of the frames


@dataclass
class _Pass:
    """One run of the network over B streams of T frames each; lives as long as the run."""

    length: int  # T
    before: tuple[Tensor, ...]  # per block, what step 0 receives; empty: zeros
    starts: Tensor | None  # (B,) bool on the device: streams whose step 0 receives zeros
    left: list[Tensor] = field(default_factory=list)  # per block, what step T would receive
    keeps: bool = False  # whether anybody wants that
    repeats: tuple[Tensor, Tensor] | None = None  # (B, T) each: the first and the last step that
    # show the same picture as a step, where a clip repeats pictures


_running: ContextVar[_Pass | None] = ContextVar("flowfeat_shift", default=None)


class TemporalShift(TemporalModule):
    """Runs N_feat on every frame; its blocks see an eighth of the previous frame's channels.

    Args:
        features: N_feat over a timm ResNet (or ResNeXt, Wide ResNet, ...).
        share: One channel in so many is shifted, per direction.
        bidirectional: Also shift from the next frame, as the paper does offline; such a method
            works on whole clips and does not stream.

    Raises:
        ValueError: A backbone without residual blocks of timm's ResNets; a share below 2.
    """

    def __init__(
        self, features: FeatureNetwork, share: int = 8, bidirectional: bool = False
    ) -> None:
        super().__init__()
        least = 2 if bidirectional else 1
        if share < least:
            raise ValueError(f"temporal.share={share}: expected {least} or more")
        blocks = [m for m in features.modules() if isinstance(m, BasicBlock | Bottleneck)]
        if not blocks:
            raise ValueError(
                f"features: temporal shift needs the residual blocks of a timm ResNet, found none "
                f"in {type(features).__name__}"
            )
        self.features = features
        self.bidirectional = bidirectional
        self.channels, self.strides = features.channels, features.strides
        for index, block in enumerate(blocks):
            # Hooks leave the names of the weights as they are, so that those of others fit.
            hook = _Shift(index, max(1, block.conv1.in_channels // share), bidirectional)
            block.conv1.register_forward_pre_hook(hook)

    def step(self, frames: Tensor, starts: Tensor, state: Shifted | None) -> tuple[Output, Shifted]:
        if self.bidirectional:
            raise ValueError(
                "temporal.bidirectional=true: needs the next frame, so it cannot stream; expected "
                "whole clips, or temporal.bidirectional=false"
            )
        size = (frames.shape[-2], frames.shape[-1])
        fits = state is not None and state.size == size
        before = state.channels if state is not None and fits else ()
        reset = upload(starts, frames.device) if before and bool(starts.any()) else None
        with _shifting(_Pass(1, before, reset, keeps=True)) as run:
            features = self._features(frames)
        return _output(features, frames), Shifted(tuple(run.left), size)

    def training_keys(self, indices: Tensor) -> Tensor:
        return torch.ones(indices.shape, dtype=torch.bool)

    def forward(
        self, clip: Tensor, is_key: Tensor, targets: Tensor, indices: Tensor | None = None
    ) -> Output:
        batch, length = clip.shape[:2]
        if not self.bidirectional:  # what comes after the last target changes nothing
            length = int(targets.max()) + 1
        frames = clip[:, :length].flatten(0, 1)
        pictures = number_pictures(indices, clip)[:, :length]
        with _shifting(_Pass(length, (), None, repeats=_repeats(pictures, clip.device))):
            features = self._features(frames)
        rows = (torch.arange(batch)[:, None] * length + targets.cpu()).flatten()
        rows = upload(rows, clip.device)
        return _output(tuple(level[rows] for level in features), frames[rows])

    def _features(self, frames: Tensor) -> Features:
        with part("N_feat"):
            trunk = self.features.trunk(frames)
        with part("tail"):
            return self.features.tail(trunk)


class _Shift:
    """A hook before a block's first convolution."""

    def __init__(self, index: int, count: int, bidirectional: bool) -> None:
        self.index, self.count, self.bidirectional = index, count, bidirectional

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor, ...]:
        run = _running.get()
        if run is None:
            raise RuntimeError("a network with temporal shift runs inside TemporalShift alone")
        (maps,) = inputs
        steps = maps.unflatten(0, (-1, run.length))  # (B, T, C, h, w)
        past = steps[:, :, : self.count]
        first = torch.zeros_like(past[:, 0])
        if run.before:
            first = run.before[self.index]
            if run.starts is not None:
                first = first.masked_fill(run.starts[:, None, None, None], 0)
        if run.keeps:
            run.left.append(past[:, -1].clone())  # a view would keep all channels alive
        parts = [torch.cat((first[:, None], past[:, :-1]), dim=1)]
        if self.bidirectional:
            coming = steps[:, 1:, self.count : 2 * self.count]
            parts.append(torch.cat((coming, torch.zeros_like(past[:, :1])), dim=1))
        if run.repeats is not None:  # each repetition receives what the picture receives
            rows = torch.arange(len(steps), device=maps.device)[:, None]
            parts = [moved[rows, at] for moved, at in zip(parts, run.repeats, strict=False)]
        done = len(parts) * self.count
        return (torch.cat((*parts, steps[:, :, done:]), dim=2).flatten(0, 1),)


@contextmanager
def _shifting(run: _Pass) -> Iterator[_Pass]:
    """Let the hooks know what runs; nothing stays on a module."""
    token = _running.set(run)
    try:
        yield run
    finally:
        _running.reset(token)


def _repeats(pictures: Tensor, device: torch.device) -> tuple[Tensor, Tensor] | None:
    """Return the first and last steps (B, T) of every step's picture; None where none repeats."""
    if bool((torch.diff(pictures, dim=1) > 0).all()):
        return None
    first = torch.searchsorted(pictures, pictures)
    last = torch.searchsorted(pictures, pictures, right=True) - 1
    return upload(first, device), upload(last, device)


def _output(features: Features, frames: Tensor) -> Output:
    valid = torch.ones(len(frames), len(features), dtype=torch.bool, device=frames.device)
    return Output(features, frames, valid, torch.ones(len(frames), dtype=torch.bool))
