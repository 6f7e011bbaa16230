"""The confusion matrix out of one bincount is torchmetrics' own."""

import pytest
import torch
from torchmetrics import JaccardIndex

from flowfeat.metrics.class_iou import ClassIoU


@pytest.mark.parametrize("classes", [2, 19, 200])
def test_equals_torchmetrics(classes):
    generator = torch.Generator().manual_seed(classes)
    ours = ClassIoU(classes, ignored=255)
    theirs = JaccardIndex(
        task="multiclass",
        num_classes=classes,
        average="none",
        ignore_index=255,
        zero_division=float("nan"),
    )
    for _ in range(3):
        found, true = torch.randint(max(2, classes - 1), (2, 1, 33, 50), generator=generator)
        true[:, :9] = 255
        found, true = found.to(torch.uint8), true.to(torch.uint8)
        ours.update(found, true)
        theirs.update(found.long(), true.long())
    assert torch.equal(ours.confmat, theirs.confmat)
    torch.testing.assert_close(ours.compute(), theirs.compute(), equal_nan=True, rtol=0, atol=0)


def test_only_ignored_pixels_and_reset():
    metric = ClassIoU(3, ignored=255)
    zeros, ignored = torch.zeros(1, 4, 5).byte(), torch.full((1, 4, 5), 255).byte()
    metric.update(zeros, ignored)
    assert metric.confmat.sum() == 0
    assert metric.compute().isnan().all()
    metric.update(zeros, zeros)
    assert metric.confmat[0, 0] == 20
    metric.reset()
    assert metric.confmat.sum() == 0


def test_a_label_beyond_the_classes_is_no_pair():
    with pytest.raises(RuntimeError, match="invalid for input of size"):
        ClassIoU(3, ignored=255).update(
            torch.zeros(1, 2, 2).byte(), torch.full((1, 2, 2), 7).byte()
        )
