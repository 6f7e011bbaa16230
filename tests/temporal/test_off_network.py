"""The OFF sub-network: which levels feed which unit, the sizes of the papers, and its joins."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from flowfeat.temporal.off_layer import OffLayer
from flowfeat.temporal.off_network import Bottleneck, OffNetwork, Refinement

TAPS = (256, 320, 576, 576, 576, 608, 608, 1024, 1024)
STRIDES = (8, 8, 16, 16, 16, 16, 16, 32, 32)
CAFFE = partial(OffLayer, kernels="cross", relu=True, own_spatial=32, bias=0.2)
CAFFE_BLOCKS = partial(Refinement, last_kernels=(1, 3, 1), final_relu=False, bias=0.2)
SMALL = partial(Refinement, widths=(2, 3), blocks=(1, 2), kernels=(3, 3), last_kernels=(1, 1))


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("spatial", "millions", "inputs"),
    [(True, 9.87, [320, 1056, 832]), (False, 8.83, [256, 896, 768])],
)
def test_the_released_network_has_the_released_sizes(
    spatial: bool, millions: float, inputs: list[int]
) -> None:
    layer = partial(CAFFE, spatial=spatial)
    network = OffNetwork(TAPS, STRIDES, layer, CAFFE_BLOCKS, per_tap=True)
    heads = sum(channels * 101 + 101 for channels in network.channels)
    assert round((parameters(network) + heads) / 1e6, 2) == millions
    openings = [level[0] for level in network.refinement.levels]  # type: ignore[index]
    assert [opening.in_channels for opening in openings] == inputs
    assert (network.channels, network.strides) == ((256, 512, 1024), (16, 32, 32))
    # 21 convolutions and 3 projections; no BatchNorm anywhere.
    assert len([m for m in network.refinement.modules() if isinstance(m, nn.Conv2d)]) == 24
    assert not any(isinstance(m, nn.BatchNorm2d) for m in network.modules())


def test_levels_of_one_stride_share_a_unit_unless_told_otherwise() -> None:
    network = OffNetwork(TAPS, STRIDES, OffLayer, Refinement)
    assert network.units == ((0, 1), (2, 3, 4, 5, 6), (7, 8))
    assert [layer.out_channels for layer in network.layers] == [384, 384, 384]


def maps(*channels: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    sizes = ((7, 9), (7, 9), (4, 5))
    pairs = zip(channels, sizes, strict=True)
    return tuple(torch.randn(2, c, *size, generator=generator) for c, size in pairs)


def test_one_layer_on_concatenated_taps_is_not_a_layer_per_tap() -> None:
    layer = partial(OffLayer, reduce_to=4)
    units = ((0, 1), (2,))
    joined = OffNetwork((3, 5, 6), (8, 8, 16), layer, SMALL, units)
    apart = OffNetwork((3, 5, 6), (8, 8, 16), layer, SMALL, units, per_tap=True)
    levels = maps(3, 5, 6)
    assert [r.maps.shape[1] for r in joined.reduce(levels)] == [4, 4]  # type: ignore[union-attr]
    assert [r.maps.shape[1] for r in apart.reduce(levels)] == [4, 4, 4]  # type: ignore[union-attr]
    first = joined.layers[0].reduction
    expected = first(torch.cat(levels[:2], dim=1))  # type: ignore[operator]
    assert torch.equal(joined.reduce(levels)[0].maps, expected)  # type: ignore[arg-type]
    assert apart.refinement.levels[0][0].in_channels == 24  # type: ignore[index]


def test_every_level_hangs_on_the_finer_one() -> None:
    network = OffNetwork((3, 5, 6), (8, 8, 16), partial(OffLayer, reduce_to=4), SMALL)
    levels = maps(3, 5, 6)
    changed = (levels[0] + 1, levels[1], levels[2])
    reduced = network.reduce(levels)
    before, after = (network(reduced, network.reduce(current)) for current in (levels, changed))
    assert [tuple(level.shape) for level in before] == [(2, 8, 4, 5), (2, 12, 4, 5)]
    assert not torch.equal(before[1], after[1])
    coarse = (levels[0], levels[1], levels[2] + 1)
    assert torch.equal(network(reduced, network.reduce(coarse))[0], before[0])


def test_a_bottleneck_is_its_formula() -> None:
    block = Bottleneck(4, 3, 4, relu=False)
    maps = torch.randn(1, 4, 5, 5)
    inner = block.second(block.first(maps).relu()).relu()
    assert torch.allclose(block(maps), maps + block.third(inner))
    assert torch.equal(Bottleneck(4, 3, 8)(maps) >= 0, torch.ones(1, 8, 5, 5) > 0)
    assert block(maps).min() < 0


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ([[0, 2]], r"levels \[0, 2\] have strides \[8, 16\]"),
        ([[0], [3]], r"expected levels 0 .. 2"),
        ([[]], "expected levels 0 .. 2"),
        ([], "at least one unit"),
        ([[2], [0]], r"strides \[16, 8\] do not divide"),
        ([[0]], r"widths=\[2, 3\]: expected one for each of 1 units"),
    ],
)
def test_impossible_units_say_what_was_expected(units: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OffNetwork((3, 5, 6), (8, 8, 16), OffLayer, SMALL, units)


def test_even_kernels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"refinement.kernels=\[4\]: expected odd"):
        Refinement((3,), (8,), widths=(2,), blocks=(1,), kernels=(4,), last_kernels=(1,))
