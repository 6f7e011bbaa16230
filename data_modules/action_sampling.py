"""What sampling whole videos adds to clip samplers: test frames, room for segments, repeats.

A segment is what the network sees of one position: one frame for RGB, the six that five differences
or five flows span. A video of L frames has L - 5 positions for the latter; clip samplers choose
among these, so that every segment lies inside the video.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from flowfeat.batches import ClipSampler


@runtime_checkable
class ActionSampler(ClipSampler, Protocol):
    """A clip sampler that also says which frames of a whole video are tested."""

    def testing(self, length: int) -> list[int]:
        """Return the frames of a video that are tested, ascending, each 0 .. length - 1."""


def action_sampler(clip: object) -> ActionSampler:
    """Take a clip sampler for one of whole videos.

    Raises:
        ValueError: It chooses frames around a labelled one.
    """
    if not isinstance(clip, ActionSampler):
        raise ValueError(
            f"clip: {type(clip).__name__} samples around a labelled frame: expected "
            "clip=consistent_interval or clip=segments, which sample whole videos"
        )
    return clip


def positions(length: int, spanned: int) -> int:
    """Return how many segments that span some frames a video has; 1 where it is too short."""
    return max(1, length - spanned + 1)


def repeats(indices: Sequence[int]) -> list[bool]:
    """Say which steps show nothing new, because the video was too short to go on."""
    return [step > 0 and indices[step] == indices[step - 1] for step in range(len(indices))]
