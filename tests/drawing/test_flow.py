"""Flow colours: the Middlebury wheel's directions, a known scale, and nothing broken passed off."""

import colorsys

import numpy as np
import pytest
import torch
from torchvision.utils import flow_to_image

from flowfeat.drawing import flow_picture


def hue_and_saturation(dx: float, dy: float, largest: float) -> tuple[float, float]:
    flow = torch.tensor([dx, dy])[:, None, None].expand(2, 4, 5)
    red, green, blue = flow_picture(flow, largest=largest)[2, 2] / 255.0
    hue, saturation, _ = colorsys.rgb_to_hsv(red, green, blue)
    return hue * 360, saturation


@pytest.mark.parametrize(("dx", "dy", "hue"), [(1, 0, 0), (0, 1, 60), (-1, 0, 180), (0, -1, 260)])
def test_directions_have_the_wheel_s_hues(dx: float, dy: float, hue: float) -> None:
    """Right red, down yellow, left cyan, up violet."""
    found, saturation = hue_and_saturation(dx, dy, 1.0)
    assert abs((found - hue + 180) % 360 - 180) < 25
    assert saturation > 0.95


def test_saturation_is_the_length_on_the_given_scale() -> None:
    for length in (0.0, 2.0, 4.0, 6.0):
        assert hue_and_saturation(length, 0, 8.0)[1] == pytest.approx(length / 8, abs=0.02)
    beside = torch.tensor([[4.0, 8.0, 80.0], [0.0, 0.0, 0.0]])[:, None]
    drawn = flow_picture(beside, largest=8.0)
    np.testing.assert_array_equal(drawn[:, :2], flow_picture(beside[:, :, :2], largest=8.0))
    np.testing.assert_array_equal(drawn[:, 2], drawn[:, 1])


def test_default_scale_is_the_longest_vector() -> None:
    flow = 6 * torch.randn(2, 9, 11, generator=torch.Generator().manual_seed(0))
    expected = flow_to_image(flow).permute(1, 2, 0).numpy().astype(int)
    assert np.abs(flow_picture(flow).astype(int) - expected).max() <= 1


def test_noise_of_a_still_scene_stays_pale() -> None:
    flow = 0.01 * torch.randn(2, 9, 11, generator=torch.Generator().manual_seed(0))
    assert flow_picture(flow).min() > 240
    assert (flow_picture(torch.zeros(2, 3, 3)) == 255).all()


def test_cells_stay_cells_when_enlarged() -> None:
    flow = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    small = flow_picture(flow)
    large = flow_picture(flow, (12, 20))
    np.testing.assert_array_equal(large, small.repeat(4, axis=0).repeat(4, axis=1))


def test_wheel_lies_in_the_corner_and_shows_the_directions() -> None:
    plain = flow_picture(torch.zeros(2, 4, 4), (100, 100))
    drawn = flow_picture(torch.zeros(2, 4, 4), (100, 100), wheel=True)
    rows, columns = np.nonzero((plain != drawn).any(axis=2))
    assert rows.min() > 70
    disc = [(r, c) for r, c in zip(rows, columns, strict=True) if c >= 76]
    middle_row = (min(r for r, _ in disc) + max(r for r, _ in disc)) // 2
    right = drawn[middle_row, max(c for _, c in disc) - 2]
    left = drawn[middle_row, min(c for _, c in disc) + 2]
    assert right[0] > 200 > right[1]  # red
    assert left[2] > 200 > left[0]  # cyan


def test_flow_that_is_not_finite_is_black() -> None:
    flow = torch.ones(2, 3, 3)
    flow[0, 1, 1] = float("nan")
    flow[1, 2, 2] = float("inf")
    drawn = flow_picture(flow)
    black = (drawn == 0).all(axis=2)
    assert black.sum() == 2
    assert black[1, 1]
    assert black[2, 2]


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3, 4, 4\)"):
        flow_picture(torch.zeros(3, 4, 4))
    with pytest.raises(ValueError, match=r"largest .* found 0"):
        flow_picture(torch.zeros(2, 4, 4), largest=0)
