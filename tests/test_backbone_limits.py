"""s over backbones against hand counts of W and N_task, and Eq. 5 and 7."""

import pytest

from flowfeat.backbone_limits import Limit, draw, features_node, limit, page, sentence
from flowfeat.ratios import features_flops, flow_flops, leaves, meta_features

SIZE = (64, 96)
CELLS = 4 * 6  # at stride 16


def test_the_parts_of_a_backbone():
    one = limit("resnet18", SIZE, 10)
    network = meta_features(features_node("resnet18"))
    width = network.trunk_channels[0]
    warp = 8 * width * CELLS
    # RPN on the first half: 9 anchors of 2 scores and 4 offsets; R-FCN on the second: 7 x 7 bins.
    head = 2 * CELLS * (width // 2) * (9 * (2 + 4) + 49 * (30 + 1 + 4))
    feat = features_flops(network, SIZE)
    flow = flow_flops(leaves("flow")["flownet_half"], network, SIZE)
    ratio = (flow + warp + head) / (feat + head)
    assert one.gflops == pytest.approx(feat / 1e9)
    assert one.ratios["flownet_half"] == pytest.approx(ratio)
    assert one.speedups["flownet_half"] == pytest.approx(10 / (1 + 9 * ratio))


def test_the_page_says_where_it_pays(tmp_path):
    flows = ("flownet", "flownet_half", "flownet_inception")
    light = Limit("light", 5.0, dict.fromkeys(flows, 2.0), dict.fromkeys(flows, 0.5))
    heavy = Limit("heavy", 900.0, dict.fromkeys(flows, 0.01), dict.fromkeys(flows, 9.0))
    said = sentence([light, heavy], 10)
    assert "pays most over heavy (s = 9.00" in said
    assert said.endswith("it is a loss over light.")
    text = page([heavy, light], (600, 1000), 10, "b.png")
    assert text.index("| light | 5.0 | 0.50 |") < text.index("| heavy | 900.0 | 9.00 |")
    draw([light, heavy], 10, tmp_path / "b.png")
    assert (tmp_path / "b.png").stat().st_size < 100_000
