"""Label maps under known motion: consistent where they move along with it."""

import cv2
import numpy as np
import pytest
import torch

from flowfeat.metrics.label_consistency import LabelConsistency, agreement, seen


def test_labels_that_move_with_an_integer_flow_are_the_same() -> None:
    labels = torch.randint(0, 5, (20, 30), dtype=torch.uint8)
    moved = labels.roll((2, 3), (0, 1))  # moved[y, x] = labels[y - 2, x - 3]
    flow = torch.tensor([-3.0, -2.0])[None, :, None, None].expand(1, 2, 20, 30)
    same, inside = agreement(moved, labels, flow, 1)
    assert (int(same), int(inside)) == (18 * 27, 18 * 27)
    wrong = moved.clone()
    wrong[2:, 3:][::2] += 7  # nine of the eighteen rows that come from inside
    assert int(agreement(wrong, labels, flow, 1)[0]) == 9 * 27


def test_a_coarse_flow_looks_at_every_nth_pixel() -> None:
    """Of 7 x 9 pixels (2, 2), (2, 6), (6, 2) and (6, 6); the flow is in cells of 4 pixels."""
    labels = torch.arange(63).view(7, 9)
    moved = labels.roll(3, 1)
    moved[6, 6] = 0
    flow = torch.tensor([-0.75, 0.0])[None, :, None, None].expand(1, 2, 2, 3)
    same, inside = agreement(moved, labels, flow, 4)
    assert (int(same), int(inside)) == (1, 2)  # from x = 2 it leads to -1, outside


@pytest.mark.parametrize("scale", [1, 3])
def test_motion_is_found_in_the_frames(scale: int) -> None:
    """A textured plane pans by 4 pixels; labels that stay where they were are not consistent."""
    rng = np.random.default_rng(0)
    plane = cv2.GaussianBlur(rng.random((140 * scale, 220 * scale, 3)).astype(np.float32), None, 2)
    plane = (plane - plane.min()) / (plane.max() - plane.min())
    stripes = torch.arange(220 * scale).div(8, rounding_mode="floor").byte() % 2
    frame = torch.from_numpy(plane).permute(2, 0, 1)
    height, width = 132 * scale, 200 * scale

    def view(start: int) -> torch.Tensor:
        return frame[:, :height, start : start + width]

    def labels(start: int) -> torch.Tensor:
        return stripes[start : start + width].expand(height, -1)

    moving, resting = LabelConsistency(), LabelConsistency()
    before = seen(labels(0), view(0))
    moving.update(seen(labels(4), view(4)), before, False)
    resting.update(seen(labels(0), view(4)), before, True)
    assert before.stride == scale
    assert float(moving.compute()["consistency_inside"]) > 0.95
    assert 0.4 < float(resting.compute()["consistency_across"]) < 0.6
    assert set(moving.compute()) == {"consistency_inside"}
    moving.reset()
    assert moving.compute() == {}


def test_padding_is_cut_off_and_other_sizes_are_left_out() -> None:
    metric = LabelConsistency()
    kept = seen(torch.zeros(20, 30), torch.rand(3, 32, 32))
    assert kept.small.shape == (1, 3, 20, 30)
    metric.update(seen(torch.zeros(10, 30), torch.rand(3, 32, 32)), kept, True)
    assert metric.compute() == {}
