"""Move results by a flow: boxes by the median displacement inside them, labels pixel by pixel."""

import torch
from torch import Tensor

from flowfeat.interfaces import Motion
from flowfeat.ops.warp import resize_flow


def move_boxes(boxes: Tensor, motion: Motion) -> Tensor:
    """Move boxes of the key frame to where their content lies in the current frame.

    A box keeps its size. It moves by the median, per axis, of the displacements that lead into it;
    where none does (a box smaller than a cell), by the one that leads nearest to its centre.

    Args:
        boxes: (N, 4) xyxy in network pixels, on the key frame.
        motion: Of one picture: displacement (1, 2, h, w).

    Returns:
        (N, 4), not clipped.
    """
    if not len(boxes):
        return boxes
    displacement = motion.displacement[0].to(boxes) * motion.stride  # (2, h, w), network pixels
    height, width = displacement.shape[-2:]
    x = torch.arange(width, device=boxes.device) + 0.5
    y = torch.arange(height, device=boxes.device)[:, None] + 0.5
    centres = torch.stack((x.expand(height, -1), y.expand(-1, width))) * motion.stride
    moves = displacement.flatten(1)  # (2, h * w)
    origins = (centres + displacement).flatten(1)  # on the key frame
    ahead = (origins[None] >= boxes[:, :2, None]) & (origins[None] < boxes[:, 2:, None])
    inside = ahead.all(dim=1, keepdim=True)  # (N, 1, h * w)
    medians = torch.where(inside, moves, torch.nan).nanmedian(dim=2).values  # (N, 2)
    middles = (boxes[:, :2] + boxes[:, 2:])[:, :, None] / 2
    nearest = (origins - middles).square().sum(dim=1).argmin(dim=1)  # (N,)
    median = torch.where(inside.any(dim=2), medians, moves[:, nearest].T)
    return boxes - median.repeat(1, 2)


def move_labels(labels: Tensor, motion: Motion) -> Tensor:
    """Warp a label map: each pixel takes the label at the pixel nearest to where its flow points.

    Args:
        labels: (H, W) of the key frame.
        motion: Of one picture: displacement (1, 2, h, w), whose grid covers H by W.

    Returns:
        (H, W); where the flow points outside, the label at the border.
    """
    height, width = labels.shape
    rows, columns = motion.displacement.shape[-2:]
    full = (rows * motion.stride, columns * motion.stride)
    dx, dy = resize_flow(motion.displacement, full, motion.stride)[0, :, :height, :width]
    x = torch.arange(width, device=labels.device) + dx.round().long()
    y = torch.arange(height, device=labels.device)[:, None] + dy.round().long()
    return labels[y.clamp(0, height - 1), x.clamp(0, width - 1)]
