"""`flowfeat-profile` against the paper's Table 2, hand counts, and what a light backbone gains."""

import json
import logging
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from flowfeat.cli import compose_config
from flowfeat.interfaces import FeatureNetwork
from flowfeat.metering import count_flops
from flowfeat.profile import Profile, comparisons, frame_size, gain_warning, profile
from flowfeat.ratios import (
    TABLE_2,
    features_flops,
    flow_flops,
    inverse_ratios,
    leaf_name,
    leaves,
    meta_features,
    paper_ratio,
)
from flowfeat.speed import PartCosts, speedup_eq7
from flowfeat.stream_speed import StreamSpeed
from flowfeat.trust import build

SMALL = ["features=resnet18", "head=rfcn", "profile.size=[64, 96]", "profile.num_classes=4"]


def test_table_2_of_the_paper(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = profile(compose_config(["profile.table2=true"]), tmp_path)
    for (features, flow), paper in TABLE_2.items():
        ratio = found[f"inverse_r/{features}/{flow}"]
        assert ratio == pytest.approx(paper, rel=0.10 if "inception" in flow else 0.04)
    assert len(found) == len(TABLE_2) == 6
    assert json.loads((tmp_path / "profile.json").read_text()) == found
    printed = capsys.readouterr().out
    assert "94.4" in printed and "95.24" in printed and "600 x 1000" in printed  # noqa: PT018


def test_a_model_is_counted_and_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = compose_config([*SMALL, "profile.seconds=0.5", "profile.frames=12", "seed=3"])
    found = profile(config, tmp_path)
    assert json.loads((tmp_path / "profile.json").read_text()) == found
    network = meta_features(config.features)
    assert found["gflops/features"] == pytest.approx(features_flops(network, (64, 96)) / 1e9)
    flow = flow_flops(config.flow, network, (64, 96))
    assert found["gflops/flow"] == pytest.approx((flow or 0) / 1e9)
    cells, half = 4 * 6, network.channels[-1] // 2
    maps = (2 + 4) * 9 + 49 * (4 + 1 + 4)  # RPN's 9 anchors; 49 bins of 4 + 1 classes and 4 offsets
    assert found["gflops/head"] == pytest.approx(2e-9 * cells * half * maps)
    assert found["params/head"] == (half + 1) * maps
    assert found["inverse_r/flops"] == pytest.approx(found["gflops/features"] / (flow or 0) * 1e9)
    assert found["inverse_r/time"] == pytest.approx(found["ms/features"] / found["ms/flow"])
    for kind in ("flops", "time"):
        for interval in (2, 5, 10):
            expected = speedup_eq7(interval, 1 / found[f"inverse_r/eq5_{kind}"])
            assert found[f"speedup_eq7/{kind}_l{interval}"] == pytest.approx(expected)
    assert found["speedup/measured_l10"] > 0
    assert found["speedup/spread_l10"] >= 0
    assert found["fps/measured_l10"] > 0
    assert "inverse_r/paper" not in found
    assert "1/r: N_feat over F (Eq. 6)" in capsys.readouterr().out


def test_the_papers_figure_stands_beside_its_own_networks_only() -> None:
    config = compose_config(["features=resnet50", "flow=flownet_half"])
    network = meta_features(config.features)
    assert paper_ratio(config.features, network, config.flow) == 33.56
    config.flow.width = 0.7
    assert paper_ratio(config.features, network, config.flow) is None
    config = compose_config(["features=resnet50", "flow=flownet", "features.reduce_to=512"])
    narrow = meta_features(config.features)
    assert paper_ratio(config.features, narrow, config.flow) is None


def test_a_method_without_flow_has_no_ratio(tmp_path: Path) -> None:
    found = profile(compose_config(["method=per_frame", *SMALL, "profile.time=false"]), tmp_path)
    assert found["gflops/features"] > 0
    assert not [key for key in found if "time" in key or key.startswith(("ms/", "fps/"))]
    assert not [key for key in found if key.startswith(("inverse_r", "speedup"))]


def test_l_1_still_tells_the_cost_of_the_flow(tmp_path: Path) -> None:
    overrides = [*SMALL, "profile.time=false", "key_frames.interval=1"]
    assert profile(compose_config(overrides), tmp_path)["gflops/flow"] > 0


@pytest.mark.parametrize(("reduce_to", "speedup"), [(1024, 1.2), ("auto", 0.8)])
def test_a_light_backbone_is_warned_about(reduce_to: int | str, speedup: float) -> None:
    size = (128, 256)
    config = compose_config(["features=efficientnet_b0", "flow=flownet"])
    config.features.reduce_to = reduce_to
    network = meta_features(config.features)
    flops = PartCosts({name: counted(config, network, size)[name] for name in ("N_feat", "F")})
    assert flops.speedup(10) == pytest.approx(speedup, abs=0.06)
    line = gain_warning(config, flops, size)
    assert line is not None
    assert line.startswith("little gain: " if speedup > 1 else "no gain: ")
    assert f"s = {flops.speedup(10):.2f} by FLOPs at l = 10" in line
    # The named network, once chosen, gives the speedup that was promised.
    name, promised = line.split("flow=")[1].split()[0], float(line.rsplit("= ", 1)[1])
    config.flow = leaves("flow")[name]
    better = flops.with_flow(counted(config, network, size)["F"])
    assert better.speedup(10) == pytest.approx(promised, abs=0.006)
    assert promised > 2 * speedup


def counted(config: DictConfig, network: FeatureNetwork, size: tuple[int, int]) -> dict[str, float]:
    flow = flow_flops(config.flow, network, size)
    return {"N_feat": features_flops(network, size), "F": flow or 0.0}


def test_the_warning_is_one_line_of_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    overrides = ["features=mobilenetv4", "flow=flownet_half", "key_frames.interval=3"]
    overrides += ["profile.time=false", *SMALL[1:]]
    with caplog.at_level(logging.WARNING):
        found = profile(compose_config(overrides), tmp_path)
    (line,) = [r.getMessage() for r in caplog.records if r.name == "flowfeat.profile"]
    assert f"gain: s = {found['speedup_eq7/flops_l3']:.2f} by FLOPs at l = 3; flow=" in line


def test_no_warning_where_the_gain_is_real() -> None:
    config = compose_config(SMALL)
    flops = PartCosts({"N_feat": 100.0, "F": 10.0})
    assert gain_warning(config, flops, (64, 96)) is None


@pytest.mark.parametrize("name", ["resnet18", "convnext_tiny"])
def test_meta_counts_equal_those_of_a_real_device(name: str) -> None:
    node = leaves("features")[name]
    network = build(node).eval()
    real = count_flops(lambda: network.trunk(torch.zeros(1, 3, 70, 100)))
    assert features_flops(meta_features(node), (70, 100)) == real > 0


def test_leaves_are_recognised_until_they_are_changed() -> None:
    config = compose_config(["flow=flownet_half"])
    assert leaf_name("flow", config.flow) == "flownet_half"
    config.flow.width = 0.4
    assert leaf_name("flow", config.flow) is None
    assert "none" not in leaves("flow")


def test_weights_are_never_fetched() -> None:
    node = leaves("features")["resnet18"].copy()
    node.pretrained, node.checkpoint_path = True, "missing.pth"
    assert meta_features(node).channels


def test_sizes_come_from_the_profile_or_from_the_data() -> None:
    config = compose_config(["data.short_side=300", "data.long_side=500"])
    assert frame_size(config) == (300, 500)
    assert frame_size(config, (600, 1000)) == (600, 1000)
    config.profile.size = [64, 65]
    assert frame_size(config, (600, 1000)) == (64, 65)


def test_recognition_is_profiled_on_its_crops(tmp_path: Path) -> None:
    words = ["task=ucf101", "method=per_frame", "features.model=test_resnet", "data.crop=32"]
    words += ["profile.num_classes=3", "profile.seconds=0.1", "profile.frames=2"]
    config = compose_config([*words, "profile.device=cpu"])
    assert frame_size(config) == (32, 32)
    assert profile(config, tmp_path)["gflops/features"] > 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("profile.size=[64]", r"profile\.size: expected \[height, width\], found \[64\]"),
        ("profile.size=[64,0]", r"profile\.size: expected \[height, width\], found \[64, 0\]"),
        ("profile.frames=1", r"profile\.frames=1: expected at least 2"),
        ("profile.device=nowhere", r"profile\.device=nowhere: "),
        ("profile.compare=[resnet19]", r"features=resnet19: unknown choice, expected one of"),
    ],
)
def test_bad_settings_end_in_one_line(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as failed:
        profile(compose_config([*SMALL, override]), tmp_path)
    assert "\n" not in str(failed.value)


def test_any_features_are_compared_with_every_flow_network() -> None:
    ratios = inverse_ratios(["efficientnet_b0", "resnet18"], (64, 96))
    flows = {"flownet", "flownet_half", "flownet_quarter", "flownet_inception"}
    assert {flow for _, flow in ratios} >= flows
    assert "zero" not in {flow for _, flow in ratios}  # it costs nothing
    for features in ("efficientnet_b0", "resnet18"):
        assert ratios[features, "flownet_quarter"] > ratios[features, "flownet"]


def test_a_doubtful_speed_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    speed = StreamSpeed((0.1, 0.1), (2.0, 2.0), 10, runs={"N_feat": 0.1, "F": 0.9})
    monkeypatch.setattr("flowfeat.profile.measure_stream", lambda *_, **__: speed)
    profile(compose_config([*SMALL, "profile.seconds=0.1", "profile.frames=3"]), tmp_path)
    assert "doubtful: s = 20.00 is more than l = 10 can give" in caplog.text


def test_eq7_of_an_adaptive_schedule_stands_only_where_it_was_measured() -> None:
    costs = PartCosts({"N_feat": 80.0, "F": 8.0})
    runs = {"N_feat": 0.5, "F": 0.9}
    speed = StreamSpeed((0.1,), (0.2,), 10, runs=runs)
    adaptive = Profile(10, costs, costs, speed, {}, None, adaptive=True)
    rows = {row.key: row for row in comparisons(adaptive, [2, 5, 10])}
    assert [key for key in rows if "_l" in key] == ["speedup_eq7/{}_l10"]
    assert rows["speedup_eq7/{}_l10"].flops == pytest.approx(80 / (40 + 7.2))
    fixed = Profile(10, costs, costs, None, {}, None)
    assert len([row for row in comparisons(fixed, [2, 5, 10]) if "_l" in row.key]) == 3
