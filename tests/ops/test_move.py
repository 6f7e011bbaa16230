"""Moving results: boxes and labels follow known motion, and agree with hand-made truths."""

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from flowfeat.interfaces import Motion
from flowfeat.ops.move import move_boxes, move_labels


def uniform(dx: float, dy: float, stride: int, height: int = 8, width: int = 10) -> Motion:
    """Return one displacement everywhere, given in network pixels."""
    displacement = torch.zeros(1, 2, height, width)
    displacement[:, 0], displacement[:, 1] = dx / stride, dy / stride
    return Motion(displacement, stride)


def test_boxes_go_against_the_flow():
    """The flow leads from the current frame to the key frame; content goes the other way."""
    boxes = torch.tensor([[10.0, 20.0, 50.0, 44.0], [0.0, 0.0, 9.0, 9.0]])
    moved = move_boxes(boxes, uniform(-16, 4, stride=8))
    expected = boxes + torch.tensor([16.0, -4.0, 16.0, -4.0])
    torch.testing.assert_close(moved, expected)


def test_an_object_that_leaves_its_old_place_is_found():
    """A 16 x 16 object moves 40 pixels on a still ground: only its own new cells lead into it."""
    displacement = torch.zeros(1, 2, 8, 10)
    displacement[0, 0, 2:4, 6:8] = -5.0  # cells of 8 pixels: it was 40 pixels further left
    boxes = torch.tensor([[8.0, 16.0, 24.0, 32.0], [8.0, 40.0, 24.0, 56.0]])
    moved = move_boxes(boxes, Motion(displacement, 8))
    # Its old cells show the ground and lead there too, so half of the cells say 0, half -40;
    # of an even number torch takes the lower one.
    torch.testing.assert_close(moved[0], boxes[0] + torch.tensor([40.0, 0.0, 40.0, 0.0]))
    torch.testing.assert_close(moved[1], boxes[1])


def test_a_median_is_deaf_to_a_few_cells():
    displacement = torch.zeros(1, 2, 8, 10)
    displacement[0, 1] = 0.5
    displacement[0, :, 3, 3] = torch.tensor([0.2, -0.3])
    moved = move_boxes(torch.tensor([[8.0, 8.0, 48.0, 48.0]]), Motion(displacement, 8))
    torch.testing.assert_close(moved, torch.tensor([[8.0, 4.0, 48.0, 44.0]]))


def test_a_box_between_the_cells_takes_the_nearest():
    displacement = torch.zeros(1, 2, 4, 4)
    displacement[0, 0, 1, 1] = 0.25
    box = torch.tensor(
        [[15.0, 12.5, 16.0, 13.0]]
    )  # no cell of 8 leads into it; (1, 1) comes nearest
    moved = move_boxes(box, Motion(displacement, 8))
    torch.testing.assert_close(moved, box - torch.tensor([[2.0, 0.0, 2.0, 0.0]]))


def test_no_boxes_stay_none():
    assert move_boxes(torch.zeros(0, 4), uniform(8, 8, 8)).shape == (0, 4)


def picture(height: int, width: int) -> Tensor:
    return torch.randint(0, 5, (height, width), generator=torch.Generator().manual_seed(0)).byte()


def test_labels_shift_by_whole_pixels_and_end_at_the_border():
    labels = picture(30, 37)
    moved = move_labels(labels, uniform(3, -2, stride=8))
    shifted = ndimage.shift(labels.numpy(), (2, -3), order=0, mode="nearest")
    np.testing.assert_array_equal(moved.numpy(), shifted)
    assert moved.dtype == torch.uint8


def test_labels_follow_a_flow_that_varies():
    """Against scipy's nearest-neighbour sampling, with a flow given per pixel."""
    labels = picture(20, 24)
    flow = torch.randn(1, 2, 20, 24, generator=torch.Generator().manual_seed(1)) * 4
    y, x = np.mgrid[:20, :24]
    source = (y + flow[0, 1].round().numpy(), x + flow[0, 0].round().numpy())
    expected = ndimage.map_coordinates(labels.numpy(), source, order=0, mode="nearest")
    np.testing.assert_array_equal(move_labels(labels, Motion(flow, 1)).numpy(), expected)


def test_zero_flow_leaves_labels_alone():
    labels = picture(61, 45)
    assert torch.equal(move_labels(labels, uniform(0, 0, 16, 4, 3)), labels)
