"""The IoU of every class over a whole set, counted in one pass per label map."""

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassJaccardIndex


class ClassIoU(MulticlassJaccardIndex):
    """torchmetrics' index per class, with the same confusion matrix out of a single ``bincount``.

    A class that is neither in the truth nor predicted anywhere has NaN.

    Args:
        num_classes: C, at least 2.
        ignored: The label of pixels that do not count.
    """

    num_classes: int
    confmat: Tensor

    def __init__(self, num_classes: int, ignored: int) -> None:
        super().__init__(
            num_classes,
            average="none",
            ignore_index=ignored,
            zero_division=float("nan"),
            validate_args=False,  # would search every label map for its values
        )
        self.ignored = ignored

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count label maps of one shape: predictions 0 .. C - 1, truth 0 .. C - 1 or ignored."""
        pairs = self.num_classes**2
        # The smallest integers that hold them: the counting is as fast as its reading.
        dtype = torch.int16 if pairs <= torch.iinfo(torch.int16).max else torch.int64
        index = torch.add(preds.to(dtype), target.to(dtype), alpha=self.num_classes)
        index = torch.where(target == self.ignored, pairs, index)  # of a bin behind the matrix
        counts = torch.bincount(index.flatten(), minlength=pairs + 1)
        self.confmat += counts[:-1].view(self.num_classes, self.num_classes)
