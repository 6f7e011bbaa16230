"""FlowNet Inception's encoder against the outputs and branches of Table 8."""

import pytest
import torch
from torch import Tensor, nn

from flowfeat.flow.flownet_inception import FlowNetInception, Inception

# Rows of Table 8: stride, # output, and the convolutions' outputs branch by branch.
TABLE_8 = [
    (1, 64, [24, 32, 24, 32, 32]),
    (1, 128, [48, 32, 64, 8, 16, 16]),
    (1, 128, [48, 48, 64, 12, 16, 16]),
    (2, 256, [32, 112, 128, 28, 32, 32, 64]),
    (1, 256, [96, 112, 128, 28, 32, 32]),
    (2, 384, [48, 96, 192, 36, 48, 48, 96]),
    (1, 384, [144, 96, 192, 36, 48, 48]),
    (2, 512, [64, 192, 256, 48, 64, 64, 128]),
    (1, 512, [192, 192, 256, 48, 64, 64]),
]


def test_modules_of_table_8() -> None:
    with torch.device("meta"):
        network = FlowNetInception([1024], [16])
        found = [module for module in network.modules() if isinstance(module, Inception)]
        assert len(found) == len(TABLE_8)
        for module, (stride, outputs, widths) in zip(found, TABLE_8, strict=True):
            convs = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
            assert [conv.out_channels for conv in convs] == widths
            result = module(torch.empty(1, convs[0].in_channels, 11, 14))
            assert result.shape == (1, outputs, -(-11 // stride), -(-14 // stride))


@pytest.mark.parametrize("size", [(64, 96), (61, 99)])
def test_maps_have_strides_4_to_64(size: tuple[int, int]) -> None:
    with torch.device("meta"):
        maps: list[Tensor] = FlowNetInception([4], [16]).encode(torch.empty(1, 6, *size))
    strides, outputs = (4, 8, 16, 32, 64), (64, 128, 256, 384, 512)
    expected = [
        (1, c, -(-size[0] // s), -(-size[1] // s)) for s, c in zip(strides, outputs, strict=True)
    ]
    assert [tuple(level.shape) for level in maps] == expected
