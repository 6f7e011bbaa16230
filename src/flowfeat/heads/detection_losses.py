"""The losses of anchors and RoIs of one picture: sums with a constant denominator."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from flowfeat.heads.assignment import Assignment, assign_anchors, draw
from flowfeat.heads.box_coding import encode


def box_losses(
    offsets: Tensor, references: Tensor, assigned: Assignment, boxes: Tensor, std: Sequence[float]
) -> Tensor:
    """Return the smooth L1 loss (sigma 1, as for normalised targets) of N boxes; background has 0.

    Args:
        offsets: (N, 4) as ``encode`` gives them.
        references: (N, 4) anchors or RoIs.
        assigned: What they learn.
        boxes: (G, 4) objects.
        std: As in ``encode``.
    """
    targets = torch.zeros_like(offsets)
    foreground = assigned.labels > 0
    matched = boxes.to(offsets)[assigned.objects[foreground]]
    targets[foreground] = encode(matched, references[foreground], std)
    losses = F.smooth_l1_loss(offsets, targets, reduction="none").sum(1)
    # Multiplied, not selected: without objects the box maps still get a gradient (of zero).
    return losses * foreground


def anchor_losses(
    scores: Tensor,
    deltas: Tensor,
    anchors: Tensor,
    usable: Tensor,
    boxes: Tensor,
    std: Sequence[float],
    batch: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Return the objectness and box loss of a seeded draw of anchors, at most half of them objects.

    Args:
        scores: (N, 2) background, object.
        deltas: (N, 4).
        anchors: (N, 4).
        usable: (N,) bool; others are ignored.
        boxes: (G, 4) objects.
        std: As in ``encode``.
        batch: How many anchors learn, and the denominator however few there are.
        generator: For the draw.
    """
    assigned = assign_anchors(anchors, usable, boxes, positive=0.7, negative=0.3)
    drawn = draw(assigned.labels, batch, 0.5, generator)
    chosen = assigned.select(drawn)
    of_scores = F.cross_entropy(scores[drawn], chosen.labels, reduction="sum")
    of_boxes = box_losses(deltas[drawn], anchors[drawn], chosen, boxes, std).sum()
    return of_scores / batch, of_boxes / batch


def roi_losses(
    scores: Tensor,
    offsets: Tensor,
    rois: Tensor,
    assigned: Assignment,
    boxes: Tensor,
    std: Sequence[float],
    batch: int,
) -> tuple[Tensor, Tensor]:
    """Return the class and box loss of the RoIs; of the ``batch`` hardest ones if there are more.

    That choice is online hard example mining without suppression among the RoIs, by the sum of both
    losses, as in the released code.

    Args:
        scores: (R, C + 1).
        offsets: (R, 4).
        rois: (R, 4).
        assigned: What they learn.
        boxes: (G, 4) objects.
        std: As in ``encode``.
        batch: How many RoIs learn, and the denominator however few there are.
    """
    of_classes = F.cross_entropy(scores, assigned.labels, reduction="none")
    of_boxes = box_losses(offsets, rois, assigned, boxes, std)
    if rois.shape[0] > batch:
        hardest = (of_classes + of_boxes).detach().topk(batch).indices
        of_classes, of_boxes = of_classes[hardest], of_boxes[hardest]
    return of_classes.sum() / batch, of_boxes.sum() / batch
