"""Suppression in shapes that hold whatever the values, so that the host need not wait for a device.

What other suppression returns has as many entries as survive, which the host must know before it
can go on. Here all candidates stay where they are, beside a mask, and the caller asks once, at the
end: how many there are, and whether all of it is final.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou

from flowfeat.heads.box_coding import clip

ROUNDS = 24
"""Of the greedy rule: enough for chains of so many boxes, each overlapped by the one before."""

AHEAD = 8
"""Boxes that are looked at for each that is wanted."""


class Padded(NamedTuple):
    """Up to n boxes in the first rows of n, best first."""

    boxes: Tensor  # (n, 4)
    there: Tensor  # (n,) bool
    final: Tensor  # () bool: exactly what greedy suppression keeps; else, the rounds did not reach


class PaddedDetections(NamedTuple):
    """Up to n detections of one picture in the first rows of n, best first."""

    boxes: Tensor  # (n, 4)
    scores: Tensor  # (n,)
    labels: Tensor  # (n,)
    number: Tensor  # ()
    final: Tensor  # () bool, as above


def survivors(overlaps: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Find what greedy suppression keeps of N boxes, best first.

    A box stays unless a better one that stays overlaps it. That rule has one solution, and every
    round settles at least one more link of the chains of boxes that overlap each other.

    Args:
        overlaps: (..., N, N) bool: the box of the row, if it stays, suppresses that of the column.
        wanted: (..., N) bool; others neither stay nor suppress.

    Returns:
        (..., N) bool, and whether it is the solution, () bool.
    """
    better = overlaps.triu(1)
    kept = before = wanted
    for _ in range(ROUNDS):
        before = kept
        kept = wanted & ~(better & before[..., :, None]).any(-2)
    return kept, (kept == before).all()


def best_survivors(boxes: Tensor, wanted: Tensor, threshold: float, limit: int) -> Padded:
    """Return the first survivors of N boxes (N, 4), best first.

    Args:
        boxes: By descending score.
        wanted: (N,) bool.
        threshold: Boxes that overlap a better one by more than this IoU go.
        limit: How many are wanted at most.
    """
    total = len(boxes)
    boxes, wanted = boxes[: AHEAD * limit], wanted[: AHEAD * limit]
    count = len(boxes)
    kept, final = survivors(box_iou(boxes, boxes) > threshold, wanted)
    if count < total:
        final = final & (kept.sum() >= limit)
    places = torch.where(kept, torch.arange(count, device=boxes.device), count)
    places = places.topk(min(limit, count), largest=False).values
    there = places < count
    chosen = boxes[places.clamp_max(count - 1)] * there[:, None]
    return Padded(chosen, there, final)


def detect_padded(
    proposals: Padded,
    boxes: Tensor,
    shares: Tensor,
    picture: tuple[int, int],
    least: float,
    threshold: float,
    limit: int,
) -> PaddedDetections:
    """Suppress the boxes of one picture per class, all classes at once.

    Args:
        proposals: What the boxes come from.
        boxes: (n, 4), not clipped.
        shares: (n, C) of the classes.
        picture: Height, width.
        least: Detections score above it.
        threshold: IoU of the suppression.
        limit: How many detections are wanted at most.
    """
    boxes = clip(boxes, *picture)
    valid = (boxes[:, 2:] > boxes[:, :2]).all(1) & proposals.there
    shares = torch.where((shares > least) & valid[:, None], shares, -1.0)  # (n, C)
    scores, order = shares.sort(dim=0, descending=True, stable=True)
    order = order.T  # (C, n)
    near = box_iou(boxes, boxes) > threshold
    kept, final = survivors(near[order[:, :, None], order[:, None, :]], scores.T >= 0)
    stays = torch.zeros_like(shares, dtype=torch.bool).scatter(0, order.T, kept.T)
    found, places = torch.where(stays, shares, -1.0).flatten().sort(descending=True, stable=True)
    found, places = found[:limit], places[:limit]
    row = places.div(shares.shape[1], rounding_mode="floor")
    return PaddedDetections(
        boxes[row], found, places % shares.shape[1], (found >= 0).sum(), final & proposals.final
    )
