"""Dense SIFT against a histogram that is filled gradient by gradient."""

import math

import numpy as np
import pytest
import torch

from flowfeat.flow.dense_sift import dense_sift


def descriptor(frame: np.ndarray, row: int, column: int, cell: int) -> np.ndarray:
    """Let every gradient near one pixel vote for its cells and orientations."""
    grey = frame @ np.array([0.299, 0.587, 0.114])
    height, width = grey.shape
    bins = np.zeros((4, 4, 8))
    for y in range(height):
        for x in range(width):
            dx = (grey[y, min(x + 1, width - 1)] - grey[y, max(x - 1, 0)]) / 2
            dy = (grey[min(y + 1, height - 1), x] - grey[max(y - 1, 0), x]) / 2
            turn = math.atan2(dy, dx) % (2 * math.pi) / (2 * math.pi) * 8
            low = int(turn)
            # In cells, the first of which has its centre at 0.
            i, j = (x - column) / cell + 1.5, (y - row) / cell + 1.5
            for b in range(4):
                for a in range(4):
                    share = max(0, 1 - abs(i - a)) * max(0, 1 - abs(j - b)) * math.hypot(dx, dy)
                    bins[b, a, low % 8] += share * (1 - (turn - low))
                    bins[b, a, (low + 1) % 8] += share * (turn - low)
    unit = bins.ravel() / math.sqrt((bins**2).sum() + 0.01**2)
    unit = np.minimum(unit, 0.2)
    return unit / np.linalg.norm(unit) * 255


@pytest.mark.parametrize("cell", [2, 3])
def test_is_the_histogram_of_gradients(cell):
    frame = np.random.default_rng(cell).random((19, 23, 3))
    ours = dense_sift(torch.from_numpy(frame).permute(2, 0, 1)[None], cell)[0]
    assert ours.shape == (128, 19, 23)
    for row, column in ((9, 11), (0, 0), (18, 3), (5, 22)):
        expected = descriptor(frame, row, column, cell)
        np.testing.assert_allclose(ours[:, row, column], expected, atol=2e-3)


def test_a_ramp_has_one_orientation_and_nothing_has_none():
    ramp = torch.linspace(0, 1, 31).expand(1, 3, 25, 31)
    right, down = dense_sift(ramp), dense_sift(ramp.transpose(2, 3))
    middle = right[0, :, 12, 15].view(16, 8)
    torch.testing.assert_close(middle[:, 0], torch.full((16,), 255 / 4))  # 16 equal cells
    assert (middle[:, 1:] == 0).all()
    assert (down[0, :, 15, 12].view(16, 8)[:, 2] > 60).all()
    assert (dense_sift(torch.full((1, 3, 9, 9), 0.5)) == 0).all()


def test_brightness_and_contrast_do_not_matter():
    frame = torch.rand(1, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    change = dense_sift(frame * 0.5 + 0.3) - dense_sift(frame)
    assert change.abs().max() < 0.1
