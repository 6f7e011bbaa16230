"""Average precision of slow, medium and fast objects apart, after FGFA (Zhu et al., ICCV 2017).

The motion of an object in a frame is the mean IoU of its box with the boxes of the same track in
the frames up to 10 before and after it (those that have one): above 0.9 it is slow, below 0.7
fast, else medium. FGFA reads these figures from a file for ImageNet VID; here they come from the
track ids, so they exist for every set that has those.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from torchvision.ops import box_iou

from flowfeat.metrics.detection_ap import average_precision
from flowfeat.metrics.snippet import Snippet, TrackedFrame

GROUPS = ("slow", "medium", "fast")
REACH = 10  # frames
_SLOW, _FAST = 0.9, 0.7
_NONE = len(GROUPS)  # of objects whose motion is not known
_TRUE = 8  # codes below it are sets of groups, one bit each, in which a detection is false
_CODES = 16


def motion_iou(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the motion IoU (T, K) of tracks (T, K, 4); NaN where a box has none to compare with.

    Args:
        boxes: xyxy, half-open; NaN where a track has no box.
    """
    total, count = np.zeros(boxes.shape[:2]), np.zeros(boxes.shape[:2])
    for distance in range(1, min(REACH, len(boxes) - 1) + 1):
        iou = _iou(boxes[:-distance], boxes[distance:])
        known = ~np.isnan(iou)
        for side in (slice(None, -distance), slice(distance, None)):
            total[side] += np.where(known, iou, 0)
            count[side] += known
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def _iou(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the IoU of boxes (..., 4) one by one; NaN where one of the two is missing."""
    sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    shared = sides.clip(min=0).prod(axis=-1)
    areas = sum((box[..., 2:] - box[..., :2]).prod(axis=-1) for box in (one, other))
    return np.asarray(shared / (areas - shared))


def group_of(motion: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the group of each motion IoU: 0 slow, 1 medium, 2 fast, 3 where it is NaN."""
    groups = np.where(motion > _SLOW, 0, np.where(motion < _FAST, 2, 1))
    return np.where(np.isnan(motion), _NONE, groups).astype(np.int64)


class MotionAveragePrecision(Metric):
    """``mAP_slow``, ``mAP_medium`` and ``mAP_fast`` by the matching of ImageNet VID.

    Objects of the other groups, and those without a known motion, are ignored: not to be found, and
    a detection that finds one counts for nothing. One that finds no object is false in a group
    unless it overlaps an object outside the group more than any inside it, as in FGFA's code; that
    code's fractional weights for detections that overlap nothing are left out (they are false in
    every group), so figures are not comparable with those of papers that used it.

    A group is the mean over the classes that have objects in it, and absent where none has.

    Args:
        num_classes: Number of classes, without background.
        **kwargs: Passed to ``torchmetrics.Metric``.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    names = tuple(f"mAP_{group}" for group in GROUPS)

    scores: list[Tensor]
    outcomes: list[Tensor]
    positives: Tensor

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        # An outcome is 16 * label + code, as float32; VIDAveragePrecision says why.
        self.add_state("scores", default=[], dist_reduce_fx="cat")
        self.add_state("outcomes", default=[], dist_reduce_fx="cat")
        zeros = torch.zeros(len(GROUPS), num_classes).long()
        self.add_state("positives", default=zeros, dist_reduce_fx="sum")

    def update(self, snippet: Snippet) -> None:
        """Add one whole video."""
        by_track = group_of(motion_iou(snippet.boxes))  # (T, K)
        scores, outcomes = [], []
        for t, frame in enumerate(snippet.frames):
            if frame is None:
                continue
            tracks = frame.tracks.numpy()
            groups = torch.full((len(tracks),), _NONE)
            known = tracks >= 0
            columns = np.searchsorted(snippet.ids, tracks[known])
            groups[torch.from_numpy(known)] = torch.from_numpy(by_track[t, columns])
            for group in range(len(GROUPS)):
                count = torch.bincount(frame.labels[groups == group], minlength=self.num_classes)
                self.positives[group] += count.to(self.positives.device)
            scores.append(frame.detections.scores.float())
            outcomes.append(_CODES * frame.detections.labels.float() + _codes(frame, groups))
        if scores:
            self.scores.append(torch.cat(scores).to(self.device))
            self.outcomes.append(torch.cat(outcomes).to(self.device))

    def compute(self) -> dict[str, Tensor]:
        """Return the mean AP (0..1) of every group that has objects."""
        empty = torch.zeros(0)
        scores = dim_zero_cat(self.scores).cpu() if len(self.scores) else empty
        outcomes = dim_zero_cat(self.outcomes).cpu().int() if len(self.outcomes) else empty.int()
        label, code = outcomes // _CODES, outcomes % _CODES
        figures = {}
        for group, name in enumerate(self.names):
            true = code == _TRUE + group
            counts = true | ((code < _TRUE) & (code & 1 << group > 0))
            values = []
            for index, positives in enumerate(self.positives[group].tolist()):
                if positives:
                    mine = counts & (label == index)
                    values.append(average_precision(scores[mine], true[mine], positives))
            if values:
                figures[name] = torch.tensor(values, device=self.device).mean()
        return figures


def _codes(frame: TrackedFrame, groups: Tensor) -> Tensor:
    """Return (N,): 8 + the group of the object found, or the set of groups where it is false."""
    overlap = box_iou(frame.detections.boxes.double(), frame.boxes.double())  # (N, G)
    codes = torch.zeros(len(overlap))
    for group in range(len(GROUPS)):
        inside, outside = overlap * (groups == group), overlap * (groups != group)
        if len(groups):
            codes += (1 << group) * (inside.amax(1) >= outside.amax(1))
        else:
            codes += 1 << group
    found = frame.partner >= 0
    of_partner = groups[frame.partner[found]]
    codes[found] = torch.where(of_partner == _NONE, 0, _TRUE + of_partner).float()
    return codes
