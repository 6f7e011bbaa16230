"""Which anchors and RoIs learn which object, and the seeded draw of those that count."""

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou

IGNORE = -1


class Assignment(NamedTuple):
    """What N candidate boxes of one picture learn."""

    labels: Tensor  # (N,) i64: IGNORE, 0 background, 1 .. foreground
    objects: Tensor  # (N,) i64, index of the object with the highest IoU; 0 where there are none

    def select(self, chosen: Tensor) -> "Assignment":
        """Return the entries of a mask or of indices."""
        return Assignment(self.labels[chosen], self.objects[chosen])


def match(candidates: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the IoU matrix (N, G) and, per candidate, the best IoU (N,) and its object (N,)."""
    iou = box_iou(candidates, boxes)
    if boxes.shape[0] == 0:
        nothing = torch.zeros(candidates.shape[0], device=candidates.device)
        return iou, nothing, nothing.long()
    best, objects = iou.max(1)
    return iou, best, objects


def assign_anchors(
    anchors: Tensor, usable: Tensor, boxes: Tensor, positive: float, negative: float
) -> Assignment:
    """Label anchors as object (1), background (0) or IGNORE (Faster R-CNN, 3.1.2).

    Object: IoU >= positive with some box, or the highest IoU that any usable anchor has with a box
    (all anchors that share it). Background: the best IoU is below negative. Unusable: ignored.

    Args:
        anchors: (N, 4).
        usable: (N,) bool.
        boxes: (G, 4) objects, G >= 0.
        positive: IoU from which an anchor is an object.
        negative: IoU below which it is background.
    """
    iou, best, objects = match(anchors, boxes)
    labels = torch.full_like(objects, IGNORE)
    labels[best < negative] = 0
    if boxes.shape[0]:
        reachable = torch.where(usable[:, None], iou, -1.0)
        highest = reachable.max(0).values.clamp_min(1e-6)  # a box that no anchor touches has none
        labels[(reachable >= highest).any(1)] = 1
        labels[best >= positive] = 1
    labels[~usable] = IGNORE
    return Assignment(labels, objects)


def assign_rois(rois: Tensor, boxes: Tensor, classes: Tensor, positive: float) -> Assignment:
    """Label RoIs with 1 + class from IoU >= positive on, 0 (background) below.

    Args:
        rois: (N, 4).
        boxes: (G, 4) objects, G >= 0.
        classes: (G,) i64, 0 .. num_classes - 1.
        positive: IoU from which a RoI is foreground.
    """
    _, best, objects = match(rois, boxes)
    labels = torch.zeros_like(objects)
    if boxes.shape[0]:
        labels = torch.where(best >= positive, classes[objects] + 1, 0)
    return Assignment(labels, objects)


def draw(labels: Tensor, count: int, foreground: float, generator: torch.Generator) -> Tensor:
    """Draw up to count candidates, at most the given share of them foreground.

    Args:
        labels: (N,) as in Assignment.
        count: How many to draw in all; background fills what foreground leaves.
        foreground: The largest share of foreground, 0..1.
        generator: On the CPU, so that the draw is the same on every device.

    Returns:
        (N,) bool on the labels' device.
    """
    drawn = torch.zeros_like(labels, dtype=torch.bool)
    left = int(count * foreground)
    for candidates in ((labels > 0).nonzero()[:, 0], (labels == 0).nonzero()[:, 0]):
        order = torch.randperm(candidates.shape[0], generator=generator)
        chosen = candidates[order.to(candidates.device)[:left]]
        drawn[chosen] = True
        left = count - chosen.shape[0]
    return drawn
