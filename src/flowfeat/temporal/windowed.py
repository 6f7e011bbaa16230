"""What methods that look at a frame's neighbours share: the latest steps, and when each is due."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from flowfeat.interfaces import Output, TemporalModule


class Slot(Protocol):
    """One time step of B streams, with whatever a method remembers of it."""

    @property
    def frames(self) -> Tensor:
        """(B, 3, H, W)."""

    @property
    def videos(self) -> Tensor:
        """(B,) i64 on the CPU, numbers of the streams' videos."""


S = TypeVar("S", bound=Slot)


@dataclass(frozen=True)
class Steps(Generic[S]):
    """State of B streams: their latest steps, oldest first."""

    slots: tuple[S, ...]


class Windowed(TemporalModule, Generic[S]):
    """A method whose output for a frame needs those around it; it knows no key frames.

    Args:
        before: Earlier frames that are remembered.
        after: Later frames that are waited for: outputs come so many frames late.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.before, self.after, self.delay = before, after, after

    @abstractmethod
    def _remember(self, frames: Tensor, videos: Tensor) -> S:
        """Compute what is remembered of frames (B, 3, H, W) of videos (B,)."""

    @abstractmethod
    def _output(self, slots: tuple[S, ...], centre: int) -> Output:
        """Return the output for the slot at ``centre``; others may belong to other videos."""

    def step(
        self, frames: Tensor, starts: Tensor, state: Steps[S] | None
    ) -> tuple[Output | None, Steps[S]]:
        slots = () if state is None else state.slots
        if slots and slots[-1].frames.shape != frames.shape:
            if self.after:
                raise ValueError(
                    f"frames {tuple(frames.shape)} after {tuple(slots[-1].frames.shape)}: results "
                    "are still due, expected a flush before frames of another size"
                )
            slots = ()  # nothing that was remembered fits
        # A stream that starts keeps its past, of another video, for the frames that are still due.
        videos = slots[-1].videos + starts if slots else torch.zeros(len(frames), dtype=torch.int64)
        slots = (*slots, self._remember(frames, videos))
        slots = slots[-(self.before + 1 + self.after) :]
        centre = len(slots) - 1 - self.after
        return self._output(slots, centre) if centre >= 0 else None, Steps(slots)

    def flush(self, state: Steps[S]) -> tuple[Output, ...]:
        count = len(state.slots)
        due = range(max(0, count - self.after), count)
        return tuple(self._output(state.slots, centre) for centre in due)

    def training_keys(self, indices: Tensor) -> Tensor:
        return torch.ones(indices.shape, dtype=torch.bool)
