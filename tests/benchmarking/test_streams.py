"""What streams cost, by a clock that only the parts advance; memory that grows on purpose."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flowfeat.acceleration import Acceleration
from flowfeat.benchmarking.streams import (
    key_loads,
    measure_parts,
    memory_after,
    memory_mb,
    switch_times,
    throughput,
)
from flowfeat.interfaces import FeatureNetwork, Features, Flow, FlowNetwork, TaskHead
from flowfeat.key_frames.schedules import Fixed
from flowfeat.metering import part
from flowfeat.speed import speedup_eq7
from flowfeat.stream_speed import measure_stream
from flowfeat.temporal.feature_flow import FeatureFlow

CPU = torch.device("cpu")
NOW = [0.0]
"""Seconds that have passed: a busy machine must not change what is expected."""


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.perf_counter", lambda: NOW[0])


class Sleepy(FeatureNetwork):
    """Takes 40 ms without inference mode, else 20 ms, whatever the batch."""

    channels, strides = (4,), (8,)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 8, stride=8)
        self.hoard: list[Tensor] | None = None

    def trunk(self, frames: Tensor) -> Features:
        NOW[0] += 0.02 if torch.is_inference_mode_enabled() else 0.04
        if self.hoard is not None:
            self.hoard.append(torch.ones(10_000_000))  # 40 MB: too large to fill freed memory
        return (self.conv(frames),)


class PerFrame(Sleepy):
    """Takes 20 ms for each frame of the batch."""

    def trunk(self, frames: Tensor) -> Features:
        NOW[0] += 0.02 * (len(frames) - 1)
        return super().trunk(frames)


class SleepyFlow(FlowNetwork):
    """Takes 5 ms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 2, 8, stride=8)

    def pyramid(self, current: Tensor, key: Tensor) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def forward(self, current: Tensor, key: Tensor) -> Flow:
        NOW[0] += 0.005
        return Flow(self.conv(torch.cat((current, key), 1)), None)


class Identity(TaskHead):
    """Passes the features on."""

    def forward(self, features: Features, frames: Tensor) -> Tensor:
        return features[0]

    def postprocess(self, raw: Tensor, sizes: Tensor) -> list[Tensor]:
        return list(raw)

    def loss(self, raw: Any, labels: Any) -> dict[str, Tensor]:
        return {}


def sleepy_task(interval: int, features: Sleepy | None = None) -> Any:
    temporal = FeatureFlow(features or Sleepy(), SleepyFlow(), Fixed(interval)).eval()
    head = Identity()
    parts = {**temporal.parts(), "head": head}
    task = SimpleNamespace(temporal=temporal, head=head, parts=lambda: parts)
    task.to = lambda **kwargs: task
    return task


def clip(count: int) -> tuple[Tensor, Tensor]:
    return torch.rand(1, count, 3, 16, 24), torch.tensor([[16, 24]])


def test_parts_and_s_come_from_the_same_calls() -> None:
    task = sleepy_task(4)
    parts = measure_parts(task, *clip(4), seconds=0.5, running=Acceleration())
    assert parts.seconds.costs["N_feat"] == pytest.approx(0.02)
    assert parts.seconds.costs["F"] == pytest.approx(0.005)
    assert parts.stream.speedup == pytest.approx(parts.seconds.speedup(4))
    assert parts.stream.speedup == pytest.approx(speedup_eq7(4, 0.25))
    # The convolutions, 2 operations per multiply-add: 6 cells of 8 x 8 weights.
    assert parts.flops.costs["N_feat"] == 2 * 6 * 64 * 3 * 4
    assert parts.flops.costs["F"] == 2 * 6 * 64 * 6 * 2


class InTwoParts(Sleepy):
    """Works for 20 ms under one name, in two calls of 6 and 14 ms."""

    def trunk(self, frames: Tensor) -> Features:
        NOW[0] += 0.006
        return (self.conv(frames),)

    def tail(self, features: Features) -> Features:
        with part("N_feat"):
            NOW[0] += 0.014
        return features


def test_what_a_part_does_for_a_frame_in_several_calls_is_added_up() -> None:
    task = sleepy_task(1)
    task.temporal.features = InTwoParts()
    found = measure_stream(task.temporal, task.head, *clip(3), seconds=0.2)
    assert found.costs["N_feat"] == pytest.approx(0.02)


def test_at_l_1_the_flow_network_is_timed_all_the_same() -> None:
    task = sleepy_task(1)
    parts = measure_parts(task, *clip(3), seconds=0.2, running=Acceleration())
    assert "F" in parts.seconds.costs
    assert "F" in parts.flops.costs
    assert parts.stream.speedup == 1.0
    assert task.temporal.key_frames.interval == 1


def test_a_switch_shows_on_the_frames_that_it_touches() -> None:
    gains = switch_times(sleepy_task(3), *clip(3), ["inference_mode"], turns=2)
    assert gains["switch/inference_mode/key"] == pytest.approx(2)
    assert gains["switch/inference_mode/non_key"] == pytest.approx(1)
    with pytest.raises(ValueError, match=r"benchmark.switches: magic unknown, expected some of"):
        switch_times(sleepy_task(3), *clip(3), ["magic"], turns=1)


def test_a_batch_that_costs_as_much_as_one_gains_its_size() -> None:
    figures = throughput(sleepy_task(2), *clip(2), count=4, turns=1)
    assert figures["streams/gain"] == pytest.approx(4)
    assert figures["streams/ms_frame_1"] == pytest.approx(12.5)


def test_key_frames_per_tick_with_and_without_staggering() -> None:
    task = sleepy_task(4, PerFrame())
    figures = key_loads(task, (16, 24), 8, CPU)
    assert figures == {
        "streams/key_frames_max": 8,  # all at once, every fourth tick
        "streams/key_frames_mean": 2,
        "streams/ms_tick_max": pytest.approx(8 * 20),
        "streams/key_frames_max_staggered": 2,
        "streams/key_frames_mean_staggered": 2,
        "streams/ms_tick_max_staggered": pytest.approx(2 * 20 + 5),
    }
    assert task.temporal.key_frames == Fixed(4)


@pytest.mark.skipif(memory_mb(CPU) is None, reason="this system does not tell its memory in use")
def test_memory_is_flat_unless_something_hoards() -> None:
    task = sleepy_task(10)
    flat = memory_after(task, (16, 24), [20, 60], CPU)
    assert set(flat) == {"memory/mb_after_20", "memory/mb_after_60"}
    assert abs(flat["memory/mb_after_60"] - flat["memory/mb_after_20"]) < 2
    task = sleepy_task(1)
    task.temporal.features.hoard = []
    grown = memory_after(task, (16, 24), [2, 7], CPU)
    assert grown["memory/mb_after_7"] - grown["memory/mb_after_2"] == pytest.approx(200, abs=6)
