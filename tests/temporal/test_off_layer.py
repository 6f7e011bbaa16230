"""The OFF layer: which gradients of which map stand where."""

import pytest
import torch
from torch import Tensor

from flowfeat.ops.spatial_gradients import SpatialGradients
from flowfeat.temporal.off_layer import OffLayer


def pair(channels: int = 5) -> tuple[Tensor, Tensor]:
    both = torch.randn(2, 2, channels, 6, 7, generator=torch.Generator().manual_seed(0))
    return both[0], both[1]


def test_the_papers_layer_is_x_y_of_the_previous_and_the_difference_of_one_reduction() -> None:
    layer = OffLayer(5, reduce_to=4)
    previous, current = pair()
    f_x, f_y, f_t = torch.split(layer(previous, current), 4, dim=1)
    assert layer.reduction is not None
    before, now = layer.reduction(previous), layer.reduction(current)
    assert torch.allclose(torch.cat((f_x, f_y), 1), SpatialGradients()(before))
    assert torch.allclose(f_t, now - before)
    assert layer.out_channels == 12
    assert sum(p.numel() for p in layer.parameters()) == 5 * 4 + 4  # one reduction is all


@pytest.mark.parametrize(
    ("spatial", "temporal", "first"), [(True, False, 0), (False, True, 8), (True, True, 0)]
)
def test_each_branch_alone_is_its_part_of_both(spatial: bool, temporal: bool, first: int) -> None:
    both = OffLayer(5, reduce_to=4)
    layer = OffLayer(5, reduce_to=4, spatial=spatial, temporal=temporal)
    layer.load_state_dict(both.state_dict())
    found = layer(*pair())
    assert found.shape[1] == layer.out_channels
    expected = both(*pair())[:, first : first + layer.out_channels]
    assert torch.allclose(found, expected)


def test_the_released_layer_has_a_spatial_reduction_of_its_own_without_relu() -> None:
    layer = OffLayer(5, reduce_to=4, kernels="cross", relu=True, own_spatial=3, bias=0.2)
    previous, current = pair()
    spatial, temporal = torch.split(layer(previous, current), [3, 4], dim=1)
    assert layer.own is not None
    assert torch.allclose(spatial, SpatialGradients("cross")(layer.own(previous)))
    assert layer.own(previous).min() < 0
    reduced = layer.reduce(current)
    before = layer.reduce(previous).maps
    assert reduced.maps is not None
    assert before is not None
    assert reduced.maps.min() == 0
    assert torch.allclose(temporal, reduced.maps - before)
    assert all(bool((p == 0.2).all()) for n, p in layer.named_parameters() if n.endswith("bias"))


def test_a_still_pair_has_no_temporal_difference() -> None:
    still = pair()[0]
    assert OffLayer(5, spatial=False)(still, still).abs().max() == 0


def test_dropout_falls_on_the_spatial_branch_alone() -> None:
    layer = OffLayer(5, reduce_to=64, spatial_dropout=0.8).train()
    spatial, temporal = torch.split(layer(*pair()), [128, 64], dim=1)
    assert abs(float((spatial == 0).float().mean()) - 0.8) < 0.02
    assert (temporal != 0).all()


def test_maps_alone_are_the_current_ones_and_need_no_pair() -> None:
    layer = OffLayer(5, reduce_to=4, spatial=False, temporal=False, maps=True)
    assert layer.reduction is not None
    assert torch.equal(layer(*pair()), layer.reduction(pair()[1]))
    assert layer.out_channels == 4
    assert not layer.needs_pair
    assert OffLayer(5, spatial=False).needs_pair


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spatial": False, "temporal": False}, "expected one of them"),
        ({"reduce_to": 0}, "reduce_to=0"),
        ({"spatial_dropout": 1.0}, "spatial_dropout=1.0"),
    ],
)
def test_impossible_layers_say_what_was_expected(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OffLayer(5, **arguments)  # type: ignore[arg-type]
