"""How many frames pass from an object's first appearance to its first correct detection.

After Mao, Yang and Dally, "A Delay Metric for Video Object Detection" (ICCV 2019), who compare
delays at equal rates of false alarms, since a detector that reports everything has no delay. They
average over several rates; here one rate is fixed and the figure stays in frames.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from flowfeat.metrics.snippet import Snippet

_BINS = 1000  # steps of the score threshold


class DetectionDelay(Metric):
    """Mean delay in frames, at the lowest score threshold with few enough false alarms.

    For an object that is labelled first in frame a, last in frame b, and first found in frame f by
    a detection of at least the threshold (matched by the rules of ImageNet VID), the delay is
    ``f - a``, and ``b - a + 1`` if it never is. The threshold is the lowest multiple of 0.001 at
    which false detections are at most ``false_alarms`` per labelled frame, over all classes.

    ``delay`` is over all tracks; ``delay_entering`` over those that appear after their video's
    first frame, which is a key frame in every method. Figures without a track are absent.

    Args:
        false_alarms: Per labelled frame.
        **kwargs: Passed to ``torchmetrics.Metric``.

    Raises:
        ValueError: A negative rate.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    names = ("delay", "delay_entering")

    alarms: Tensor
    frames: Tensor
    waited: Tensor
    tracks: Tensor

    def __init__(self, false_alarms: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if false_alarms < 0:
            raise ValueError(f"false_alarms must be at least 0, found {false_alarms}")
        self.false_alarms = false_alarms
        # Everything is kept for every threshold, b / 1000 for b = 0 .. 1001 (above all scores).
        size = _BINS + 2
        self.add_state("alarms", default=torch.zeros(size).long(), dist_reduce_fx="sum")
        self.add_state("frames", default=torch.zeros(()).long(), dist_reduce_fx="sum")
        self.add_state("waited", default=torch.zeros(2, size).long(), dist_reduce_fx="sum")
        self.add_state("tracks", default=torch.zeros(2).long(), dist_reduce_fx="sum")

    def update(self, snippet: Snippet) -> None:
        """Add one whole video."""
        labelled = [frame for frame in snippet.frames if frame is not None]
        wrong = [frame.detections.scores[frame.partner < 0] for frame in labelled]
        if wrong:
            counts = np.bincount(_bin(torch.cat(wrong).double().numpy()), minlength=_BINS + 2)
            reported = counts[::-1].cumsum()[::-1].copy()  # with a bin of at least the threshold's
            self.alarms += torch.from_numpy(reported).to(self.alarms.device)
        self.frames += len(labelled)
        visible = ~np.isnan(snippet.boxes[..., 0])
        for column in range(len(snippet.ids)):
            times = visible[:, column].nonzero()[0]
            best = np.maximum.accumulate(snippet.scores[times[0] : times[-1] + 1, column])
            # A frame is waited at every threshold above its bin; never found is in bin -1.
            bins = np.where(best > 0, _bin(best), -1)
            waits = np.bincount(bins + 1, minlength=_BINS + 2).cumsum()
            after = torch.from_numpy(waits).to(self.waited.device)
            for row in range(1 + int(times[0] > 0)):
                self.waited[row] += after
                self.tracks[row] += 1

    def compute(self) -> dict[str, Tensor]:
        """Return the mean delays in frames."""
        allowed = self.alarms <= self.false_alarms * self.frames
        threshold = int(allowed.long().argmax())  # the first; the last is always allowed
        return {
            name: (self.waited[row, threshold] / self.tracks[row]).float()
            for row, name in enumerate(self.names)
            if self.tracks[row] > 0
        }


def _bin(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the highest b with ``scores >= b / 1000``."""
    # float32 scores such as 0.7 lie just below their decimal.
    return np.floor(scores * _BINS + 1e-4).astype(np.int64).clip(0, _BINS)
