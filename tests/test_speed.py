"""Costs, ratios and speedups against hand counts, the paper's figures and networks that sleep."""

import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flowfeat.interfaces import FeatureNetwork, Features, Flow, FlowNetwork, TaskHead
from flowfeat.key_frames.adaptive import Adaptive
from flowfeat.key_frames.schedules import Fixed
from flowfeat.speed import (
    PartCosts,
    key_frame_interval,
    part_flops,
    part_seconds,
    speedup_eq7,
)
from flowfeat.stream_speed import StreamSpeed, measure_stream, measure_streams
from flowfeat.temporal.feature_flow import FeatureFlow
from flowfeat.temporal.per_frame import PerFrame

SIZE = (16, 24)

pytestmark = pytest.mark.usefixtures("clock")


class SleepyFeatures(FeatureNetwork):
    """3 -> 6 channels at stride 8, 8 x 8 weights; sleeps first."""

    channels, strides = (6,), (8,)

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 8, stride=8)
        self.seconds = seconds
        self.calls = 0

    def trunk(self, frames: Tensor) -> Features:
        self.calls += 1
        time.sleep(self.seconds)
        return (self.conv(frames),)


class SleepyFlow(FlowNetwork):
    """6 -> 2 channels at stride 8, 8 x 8 weights; sleeps first."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 2, 8, stride=8)
        self.seconds = seconds
        self.calls = 0

    def pyramid(self, current: Tensor, key: Tensor) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def forward(self, current: Tensor, key: Tensor) -> Flow:
        self.calls += 1
        time.sleep(self.seconds)
        return Flow(self.conv(torch.cat((current, key), 1)), None)


class SleepyHead(TaskHead):
    """6 -> 5 channels, 1 x 1; the post-processing sleeps."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 5, 1)
        self.seconds = seconds

    def forward(self, features: Features, frames: Tensor) -> Tensor:
        return self.conv(features[-1])

    def postprocess(self, raw: Tensor, sizes: Tensor) -> Any:
        time.sleep(self.seconds)
        return raw

    def loss(self, raw: Any, labels: Any) -> dict[str, Tensor]:
        raise NotImplementedError


def stream(length: int = 6) -> tuple[Tensor, Tensor]:
    return torch.rand(1, length, 3, *SIZE), torch.tensor([SIZE])


def test_eq7_gives_the_papers_speedup() -> None:
    # ResNet-101 with FlowNet (Table 2) at l = 10.
    assert speedup_eq7(10, 1 / 12.71) == pytest.approx(5.855, abs=1e-3)
    assert speedup_eq7(1, 0.3) == 1
    assert speedup_eq7(7, 0) == 7


def test_ratios_follow_eq5_and_eq6() -> None:
    costs = PartCosts({"N_feat": 80.0, "F": 8.0, "W": 1.0, "tail": 4.0, "N_task": 5.0, "post": 6.0})
    assert costs.ratio == pytest.approx((8 + 1 + 4 + 5 + 6) / (80 + 4 + 5 + 6))
    assert costs.inverse_ratio_eq6 == 10
    assert costs.with_flow(2.0).inverse_ratio_eq6 == 40
    assert costs.speedup(10) == pytest.approx(10 / (1 + 9 * 24 / 95))


def test_ratio_needs_a_flow_network_except_at_l_1() -> None:
    costs = PartCosts({"N_feat": 80.0, "N_task": 5.0})
    assert costs.speedup(1) == 1
    with pytest.raises(ValueError, match=r"need the cost of F"):
        _ = costs.ratio


def test_flops_of_the_parts_are_those_counted_by_hand() -> None:
    method = FeatureFlow(SleepyFeatures(), SleepyFlow(), Fixed(10)).eval()
    cells = 2 * 3  # 16 x 24 at stride 8
    assert part_flops(method, SleepyHead(), *stream()).costs == {
        "N_feat": 2 * cells * 6 * 3 * 64,
        "F": 2 * cells * 2 * 6 * 64,
        "W": 8 * cells * 6,
        "tail": 0,
        "N_task": 2 * cells * 5 * 6,
        "post": 0,
    }


def test_times_of_the_parts_are_medians_of_single_calls() -> None:
    method = FeatureFlow(SleepyFeatures(0.02), SleepyFlow(0.005), Fixed(10)).eval()
    costs = part_seconds(method, SleepyHead(0.001), *stream(), seconds=0.2).costs
    assert costs["N_feat"] == pytest.approx(0.02)
    assert costs["F"] == pytest.approx(0.005)
    assert costs["post"] == pytest.approx(0.001)


@pytest.mark.parametrize("length", [12, 3])  # also a clip shorter than l
def test_measured_speedup_is_that_of_eq7(length: int) -> None:
    features, flow, head = SleepyFeatures(0.02), SleepyFlow(0.003), SleepyHead(0.001)
    method = FeatureFlow(features, flow, Fixed(4)).eval()
    found = measure_stream(method, head, *stream(length), seconds=1.0)
    expected = PartCosts({"N_feat": 0.02, "F": 0.003, "post": 0.001}).speedup(4)  # 2.6
    assert found.speedup == pytest.approx(expected)
    assert found.fps == pytest.approx(expected / 0.021)
    assert method.key_frames.interval == 4


