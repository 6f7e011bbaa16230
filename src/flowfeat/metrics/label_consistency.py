"""How far label maps stay the same along the flow, inside key-frame intervals and across them."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

from flowfeat.flow.opencv_flow import DIS

_SHORT = 128  # pixels of the shorter side from which frames are shrunk for the flow
_LEAST = 8  # pixels that DIS wants


class Seen(NamedTuple):
    """A frame as the next one needs it."""

    labels: Tensor  # (H, W), predicted
    small: Tensor  # (1, 3, h, w) on the CPU, RGB in [0, 1]
    stride: int  # pixels per pixel of the small frame


class LabelConsistency(Metric):
    """Share of the pixels (0..1) whose label is that of the previous frame where the flow points.

    The flow leads from each frame to the previous one; since no set gives a true one, it is DIS
    (preset ultrafast) on frames shrunk by a whole factor n to a shorter side of 128 to 255 pixels.
    Every n-th pixel of the label maps is looked at, and takes the label nearest to its flow's end;
    those whose flow ends outside the picture do not count. Pixels that were hidden before count as
    inconsistent wherever their label is new, for all methods alike.

    ``consistency_across`` is over the steps that lead to a key frame, ``consistency_inside`` over
    all others. Figures without a step are absent.

    Args:
        **kwargs: Passed to ``torchmetrics.Metric``.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    names = ("consistency_inside", "consistency_across")

    same: Tensor
    pixels: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("same", default=torch.zeros(2).long(), dist_reduce_fx="sum")
        self.add_state("pixels", default=torch.zeros(2).long(), dist_reduce_fx="sum")
        self._dis = DIS((1,), (1,), preset="ultrafast")

    def update(self, current: Seen, previous: Seen, is_key: bool) -> None:
        """Add the step between two frames; frames of two sizes, or below 8 pixels, have no flow.

        Args:
            current: A frame of a video.
            previous: The one before it.
            is_key: Whether N_feat ran on the current frame.
        """
        if min(current.small.shape[-2:]) < _LEAST or current.labels.shape != previous.labels.shape:
            return
        flow = self._dis.displacement(current.small, previous.small)
        same, inside = agreement(current.labels, previous.labels, flow, current.stride)
        self.same[int(is_key)] += same
        self.pixels[int(is_key)] += inside

    def compute(self) -> dict[str, Tensor]:
        """Return the shares, 0..1."""
        return {
            name: (self.same[row].double() / self.pixels[row]).float()
            for row, name in enumerate(self.names)
            if self.pixels[row] > 0
        }


def seen(labels: Tensor, frame: Tensor) -> Seen:
    """Keep a label map (H, W) and its frame (3, H', W'), RGB in [0, 1], maybe padded."""
    height, width = labels.shape
    stride = max(1, min(height, width) // _SHORT)
    picture = frame[None, :, :height, :width].float()
    small = F.avg_pool2d(picture, stride, ceil_mode=True) if stride > 1 else picture
    return Seen(labels, small.cpu(), stride)


def agreement(
    current: Tensor, previous: Tensor, flow: Tensor, stride: int
) -> tuple[Tensor, Tensor]:
    """Count the pixels that keep their label along the flow, and those whose flow ends inside.

    Args:
        current: Labels (H, W), of which every ``stride``-th is looked at in both directions.
        previous: Labels (H, W).
        flow: (1, 2, h, w), current -> previous in pixels of a grid of that stride over H by W.
        stride: Pixels per pixel of the flow's grid.
    """
    height, width = current.shape
    device = current.device
    y = torch.arange(stride // 2, height, stride, device=device)[:, None]
    x = torch.arange(stride // 2, width, stride, device=device)
    dx, dy = (stride * flow[0, :, : len(y), : len(x)].to(device)).round().long()
    from_y, from_x = y + dy, x + dx
    inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
    origin = previous[from_y.clamp(0, height - 1), from_x.clamp(0, width - 1)]
    return ((current[y, x] == origin) & inside).sum(), inside.sum()
