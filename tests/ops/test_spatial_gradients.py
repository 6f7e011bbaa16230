"""The fixed gradients are true derivatives, and Eq. 4 of OFF holds with them."""

import itertools

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from flowfeat.ops.spatial_gradients import SpatialGradients, temporal_difference


def plane(x_slope: float, y_slope: float, velocity: tuple[float, float], time: float) -> Tensor:
    """Return a linear pattern (1, 1, 9, 11) that has moved for ``time`` steps; y points down."""
    y, x = torch.meshgrid(torch.arange(9.0), torch.arange(11.0), indexing="ij")
    x, y = x - velocity[0] * time, y - velocity[1] * time
    return (x_slope * x + y_slope * y)[None, None]


@pytest.mark.parametrize("velocity", [(1.5, 0.0), (0.0, -2.0), (0.7, 1.3)])
def test_equation_4_holds_inside_for_a_translating_linear_pattern(
    velocity: tuple[float, float],
) -> None:
    previous, current = (plane(0.3, -0.8, velocity, time) for time in (0, 1))
    f_x, f_y = SpatialGradients()(previous)[0]
    f_t = temporal_difference(previous, current)[0, 0]
    assert torch.allclose(f_x[1:-1, 1:-1], torch.tensor(0.3), atol=1e-5)
    assert torch.allclose(f_y[1:-1, 1:-1], torch.tensor(-0.8), atol=1e-5)
    rest = f_x * velocity[0] + f_y * velocity[1] + f_t
    assert f_t.abs().min() > 0.1
    assert torch.allclose(rest[1:-1, 1:-1], torch.tensor(0.0), atol=1e-4)


def test_prewitt_is_that_of_scipy_per_channel() -> None:
    maps = torch.randn(2, 3, 6, 7, generator=torch.Generator().manual_seed(0))
    found = SpatialGradients("prewitt")(maps).unflatten(1, (2, 3)).numpy()
    for direction, axis in enumerate((1, 0)):
        for batch, channel in itertools.product(range(2), range(3)):
            one = maps[batch, channel].numpy()
            expected = ndimage.prewitt(one, axis=axis, mode="constant") / 6
            np.testing.assert_allclose(found[batch, direction, channel], expected, atol=1e-5)


def test_printed_kernels_are_six_times_larger_with_y_up() -> None:
    maps = torch.randn(1, 2, 5, 5, generator=torch.Generator().manual_seed(1))
    true, printed = SpatialGradients("prewitt")(maps), SpatialGradients("printed")(maps)
    factors = torch.tensor([6.0, 6.0, -6.0, -6.0])[:, None, None]
    assert torch.allclose(printed, factors * true, atol=1e-5)


def test_the_cross_adds_both_directions_in_one_response() -> None:
    maps = plane(0.5, 2.0, (0, 0), 0)
    found = SpatialGradients("cross")(maps)
    # I(x+1) - I(x-1) + I(y-1) - I(y+1)
    assert found.shape == (1, 1, 9, 11)
    assert torch.allclose(found[0, 0, 1:-1, 1:-1], torch.tensor(2 * 0.5 - 2 * 2.0), atol=1e-5)


def test_there_is_nothing_to_learn_and_nothing_to_store() -> None:
    gradients = SpatialGradients()
    assert not list(gradients.parameters())
    assert not gradients.state_dict()
    maps = torch.randn(1, 2, 5, 5, requires_grad=True)
    gradients(maps).square().sum().backward()
    assert maps.grad is not None
    assert maps.grad.abs().sum() > 0


def test_unknown_kernels_name_the_known_ones() -> None:
    with pytest.raises(ValueError, match="kernels='sobel': expected one of prewitt, printed"):
        SpatialGradients("sobel")  # type: ignore[arg-type]
