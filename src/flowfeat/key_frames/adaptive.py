"""Key frames where the content has changed: by the error after warping, by the amount of motion.

Section 6 of the paper leaves such schedules as future work. All are causal: they look at the
current frame, its key frame and the flow between them, which then also propagates the features.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from flowfeat.interfaces import AgreementNetwork, Flow
from flowfeat.key_frames.schedules import check_count
from flowfeat.ops.warp import resize_flow, warp

CELL = 4  # network pixels per cell on which frames are compared
UNRELATED = 4 / 3
"""Mean difference of two unrelated values, evenly spread, over their mean absolute deviation."""

FLAT = 0.01  # mean absolute deviation below which a frame has no contrast worth dividing by


@dataclass(frozen=True, kw_only=True)
class Adaptive(ABC):
    """Asks the flow, between a floor and a ceiling on the interval.

    ``change * age / 2`` is about the sum of the changes since the key frame. Renewing where that
    sum reaches a constant, the price of a key frame, makes the least loss for the number of key
    frames where the change grows steadily: their rate goes with the square root of the speed. A
    threshold on the change alone has it go with the speed, which spends most key frames where
    each gains least.

    Args:
        interval: Ceiling: the most frames that a key frame serves, itself included.
        shortest: Floor: the fewest. The ceiling wins where it is lower.
        threshold: A key frame falls where ``change``, times the age where that counts, exceeds it.
        times_age: Count the frames since the key frame, too.

    Raises:
        ValueError: A ceiling or floor below 1; a negative threshold.
    """

    interval: int
    shortest: int = 1
    threshold: float
    times_age: bool = True

    def __post_init__(self) -> None:
        check_count("interval", self.interval)
        check_count("shortest", self.shortest)
        if not self.threshold >= 0:
            raise ValueError(f"key_frames.threshold={self.threshold}: expected at least 0")

    @property
    def needs_flow(self) -> bool:
        """Whether there is anything to decide between floor and ceiling."""
        return self.shortest < self.interval

    @property
    def network(self) -> AgreementNetwork | None:
        """Nothing is learned."""
        return None

    def first_ages(self, tick: int, streams: int) -> Tensor:
        """Start as usual: the content spreads the key frames."""
        return torch.zeros(streams, dtype=torch.int64)

    @abstractmethod
    def change(self, frames: Tensor, keys: Tensor, flow: Flow) -> Tensor:
        """Return by how much frames differ from their key frames, (B,), 0 for not at all."""

    @torch.no_grad()
    def __call__(
        self, age: Tensor, frames: Tensor, keys: Tensor | None, flow: Flow | None
    ) -> Tensor:
        due = (age == 0) | (age >= self.interval)
        free = ~due & (age >= self.shortest)
        if keys is None or flow is None or not free.any():
            return due
        change = self.change(frames, keys, flow).cpu().float()  # half precision under autocast
        if self.times_age:
            change = change * age
        return due | (free & (change > self.threshold))


@dataclass(frozen=True, kw_only=True)
class Photometric(Adaptive):
    """Compares the frame with its key frame after warping, as the features will be warped.

    The change is the mean absolute difference over cells of 4 x 4 pixels, as a share (0..1) of that
    between unrelated frames of the same contrast: a textured scene is not taken for a moving one.
    What the key frame did not show counts as unrelated, 1.

    Args:
        stride: Network pixels per pixel of the flow's grid.
    """

    stride: int

    def change(self, frames: Tensor, keys: Tensor, flow: Flow) -> Tensor:
        ours, theirs = (F.avg_pool2d(f, CELL, ceil_mode=True) for f in (frames, keys))
        size = (ours.shape[-2], ours.shape[-1])
        moved = resize_flow(flow.displacement, size, self.stride / CELL)
        shown = warp(torch.ones_like(theirs[:, :1]), moved).clamp(0, 1)
        error = (ours - warp(theirs, moved)).abs().mean(1, keepdim=True)
        deviation = (ours - ours.mean((2, 3), keepdim=True)).abs().mean((1, 2, 3), keepdim=True)
        error = error / (UNRELATED * deviation.clamp(min=FLAT))
        return torch.where(shown > 0.5, error, 1.0).mean((1, 2, 3))


@dataclass(frozen=True, kw_only=True)
class FlowMagnitude(Adaptive):
    """Measures the length of the flow, in network pixels, where things move most.

    Args:
        stride: Network pixels per pixel of the flow's grid.
        quantile: Of the lengths (0..1). Small objects move before a background that does not, which
            a mean would hide.

    Raises:
        ValueError: A quantile outside 0..1.
    """

    stride: int
    quantile: float = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.quantile <= 1:
            raise ValueError(f"key_frames.quantile={self.quantile}: expected 0..1")

    def change(self, frames: Tensor, keys: Tensor, flow: Flow) -> Tensor:
        lengths = flow.displacement.float().norm(dim=1).flatten(1)
        return lengths.quantile(self.quantile, dim=1) * self.stride
