"""Run a method over videos frame by frame, in constant memory."""

from collections import deque
from collections.abc import Iterator
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from flowfeat.interfaces import Output, TaskHead, TemporalModule
from flowfeat.results import Held, results_of

Tag = TypeVar("Tag")


class Result(NamedTuple, Generic[Tag]):
    """Predictions for one step of B streams, with whatever was attached to that step."""

    tag: Tag
    predictions: Any  # what the head's postprocess returns
    is_key: Tensor  # (B,) bool, on the CPU
    valid: Tensor  # (B, L) bool


class Stream(Generic[Tag]):
    """One pass over B videos; owns the temporal state, so that no module has to.

    Where a method carries results, the head runs on key frames only.

    A method with a delay answers for earlier steps: the tag that was pushed with a step comes back
    with its result. Where the frames' size changes inside a video, the method begins anew, as with
    another video: what was due is answered before.
    """

    def __init__(self, temporal: TemporalModule, head: TaskHead) -> None:
        self.temporal = temporal
        self.head = head
        self._state: Any | None = None
        self._held = Held()
        self._shape: torch.Size | None = None  # of the latest frames
        self._waiting: deque[tuple[Tag, Tensor]] = deque()

    @torch.no_grad()
    def push(self, frames: Tensor, starts: Tensor, sizes: Tensor, tag: Tag) -> list[Result[Tag]]:
        """Advance by one step and return what is due, oldest first.

        Args:
            frames: (B, 3, H, W).
            starts: (B,) bool on the CPU; streams that begin a new video here.
            sizes: (B, 2), height and width inside the padding.
            tag: Comes back with this step's result.
        """
        results = []
        if self._waiting and (bool(starts.all()) or frames.shape != self._shape):
            results = self.finish()
        self._shape = frames.shape
        self._waiting.append((tag, sizes))
        output, self._state = self.temporal.step(frames, starts, self._state)
        if output is not None:
            results.append(self._answer(output))
        return results

    @torch.no_grad()
    def finish(self) -> list[Result[Tag]]:
        """Return the delayed rest at the end of the videos."""
        if self._state is None and not self._waiting:
            return []
        results = [self._answer(output) for output in self.temporal.flush(self._state)]
        self._state = None
        self._waiting.clear()
        return results

    def _answer(self, output: Output) -> Result[Tag]:
        tag, sizes = self._waiting.popleft()
        if self.temporal.carries == "results":
            predictions = self._held.answer(self.head, output, sizes)
        else:
            predictions = results_of(self.head, output, sizes)
        return Result(tag, predictions, output.is_key, output.valid)


def steps_of(frames: Tensor, starts: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Split a chunk (B, T, 3, H, W) into steps: index, frames (B, 3, H, W), starts (B,)."""
    starts = starts.cpu()
    nothing = torch.zeros_like(starts)
    for t in range(frames.shape[1]):
        yield t, frames[:, t], starts if t == 0 else nothing