def test_latencies_show_the_key_frames_that_a_mean_hides() -> None:
    method = FeatureFlow(SleepyFeatures(0.03), SleepyFlow(0.002), Fixed(4)).eval()
    found = measure_stream(method, SleepyHead(0.001), *stream(8), seconds=2.0, rounds=2)
    assert found.latencies == pytest.approx([0.031, 0.003, 0.003, 0.003] * 4)
    shares = {0.5: 0.003, 0.7: 0.003, 0.95: 0.031, 1.0: 0.031}  # a quarter are key frames
    assert {share: found.latency(share) for share in shares} == pytest.approx(shares)


@pytest.mark.parametrize("length", [10, 3])
def test_every_l_sees_whole_intervals(length: int) -> None:
    """A round of 12 frames holds three intervals of 4 and two of 5, whose last frames are left."""
    features, flow = SleepyFeatures(0.001), SleepyFlow()
    method = FeatureFlow(features, flow, Fixed(4)).eval()
    found = measure_streams(
        method, SleepyHead(), *stream(length), intervals=(4, 5, 12), seconds=2, rounds=2
    )
    # Warm-up: three frames of each (one key frame at every l); then two rounds.
    assert features.calls == (3 + 1 + 1 + 1) + 2 * (12 + 3 + 2 + 1)
    assert flow.calls == (0 + 2 + 2 + 2) + 2 * (0 + 9 + 8 + 11)
    assert {interval: len(at.latencies) for interval, at in found.at.items()} == {
        4: 2 * 12,
        5: 2 * 10,
        12: 2 * 12,
    }
    assert method.key_frames.interval == 4


def test_all_l_are_measured_in_the_same_rounds() -> None:
    method = FeatureFlow(SleepyFeatures(0.02), SleepyFlow(0.004), Fixed(4)).eval()
    found = measure_streams(
        method, SleepyHead(0.001), *stream(20), intervals=(1, 2, 5, 10), seconds=3.0
    )
    for interval, at in found.at.items():
        assert interval is not None
        assert at.speedup == pytest.approx(speedup_eq7(interval, 5 / 21))
        assert at.fps == pytest.approx(at.speedup / 0.021)
        assert at.spread == pytest.approx(0)
        assert not at.doubt
        assert ("F" in at.costs) is (interval > 1)
    assert {name: found.costs[name] for name in ("N_feat", "F", "post")} == pytest.approx(
        {"N_feat": 0.02, "F": 0.004, "post": 0.001}
    )


class Told(Adaptive):
    """The content changes where the frames' mean does."""

    def change(self, frames: Tensor, keys: Tensor, flow: Flow) -> Tensor:
        return (frames - keys).abs().mean((1, 2, 3))


def told(interval: int) -> tuple[FeatureFlow, Tensor]:
    """Return a method and 15 frames, of which at l = 5 five are key frames: 0, 3, 8, 10, 12.

    The flow is asked on all but frame 0 (the first one) and 8 (of the age that l allows).
    """
    values = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 2, 2, 0, 0, 0.0])
    frames = values.view(1, -1, 1, 1, 1).expand(1, -1, 3, *SIZE).contiguous()
    schedule = Told(interval=interval, threshold=0.5, times_age=False)
    return FeatureFlow(SleepyFeatures(0.02), SleepyFlow(0.003), schedule).eval(), frames


def test_eq7_of_an_adaptive_schedule_counts_what_really_runs() -> None:
    method, frames = told(5)
    found = measure_streams(
        method, SleepyHead(0.001), frames, torch.tensor([SIZE]), intervals=(1, 5), seconds=2.0
    )
    runs = {"N_feat": 5 / 15, "F": 13 / 15, "W": 10 / 15, "tail": 1, "N_task": 1, "post": 1}
    assert found.at[5].runs == pytest.approx(runs)
    assert set(found.at[1].runs) == {"N_feat", "tail", "N_task", "post"}
    costs = PartCosts(found.costs)
    # Per frame 21 ms; here five times 20 ms, 13 times 3 ms and 15 times 1 ms in 15 frames.
    assert costs.speedup_of(found.at[5].runs) == pytest.approx(15 * 21 / (100 + 39 + 15))
    assert costs.speedup_of(found.at[1].runs) == pytest.approx(1)
    assert found.at[5].speedup == pytest.approx(costs.speedup_of(found.at[5].runs))
    # By key and other frames: of the five key frames three had asked the flow.
    share, on_key, on_others = 5 / 15, (20 + 3 * 3 / 5 + 1) / 21, (3 + 1) / 21
    expected = 1 / (share * on_key + (1 - share) * on_others)
    assert costs.speedup_of(found.at[5].runs) == pytest.approx(expected)
    assert costs.speedup(5) > 1.3 * expected  # by the ceiling


