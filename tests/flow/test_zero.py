"""Zero flow copies: warping with it returns the key features themselves."""

import torch

from flowfeat.flow.zero import ZeroFlow
from flowfeat.ops.warp import warp


def test_zero_flow_is_a_copy() -> None:
    frames = torch.rand(2, 3, 33, 50)
    flow = ZeroFlow([5, 7], [16, 8])(frames, frames.flip(0))
    features = torch.randn(2, 5, 5, 7)  # ceil of 33 and 50 at stride 8
    assert flow.scale is None
    assert torch.equal(warp(features, flow.displacement), features)


def test_pyramid_is_zero_at_strides_64_to_4() -> None:
    pyramid = ZeroFlow([5], [8]).pyramid(torch.rand(1, 3, 33, 50), torch.rand(1, 3, 33, 50))
    assert [tuple(p.shape[-2:]) for p in pyramid] == [(1, 1), (2, 2), (3, 4), (5, 7), (9, 13)]
    assert not any(level.any() for level in pyramid)
