"""From objectness and deltas to region proposals: decode, clip, suppress, keep the best."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from flowfeat.heads.box_coding import clip, decode


def suppress(boxes: Tensor, groups: Tensor, scores: Tensor, threshold: float, limit: int) -> Tensor:
    """Greedy non-maximum suppression inside each group, only as far as the result is wanted.

    Whether a box survives depends on better boxes alone. So the survivors among the best m boxes
    are the first survivors of all, and m grows only until ``limit`` of them are found: exact, and
    many times cheaper than suppressing all of 6000 boxes for the first 300.

    Args:
        boxes: (N, 4) sorted by descending score.
        groups: (N,) i64; boxes of different groups do not suppress each other.
        scores: (N,) descending.
        threshold: Boxes that overlap a better one by more than this IoU go.
        limit: How many survivors are wanted at most.

    Returns:
        Indices of the survivors, best first, at most ``limit``.
    """
    total, length = boxes.shape[0], 3 * limit
    while True:
        length = min(length, total)
        kept = batched_nms(boxes[:length], scores[:length], groups[:length], threshold)
        if kept.shape[0] >= limit or length == total:
            return kept.sort().values[:limit]  # by index, so that equal scores keep their order
        length *= 2


def inside_cells(
    height: int,
    width: int,
    anchors: int,
    picture: tuple[int, int],
    stride: int,
    device: torch.device,
) -> Tensor:
    """Say for the anchors of a map whether their cell belongs to the picture, not to its padding.

    Returns:
        (height * width * anchors,) bool, in the order of ``grid_anchors``.
    """
    y = torch.arange(height, device=device) < math.ceil(picture[0] / stride)
    x = torch.arange(width, device=device) < math.ceil(picture[1] / stride)
    return (y[:, None] & x)[:, :, None].expand(-1, -1, anchors).reshape(-1)


@torch.no_grad()
def propose(
    scores: Tensor,
    deltas: Tensor,
    anchors: Tensor,
    usable: Tensor,
    picture: tuple[int, int],
    std: Sequence[float],
    pre_nms: int,
    threshold: float,
    limit: int,
) -> Tensor:
    """Return the best proposals of one picture; they carry no gradient.

    Args:
        scores: (N,) objectness, any monotone measure.
        deltas: (N, 4) as in ``decode``.
        anchors: (N, 4).
        usable: (N,) bool; others are left out.
        picture: Height, width that proposals are clipped to.
        std: Deltas are multiplied by it.
        pre_nms: How many of the best enter the suppression.
        threshold: IoU of the suppression.
        limit: How many proposals to return at most.

    Returns:
        (R, 4) xyxy with positive sides, best first, 0 <= R <= limit.
    """
    boxes, scores, valid = best_boxes(scores, deltas, anchors, usable, picture, std, pre_nms)
    boxes, scores = boxes[valid], scores[valid]
    return boxes[suppress(boxes, torch.zeros_like(scores).long(), scores, threshold, limit)]


def best_boxes(
    scores: Tensor,
    deltas: Tensor,
    anchors: Tensor,
    usable: Tensor,
    picture: tuple[int, int],
    std: Sequence[float],
    pre_nms: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the boxes (P, 4) that enter the suppression, best first, their scores and validity.

    Arguments are those of ``propose``.
    """
    scores = scores.float().masked_fill(~usable, -torch.inf)
    scores, best = scores.topk(min(pre_nms, scores.shape[0]))
    boxes = clip(decode(deltas[best].float(), anchors[best], std), *picture)
    # Minimum size 0 as in the released code; an empty box is no region at all.
    valid = (boxes[:, 2:] > boxes[:, :2]).all(1) & scores.isfinite()
    return boxes, scores, valid
