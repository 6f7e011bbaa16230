"""Key frames at fixed intervals: on every frame, or one in every l frames."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from flowfeat.interfaces import Flow


@dataclass(frozen=True)
class Fixed:
    """One key frame in every ``interval`` frames (section 3, "Key Frame Scheduling").

    Args:
        interval: The key-frame duration length l, at least 1.
        stagger: Shorten each stream's first interval so that the key frames of the B streams of a
            batch are spread evenly over the ticks: at most ceil(B / l) at one tick, beside streams
            that just start. A single stream is not changed.

    Raises:
        ValueError: An interval below 1.
    """

    interval: int
    stagger: bool = False
    needs_flow: bool = False
    network: ClassVar[None] = None

    def __post_init__(self) -> None:
        check_count("interval", self.interval)

    def first_ages(self, tick: int, streams: int) -> Tensor:
        first = torch.zeros(streams, dtype=torch.int64)
        if self.stagger and streams > 1:
            # Stream b's own ticks are (b + 1) l / B, rounded up, and every l after it; whenever it
            # starts, its next key frame falls on one of them, at most l frames later.
            own = (torch.arange(1, streams + 1) * self.interval + streams - 1) // streams
            first = (tick - own) % self.interval
        return first

    def __call__(
        self, age: Tensor, frames: Tensor, keys: Tensor | None, flow: Flow | None
    ) -> Tensor:
        return age % self.interval == 0


@dataclass(frozen=True)
class Every(Fixed):
    """Every frame is a key frame, until ``interval`` is overridden."""

    interval: int = 1


def check_count(name: str, value: object) -> None:
    """Refuse a setting that is no whole number of frames.

    Raises:
        ValueError: It is below 1, or no integer.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"key_frames.{name}: expected an integer >= 1, found {value!r}")
