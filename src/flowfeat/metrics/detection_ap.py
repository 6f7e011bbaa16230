"""Average precision of video object detection by the ImageNet VID protocol, and with plain IoU 0.5.

All frames of a set form one ranking per class. A ground truth box counts as found at its own
threshold: small boxes are hard to place within a pixel, so the protocol loosens theirs.
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from torchvision.ops import box_iou

from flowfeat.interfaces import Detections

Threshold = Literal["vid", "plain"]


def iou_thresholds(boxes: Tensor, threshold: Threshold) -> Tensor:
    """Return the IoU that a detection needs, per ground truth box.

    ``plain`` is 0.5. ``vid`` is ``min(0.5, w h / ((w + 10) (h + 10)))``. The protocol counts the
    pixels of boxes with inclusive corners, ``w = xmax - xmin + 1``; a half-open box ends at
    ``x2 = xmax + 1``, so here ``w = x2 - x1`` is the same number.

    Args:
        boxes: (G, 4) xyxy, half-open, in pixels of the original picture.
        threshold: Which of the two rules.

    Returns:
        (G,) float64 in 0..0.5.
    """
    boxes = boxes.double()
    if threshold == "plain":
        return boxes.new_full((len(boxes),), 0.5)
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    return (width * height / ((width + 10) * (height + 10))).clamp(max=0.5)


def match_frame(
    detections: Detections, boxes: Tensor, labels: Tensor, thresholds: Tensor
) -> Tensor:
    """Match the detections of one frame to its ground truth, one to one.

    In the order of their scores (equal scores: in the order given), each detection takes the best
    still unmatched box of its class whose IoU reaches the box's threshold. IoU is computed in
    float64, so that a hand-made IoU of exactly the threshold counts.

    Args:
        detections: N detections, in any order.
        boxes: (G, 4) xyxy, half-open, in the pixels of the detections.
        labels: (G,) classes of the boxes.
        thresholds: (G,) IoU needed per box.

    Returns:
        (N,) i64 on the CPU, in the detections' own order: the matched box 0 .. G - 1, or -1.
    """
    partner = np.full(len(detections.scores), -1, dtype=np.int64)
    if len(partner) == 0 or len(boxes) == 0:
        return torch.from_numpy(partner)
    iou = box_iou(detections.boxes.double().cpu(), boxes.double().cpu())  # (N, G)
    same = detections.labels.cpu()[:, None] == labels.cpu()
    free = (iou >= thresholds.cpu()) & same
    # 0 stands for "cannot be taken": a box without area, whose threshold is 0, is never found.
    overlap: NDArray[np.float64] = torch.where(free, iou, 0.0).numpy()
    order = torch.sort(detections.scores.cpu(), descending=True, stable=True).indices.numpy()
    for row in order[overlap[order].any(axis=1)]:
        column = overlap[row].argmax()
        if overlap[row, column] > 0:
            partner[row] = column
            overlap[:, column] = 0
    return torch.from_numpy(partner)


def average_precision(scores: Tensor, matched: Tensor, positives: int) -> float:
    """Return the area under the precision envelope over all recalls (all-point interpolation).

    Detections of equal score enter together, so the result depends neither on the order of the
    frames nor on how they were shared among processes.

    Args:
        scores: (N,), in any order.
        matched: (N,) bool, whether the detection found a ground truth box.
        positives: Number of ground truth boxes.

    Returns:
        AP in 0..1; nan without ground truth.
    """
    if positives == 0:
        return float("nan")
    if len(scores) == 0:
        return 0.0
    scores, order = torch.sort(scores, descending=True)
    last = torch.ones_like(scores, dtype=torch.bool)  # of its group of equal scores
    last[:-1] = scores[1:] != scores[:-1]
    found = matched[order].long().cumsum(0)[last]
    precision = found.double() / (last.nonzero()[:, 0] + 1)
    envelope = precision.flip(0).cummax(0).values.flip(0)
    gained = torch.diff(found, prepend=found.new_zeros(1))
    return float((gained * envelope).sum() / positives)


class VIDAveragePrecision(Metric):
    """Mean AP over the classes that have ground truth, all frames of a set ranked together.

    Detections are matched when they arrive and only a score and an outcome are kept of each (8
    bytes: 0.4 GB for the 176,126 frames of ImageNet VID val with 300 detections each), plus the
    number of ground truth boxes per class. Frames may come in any order and on any process; each
    frame must come once.

    Args:
        num_classes: Number of classes, without background.
        threshold: ``vid`` for the protocol's per-object threshold, ``plain`` for IoU 0.5.
        **kwargs: Passed to ``torchmetrics.Metric``.

    Raises:
        ValueError: ``num_classes`` below 1 or an unknown ``threshold``.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    scores: list[Tensor]
    outcomes: list[Tensor]
    positives: Tensor

    def __init__(self, num_classes: int, threshold: Threshold = "vid", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, found {num_classes}")
        if threshold not in get_args(Threshold):
            raise ValueError(f"threshold must be one of {get_args(Threshold)}, found {threshold!r}")
        self.num_classes = num_classes
        self.threshold: Threshold = threshold
        # The outcome is 2 * label + matched, as float32: torchmetrics represents a process that saw
        # nothing by an empty float tensor, and all must gather one type.
        self.add_state("scores", default=[], dist_reduce_fx="cat")
        self.add_state("outcomes", default=[], dist_reduce_fx="cat")
        self.add_state("positives", default=torch.zeros(num_classes).long(), dist_reduce_fx="sum")

    def update(
        self, predictions: Sequence[Detections], boxes: Sequence[Tensor], labels: Sequence[Tensor]
    ) -> None:
        """Add F frames, all boxes in pixels of the original pictures.

        Args:
            predictions: F detections.
            boxes: F of (G, 4) ground truth boxes, xyxy, half-open.
            labels: F of (G,) i64, 0 .. num_classes - 1.

        Raises:
            ValueError: Lists of different length, wrong shapes, labels out of range or scores that
                are not finite.
        """
        if not len(predictions) == len(boxes) == len(labels):
            raise ValueError(
                "predictions, boxes and labels must have one entry per frame, found "
                f"{len(predictions)}, {len(boxes)} and {len(labels)}"
            )
        scores, outcomes = [], []
        for prediction, frame_boxes, frame_labels in zip(predictions, boxes, labels, strict=True):
            detections = Detections(*(field.detach().cpu() for field in prediction))
            truth, classes = frame_boxes.detach().cpu(), frame_labels.detach().cpu()
            self._check(detections.boxes, detections.labels, "predicted")
            self._check(truth, classes, "ground truth")
            if not bool(torch.isfinite(detections.scores).all()):
                raise ValueError("scores of detections must be finite, found nan or inf")
            needed = iou_thresholds(truth, self.threshold)
            matched = match_frame(detections, truth, classes, needed) >= 0
            scores.append(detections.scores.float())
            outcomes.append(2.0 * detections.labels.float() + matched.float())
            count = torch.bincount(classes, minlength=self.num_classes)
            self.positives += count.to(self.positives.device)
        if scores:
            self.scores.append(torch.cat(scores).to(self.device))
            self.outcomes.append(torch.cat(outcomes).to(self.device))

    def compute(self) -> Tensor:
        """Return the mean AP, a scalar in 0..1; 0 while no class has ground truth."""
        # 0 and not nan: the value drives checkpoints, and nan compares as neither better nor worse.
        values = self._per_class()
        return values[~values.isnan()].sum() / max(1, int((~values.isnan()).sum()))

    def per_class(self) -> Tensor:
        """Return the AP of each class (C,); nan for classes without ground truth.

        Gathers the state of all processes, as ``compute`` does: all of them must call it.
        """
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            return self._per_class()

    def _per_class(self) -> Tensor:
        empty = torch.zeros(0)
        scores = dim_zero_cat(self.scores).cpu() if len(self.scores) else empty
        outcomes = dim_zero_cat(self.outcomes).cpu().int() if len(self.outcomes) else empty.int()
        label, matched = outcomes // 2, outcomes % 2 == 1
        values = []
        for index, positives in enumerate(self.positives.tolist()):
            mine = label == index
            values.append(average_precision(scores[mine], matched[mine], positives))
        return torch.tensor(values, device=self.device)

    def _check(self, boxes: Tensor, labels: Tensor, whose: str) -> None:
        """Refuse boxes and labels that do not belong together or to this metric."""
        if boxes.ndim != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1]:
            raise ValueError(
                f"{whose} boxes must be (N, 4) with labels (N,), "
                f"found {tuple(boxes.shape)} and {tuple(labels.shape)}"
            )
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
            raise ValueError(
                f"{whose} labels must be in 0..{self.num_classes - 1}, "
                f"found {int(labels.min())}..{int(labels.max())}"
            )
