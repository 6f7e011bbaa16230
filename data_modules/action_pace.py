"""The time from one segment of a training clip to the next, which predicting has to keep."""

from statistics import fmean
from typing import Protocol, runtime_checkable

from data_modules.action_clips import ActionVideos
from data_modules.action_sampling import positions

MEASURED = 100
"""Videos that are opened to measure it: a second, whatever the dataset's size."""


@runtime_checkable
class ConstantInterval(Protocol):
    """A sampler whose segments are equally far apart, in training as in testing."""

    def interval(self, length: int) -> int:
        """Return the distance between segments in a video of ``length`` positions, in frames."""


def mean_step(videos: ActionVideos, sampler: object) -> float | None:
    """Return the mean seconds between the segments of training clips.

    Args:
        videos: Of the training; up to ``MEASURED`` of them, evenly spread, are opened.
        sampler: Of their clips.

    Returns:
        None for a sampler without a constant interval.
    """
    if not isinstance(sampler, ConstantInterval):
        return None
    steps = []
    for video in videos.videos[:: -(-len(videos.videos) // MEASURED)]:
        source = videos.open_video(video.path)
        length = positions(len(source), videos.modality.frames_needed)
        steps.append(sampler.interval(length) / source.fps)
    return fmean(steps)
