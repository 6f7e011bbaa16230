"""`flowfeat-benchmark` from end to end, at sizes that take seconds."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from flowfeat.benchmark import benchmark, run
from flowfeat.cli import compose_config

SMALL = ["features=resnet18", "features.model=test_resnet", "flow=flownet_quarter"]
SMALL += ["profile.num_classes=3", "profile.seconds=0.2", "profile.frames=4", "profile.device=cpu"]
SMALL += ["benchmark.training_steps=0", "benchmark.turns=1", "benchmark.streams=2"]
SMALL += ["benchmark.peers=1"]
SMALL += ["benchmark.memory_frames=[2, 4]", "benchmark.memory_size=[32, 48]"]


def test_figures_of_two_sizes_and_of_a_video(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(20):
        cv2.imwrite(str(folder / f"{number:03d}.png"), np.full((24, 32, 3), number, np.uint8))
    words = [*SMALL, "benchmark.sizes=[[32, 48], [48, 64]]", "key_frames.interval=2"]
    words += ["benchmark.switches=[channels_last]", f"benchmark.video={folder}"]
    found = benchmark(compose_config(words), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "benchmark.json").read_text()) == found
    for size in ("32x48", "48x64"):
        times = {k: found[f"{size}/ms/{k}"] for k in ("features", "flow", "warp", "head", "post")}
        assert min(times.values()) > 0
        key = found[f"{size}/ms/features"] + found[f"{size}/ms/head"] + found[f"{size}/ms/post"]
        tail = found[f"{size}/ms/tail"]
        other = sum(times.values()) - times["features"] + tail
        expected = 2 / (1 + other / (key + tail))
        assert found[f"{size}/speedup_eq7/time_l2"] == pytest.approx(expected)
        measured = found[f"{size}/speedup/measured_l2"]
        assert found[f"{size}/s_of_eq7_time"] == pytest.approx(measured / expected)
    assert found["48x64/gflops/features"] == pytest.approx(2 * found["32x48/gflops/features"])
    assert found["video/ms_decode"] > 0
    of = {name: found[f"end_to_end/{name}"] for name in ("fps_reading", "fps_model", "fps")}
    assert min(of.values()) > 0
    slower = min(of["fps_reading"], of["fps_model"])
    assert found["end_to_end/of_slower"] == pytest.approx(of["fps"] / slower)
    assert found["switch/channels_last/key"] > 0
    assert found["peers/warp_over_grid_sample"] > 0
    text = (tmp_path / "run" / "benchmark.md").read_text()
    assert "| 32 x 48 | 48 x 64 |" in text
    assert "load (processes" in text


def test_offs_cost_ratio(tmp_path: Path) -> None:
    words = [*SMALL, "method=off", "flow=none", "profile.size=[32, 48]", "benchmark.switches=[]"]
    found = benchmark(compose_config([*words, "benchmark.streams=1"]), tmp_path)
    expected = found["32x48/gflops/OFF"] / found["32x48/gflops/features"]
    assert found["32x48/off_ratio/flops"] == pytest.approx(expected)
    assert found["32x48/off_ratio/time"] > 0


def test_what_cannot_be_benchmarked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="trains F alone"):
        run(compose_config(["task=flying_chairs", "method=flow"]), tmp_path)
    with pytest.raises(ValueError, match=r"profile\.device=gpuu: "):
        benchmark(compose_config([*SMALL, "profile.device=gpuu"]), tmp_path)
    with pytest.raises(ValueError, match=r"benchmark.sizes: expected \[\[height, width\]"):
        benchmark(compose_config([*SMALL, "benchmark.sizes=[[32, 48], [7]]"]), tmp_path)