def test_eq7_of_a_fixed_schedule_is_that_of_its_share() -> None:
    costs = PartCosts({"N_feat": 80.0, "F": 8.0, "W": 1.0, "N_task": 5.0, "post": 6.0})
    runs = {"N_feat": 0.1, "F": 0.9, "W": 0.9, "N_task": 1.0, "post": 1.0}
    assert costs.speedup_of(runs) == pytest.approx(costs.speedup(10))
    with pytest.raises(ValueError, match="need the cost of OFF"):
        costs.speedup_of(runs | {"OFF": 1.0})


def test_every_part_is_measured_though_all_frames_would_be_key_frames() -> None:
    method, frames = told(5)
    frames = torch.rand_like(frames) * 10 + torch.arange(15).view(1, -1, 1, 1, 1) * 100
    for costs in (
        part_flops(method, SleepyHead(), frames, torch.tensor([SIZE])),
        part_seconds(method, SleepyHead(), frames, torch.tensor([SIZE]), seconds=0.1),
    ):
        assert {"N_feat", "F", "W"} < set(costs.costs)
    assert isinstance(method.key_frames, Told)


def test_the_speedup_is_the_median_of_the_rounds_ratios() -> None:
    """Not the ratio of medians: a round in which both sides are slow says what the others say."""
    found = StreamSpeed((1.0, 4.0, 3.0), (2.0, 8.0, 3.0), interval=2)
    assert found.speedup == 2  # of 2, 2, 1
    assert found.spread == pytest.approx((2.0 - 1.5) / 2.0)
    assert found.fps == pytest.approx(1 / 3)
    alone = StreamSpeed((1.0, 1.0, 2.0), (1.0, 1.0, 2.0))
    assert alone.spread == pytest.approx(0.5)  # of the seconds: there are no ratios
    assert StreamSpeed((1.0,), (1.5,), interval=2).spread == 0


@pytest.mark.parametrize(
    ("own", "per_frame", "interval", "said"),
    [
        ([1.0] * 3, [6.87] * 3, 2, "s = 6.87 is more than l = 2 can give"),
        ([1.0, 1.0, 1.0, 1.0], [1.0, 1.5, 1.5, 2.0], 5, ""),  # 17 % apart
        ([1.0, 1.0, 1.0, 1.0], [1.0, 1.2, 1.8, 2.0], 5, "the rounds lie 47 % apart"),
        ([1.0] * 3, [2.03] * 3, 2, ""),  # of a method that costs nothing between key frames
        ([1.0, 2.0], [1.0, 2.0], None, "the rounds lie 33 % apart"),
    ],
)
def test_what_cannot_be_or_is_not_to_be_relied_on_is_said(
    own: list[float], per_frame: list[float], interval: int | None, said: str
) -> None:
    assert StreamSpeed(tuple(own), tuple(per_frame), interval).doubt == said


def test_a_change_of_pace_hits_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that gets slower and slower leaves the speedup as it is."""
    now = 0.0

    def work(amount: float) -> None:
        nonlocal now
        now += amount * (1 + now)  # the later, the slower

    monkeypatch.setattr(time, "sleep", work)
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    features, flow = SleepyFeatures(0.01), SleepyFlow(0.002)
    method = FeatureFlow(features, flow, Fixed(10)).eval()
    found = measure_stream(method, SleepyHead(), *stream(40), seconds=9, rounds=4)
    assert now > 0.7  # 1.7 times as slow in the end
    assert found.speedup == pytest.approx(speedup_eq7(10, 0.2), rel=0.05)


def test_time_is_kept_to() -> None:
    method = FeatureFlow(SleepyFeatures(0.02), SleepyFlow(0.01), Fixed(2)).eval()
    begin = time.perf_counter()
    measure_stream(method, SleepyHead(), *stream(40), seconds=0.4)
    assert time.perf_counter() - begin < 0.4 + 0.2  # the warm-up takes 0.11, a round 0.28


def test_per_frame_and_l_1_are_their_own_baseline() -> None:
    features = SleepyFeatures(0.002)
    assert measure_stream(PerFrame(features), SleepyHead(), *stream(), seconds=0.1).speedup == 1
    method = FeatureFlow(features, SleepyFlow(), Fixed(1)).eval()
    assert measure_stream(method, SleepyHead(), *stream(), seconds=0.1).speedup == 1


def test_interval_is_set_for_the_block_only() -> None:
    method = FeatureFlow(SleepyFeatures(), SleepyFlow(), Fixed(5)).eval()
    with key_frame_interval(method, 2):
        assert method.key_frames.interval == 2
    assert method.key_frames.interval == 5
    with pytest.raises(ValueError, match="PerFrame has no key frames"):
        key_frame_interval(PerFrame(SleepyFeatures()), 2).__enter__()
