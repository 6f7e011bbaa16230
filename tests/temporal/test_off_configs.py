"""The leaves and presets of OFF, hypercolumns and temporal shift, as they are composed."""

import pytest
import torch
from torch import nn

from flowfeat.build import build_task, build_temporal
from flowfeat.cli import UsageError, compose_config
from flowfeat.interfaces import TemporalModule
from flowfeat.temporal.flow_guided import FlowGuided
from flowfeat.temporal.off_layer import OffLayer

TINY = "features.model=test_resnet"


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def built(*words: str) -> TemporalModule:
    return build_temporal(compose_config(["task=ucf101", TINY, *words]))


@pytest.mark.parametrize("task", ["ucf101", "hmdb51"])
def test_off_of_recognition_has_two_stages_and_pairs_at_one_interval(task: str) -> None:
    config = compose_config([f"task={task}", "method=off", TINY])
    assert config.method == "off"
    assert config.first_stage.method == "per_frame"
    assert config.clip._target_.endswith("ConsistentInterval")
    parts = build_task(config, ("a", "b")).parts().items()
    learning = {n for n, part in parts if any(p.requires_grad for p in part.parameters())}
    assert learning == {"off_network", "motion_head"}


def test_the_released_network_with_its_heads_has_the_released_size() -> None:
    words = ["task=ucf101", "method=off", "temporal=off_caffe", "features=bn_inception"]
    parts = build_task(compose_config(words), tuple(map(str, range(101)))).parts()
    own = parameters(parts["off_network"]) + parameters(parts["motion_head"])
    assert round(own / 1e6, 2) == 9.87


@pytest.mark.parametrize(
    ("words", "spatial", "temporal", "maps"),
    [
        (("method=off",), True, True, False),
        (("method=off", "temporal.layer.spatial=false"), False, True, False),
        (("method=off", "temporal.layer.temporal=false"), True, False, False),
        (("method=off_hypercolumn",), False, False, True),
        (("method=off", "temporal=off_hypercolumn"), False, False, True),
    ],
)
def test_ablations_are_overrides(
    words: tuple[str, ...], spatial: bool, temporal: bool, maps: bool
) -> None:
    off = built(*words)
    assert isinstance(off, FlowGuided)
    assert off.off_network.units == ((0,), (1,), (2,))
    for layer in off.off_network.layers:
        assert isinstance(layer, OffLayer)
        assert (layer.spatial, layer.temporal, layer.maps) == (spatial, temporal, maps)


def test_units_are_config() -> None:
    with pytest.raises(ValueError, match="expected one for each of 2 units"):
        built("method=off", "temporal.units=[[0],[2]]")


def test_temporal_shift_adds_nothing_to_learn() -> None:
    shift, frame = built("method=tsm"), built("method=per_frame")
    assert parameters(shift) == parameters(frame)
    assert shift.channels == frame.channels


def test_a_task_without_off_says_for_which_tasks_there_is_one() -> None:
    with pytest.raises(UsageError, match=r"no first_stage=off_flying_chairs, only .* ucf101, vid"):
        compose_config(["task=flying_chairs", "method=off"])


@torch.no_grad()
def test_the_embedded_networks_run_on_small_frames() -> None:
    frames = torch.rand(1, 3, 3, 64, 64)
    every, targets = torch.ones(1, 3, dtype=torch.bool), torch.tensor([[0, 1, 2]])
    output = built("method=off").eval()(frames, every, targets)
    assert output.valid.tolist() == [[True] + [False] * 3] + [[True] * 4] * 2
