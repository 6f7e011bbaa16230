"""How unsteady boxes are beside the true ones, inside key-frame intervals and across key frames.

After Zhang and Wang, "On the Stability of Video Detection and Tracking" (2017), who take the
standard deviation of a track's errors in centre, scale and aspect ratio. That of a whole track
cannot be told apart by key frames, so here it comes from steps between neighbouring frames.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from flowfeat.metrics.snippet import Snippet


class BoxJitter(Metric):
    """Deviation of errors from frame to frame, as a part of the object's size.

    The error of a detection (x, y, w, h, with x, y its centre) of an object (X, Y, W, H) is
    ``((x - X) / W, (y - Y) / H, sqrt(w h / (W H)), (w / h) / (W / H))``. A step goes from one
    frame to the next of a track whose object was found in both; with d the change of one error, its
    deviation is ``sqrt(mean(d^2) / 2)``, which for errors that are independent from frame to frame
    is their standard deviation. The figure is the sum of the four; 0 is steady.

    ``jitter_across`` is over the steps that lead to a key frame, ``jitter_inside`` over all others.
    Figures without a step are absent.

    Args:
        **kwargs: Passed to ``torchmetrics.Metric``.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    names = ("jitter_inside", "jitter_across")

    squares: Tensor
    steps: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        squares = torch.zeros(2, 4, dtype=torch.float64)
        self.add_state("squares", default=squares, dist_reduce_fx="sum")
        self.add_state("steps", default=torch.zeros(2).long(), dist_reduce_fx="sum")

    def update(self, snippet: Snippet) -> None:
        """Add one whole video."""
        change = np.diff(errors(snippet.found, snippet.boxes), axis=0)  # (T - 1, K, 4)
        both = ~np.isnan(change).any(axis=-1)
        for row, chosen in enumerate((~snippet.is_key[1:], snippet.is_key[1:])):
            some = change[both & chosen[:, None]]
            self.squares[row] += torch.from_numpy((some**2).sum(axis=0)).to(self.squares)
            self.steps[row] += len(some)

    def compute(self) -> dict[str, Tensor]:
        """Return the deviations, 0 or more."""
        return {
            name: (self.squares[row] / self.steps[row] / 2).sqrt().sum().float()
            for row, name in enumerate(self.names)
            if self.steps[row] > 0
        }


def errors(found: NDArray[np.float64], boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the errors (..., 4) of boxes found (..., 4); NaN where one of the two is missing."""
    (centre, size), (true_centre, true_size) = (
        ((box[..., :2] + box[..., 2:]) / 2, box[..., 2:] - box[..., :2]) for box in (found, boxes)
    )
    ratio = size / true_size  # (..., 2)
    scale = np.sqrt(ratio.prod(axis=-1, keepdims=True))
    aspect = ratio[..., :1] / ratio[..., 1:]
    return np.concatenate(((centre - true_centre) / true_size, scale, aspect), axis=-1)
