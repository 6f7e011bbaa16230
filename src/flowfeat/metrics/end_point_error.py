"""The mean end-point error of a flow (EPE), over all known pixels of a whole set."""

import torch
from torch import Tensor
from torchmetrics import Metric


class EndPointError(Metric):
    """EPE in pixels: the mean length of ``predicted - truth`` over the pixels whose flow is known.

    Every pixel of the set counts alike, whatever batch, picture or process it came in.
    """

    full_state_update = False
    higher_is_better = False
    total: Tensor
    known: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Doubles: a set has more pixels than a float counts one by one.
        zero = torch.zeros((), dtype=torch.float64)
        self.add_state("total", default=zero, dist_reduce_fx="sum")
        self.add_state("known", default=zero.clone(), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, truth: Tensor, valid: Tensor) -> None:
        """Add flows (B, 2, H, W), (dx, dy) in pixels, where valid (B, H, W) is true."""
        error = (predicted.float() - truth.float()).norm(dim=1)
        self.total += error[valid].double().sum()
        self.known += valid.sum()

    def compute(self) -> Tensor:
        """Return the mean; NaN where no pixel is known."""
        return (self.total / self.known).float()
