"""Table 2: FLOPs of N_feat over those of F with its scale output, at 600 x 1000."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from flowfeat.features.timm_features import TimmFeatures
from flowfeat.flow.flownet import FlowNet
from flowfeat.flow.flownet_inception import FlowNetInception
from flowfeat.flow.torchvision_flow import RAFT

FLOWS: dict[str, Callable[[], nn.Module]] = {
    "FlowNet": lambda: FlowNet([1024], [16]),
    "FlowNet Half": lambda: FlowNet([1024], [16], width=0.5),
    "FlowNet Inception": lambda: FlowNetInception([1024], [16]),
}
TABLE_2 = {
    "resnet50": {"FlowNet": 9.20, "FlowNet Half": 33.56, "FlowNet Inception": 68.97},
    "resnet101": {"FlowNet": 12.71, "FlowNet Half": 46.30, "FlowNet Inception": 95.24},
}


def flops(build: Callable[[], nn.Module], inputs: int) -> int:
    with torch.device("meta"), torch.no_grad():
        network = build()
        frames = [torch.empty(1, 3, 600, 1000) for _ in range(inputs)]
        with FlopCounterMode(display=False) as counter:
            network(*frames)
    return counter.get_total_flops()


@cache
def feature_flops(backbone: str) -> int:
    return flops(lambda: TimmFeatures(backbone), 1)


@pytest.mark.parametrize("backbone", TABLE_2)
def test_ratios_of_table_2(backbone: str) -> None:
    feature = feature_flops(backbone)
    for name, paper in TABLE_2[backbone].items():
        tolerance = 0.10 if name == "FlowNet Inception" else 0.04
        assert feature / flops(FLOWS[name], 2) == pytest.approx(paper, rel=tolerance), name


def test_scale_field_at_stride_8_would_miss_table_2() -> None:
    # With the scale field predicted (1x1) at stride 8; so the counter sees where it is predicted.
    refined = flops(lambda: FlowNet([1024], [16], predict_at="refined"), 2)
    assert feature_flops("resnet50") / refined == pytest.approx(8.5, abs=0.1)
    assert feature_flops("resnet101") / refined == pytest.approx(11.6, abs=0.15)


@pytest.mark.parametrize(
    ("settings", "ratio", "speedup"),
    [
        ({}, 15.7, 6.36),  # as it comes: half of the size, 4 updates
        ({"updates": 2}, 26.0, 7.43),
        ({"halve": False, "updates": 12}, 1.44, 1.38),  # as its authors run it
    ],
)
def test_ratios_of_raft(settings: dict[str, Any], ratio: float, speedup: float) -> None:
    """1/r of Eq. 6 over ResNet-101, and s of Eq. 7 at l = 10."""
    found = feature_flops("resnet101") / flops(lambda: RAFT([1024], [16], **settings), 2)
    assert found == pytest.approx(ratio, rel=0.005)
    assert 10 / (1 + 9 / found) == pytest.approx(speedup, abs=0.01)
