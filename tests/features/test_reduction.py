"""The 3x3 reduction with holes, against scipy, and the width that it chooses."""

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate

from flowfeat.features.reduction import Reduction, automatic_width


def test_equals_a_correlation_with_holes() -> None:
    torch.manual_seed(0)
    reduction = Reduction(2, 3, dilation=6).double()
    features = torch.randn(1, 2, 15, 17, dtype=torch.float64)
    found = reduction(features)[0].detach().numpy()
    weight = reduction.conv.weight.detach().numpy()
    holes = np.zeros((3, 2, 13, 13))
    holes[:, :, ::6, ::6] = weight
    for output in range(3):
        planes = [
            correlate(features[0, i].numpy(), holes[output, i], mode="constant") for i in (0, 1)
        ]
        assert np.allclose(found[output], np.maximum(sum(planes), 0))


def test_starts_as_the_paper_says() -> None:
    torch.manual_seed(0)
    reduction = Reduction(256, 128)
    assert reduction.conv.weight.mean().item() == pytest.approx(0, abs=1e-4)
    assert reduction.conv.weight.std().item() == pytest.approx(0.01, rel=0.01)
    assert reduction.conv.bias is not None
    assert not reduction.conv.bias.any()


def test_width() -> None:
    dear = 1e9  # multiply-adds of the backbone per cell
    assert [automatic_width(c, dear) for c in (2048, 512, 4096)] == [1024, 256, 1024]
    cheap = 9 * 960 * 200 / 0.8  # affords 200 channels
    assert automatic_width(960, cheap) == 192
    assert automatic_width(960, 1) == 16
