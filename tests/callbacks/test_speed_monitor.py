"""The monitor measures the right frames, and its figures are those of networks with known costs."""

import re
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric

from callbacks.speed_monitor import SpeedMonitor
from flowfeat.evaluation import evaluate
from flowfeat.features.first_layer import copy_for_channels
from flowfeat.features.timm_features import TimmFeatures
from flowfeat.flow.opencv_flow import DIS
from flowfeat.heads.recognition import Recognition
from flowfeat.interfaces import (
    FeatureNetwork,
    Features,
    Flow,
    FlowNetwork,
    Output,
    TaskHead,
    TemporalModule,
)
from flowfeat.key_frames.schedules import Fixed
from flowfeat.metering import count_flops
from flowfeat.optimization import Optimization
from flowfeat.speed import speedup_eq7
from flowfeat.stream_speed import Speeds, StreamSpeed
from flowfeat.tasks.recognition import RecognitionTask
from flowfeat.tasks.video_task import VideoTask
from flowfeat.temporal.feature_flow import FeatureFlow
from flowfeat.temporal.hold import Hold
from flowfeat.temporal.per_frame import PerFrame

SIZE = (16, 24)  # 2 x 3 cells

pytestmark = pytest.mark.usefixtures("clock")


class Sleepy(FeatureNetwork):
    channels, strides = (6,), (8,)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 8, stride=8)

    def trunk(self, frames: Tensor) -> Features:
        time.sleep(0.01)
        return (self.conv(frames),)


class SleepyFlow(FlowNetwork):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 2, 8, stride=8)

    def pyramid(self, current: Tensor, key: Tensor) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def forward(self, current: Tensor, key: Tensor) -> Flow:
        time.sleep(0.002)
        return Flow(self.conv(torch.cat((current, key), 1)), None)


class SleepyDIS(DIS):
    def forward(self, current: Tensor, key: Tensor) -> Flow:
        time.sleep(0.005)
        return super().forward(current, key)


class Head(TaskHead):
    def forward(self, features: Features, frames: Tensor) -> Tensor:
        return features[-1]

    def postprocess(self, raw: Tensor, sizes: Tensor) -> Any:
        return raw

    def loss(self, raw: Any, labels: Any) -> dict[str, Tensor]:
        raise NotImplementedError


class Task(VideoTask):
    monitor = "score"

    def __init__(self, temporal: Any) -> None:
        super().__init__(temporal, Head(), ("a",), OPTIMIZATION)
        self.metrics = nn.ModuleDict({"score": MeanMetric()})

    def labels(self, batch: Any) -> Any:
        raise NotImplementedError

    def truth(self, batch: Any, step: int) -> Any:
        return None

    def score(self, predictions: Any, truth: Any) -> None:
        self.metrics["score"].update(1.0)  # type: ignore[operator]


OPTIMIZATION = Optimization(
    lambda parameters: torch.optim.SGD(parameters, 0.1), lambda step, total: 1.0
)


def chunk(snippet: str, start: int, length: int) -> dict[str, Any]:
    """Frames whose values are 100 x the snippet's number + the frame's number."""
    numbers = torch.arange(start, start + length)
    values = 100.0 * (ord(snippet) - ord("a")) + numbers
    return {
        "frames": values.view(1, -1, 1, 1, 1).expand(1, length, 3, *SIZE).contiguous(),
        "sizes": torch.tensor([SIZE]),
        "indices": numbers[None],
        "targets": torch.arange(length)[None],
        "starts": torch.tensor([start == 0]),
        "snippets": [snippet],
    }


class Chunks(pl.LightningDataModule):
    def __init__(self, *chunks: dict[str, Any]) -> None:
        super().__init__()
        self.chunks = chunks

    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(list(self.chunks), batch_size=None)  # type: ignore[arg-type]


def method(interval: int = 4) -> FeatureFlow:
    return FeatureFlow(Sleepy(), SleepyFlow(), Fixed(interval))


@pytest.fixture
def trainer(tmp_path: Any) -> Callable[[SpeedMonitor], pl.Trainer]:
    def build(monitor: SpeedMonitor) -> pl.Trainer:
        return pl.Trainer(
            default_root_dir=tmp_path,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            callbacks=[monitor],
        )

    return build


STREAM = [chunk("a", 0, 3), chunk("b", 0, 4), chunk("b", 4, 4), chunk("c", 0, 2)]


def test_figures_are_reported_for_every_l(trainer: Any) -> None:
    monitor = SpeedMonitor(frames=8, seconds=1.2)
    report = evaluate(trainer(monitor), Task(method()), Chunks(*STREAM), intervals=(1, 4))
    assert all(re.fullmatch(r"[A-Za-z0-9_]+", key) for key in report)
    cells = 6
    assert report["gflops_N_feat_l4"] == pytest.approx(2e-9 * cells * 6 * 3 * 64)
    assert report["gflops_F_l4"] == pytest.approx(2e-9 * cells * 2 * 6 * 64)
    assert report["gflops_W_l4"] == pytest.approx(8e-9 * cells * 6)
    expected = {
        "ms_N_feat": 10,
        "ms_F": 2,
        "ms_frame_p50": 2,
        "ms_frame_p95": 10,
        "ms_frame_max": 10,
    }
    assert {k: report[f"{k}_l4"] for k in expected} == pytest.approx(expected)
    eq5 = (2 * cells * 2 * 6 * 64 + 8 * cells * 6) / (2 * cells * 6 * 3 * 64)
    assert report["speedup_eq7_flops_l4"] == pytest.approx(speedup_eq7(4, eq5))
    assert report["speedup_eq7_time_l4"] == pytest.approx(speedup_eq7(4, 0.2))
    assert report["speedup_l4"] == pytest.approx(speedup_eq7(4, 0.2))
    for name in ("speedup_l1", "speedup_eq7_time_l1", "speedup_eq7_flops_l1"):
        assert report[name] == 1
    assert report["fps_l4"] == pytest.approx(report["fps_l1"] * report["speedup_l4"])
    assert "gflops_F_l1" not in report
    assert not any("fps_copy" in key for key in report)
    assert report["score_l4"] == 1


def test_what_cannot_be_counted_has_time_only(trainer: Any) -> None:
    """Hand-made flow costs no operations that a counter sees, so none are claimed."""
    sff = FeatureFlow(Sleepy(), SleepyDIS((6,), (8,)), Fixed(4))
    report = evaluate(trainer(SpeedMonitor(8, 0.6)), Task(sff), Chunks(*STREAM), copy=False)
    assert report["ms_F_l4"] == pytest.approx(5)
    assert report["speedup_eq7_time_l4"] == pytest.approx(speedup_eq7(4, 0.5))
    assert not {"gflops_F_l4", "speedup_eq7_flops_l4"} & set(report)
    assert report["gflops_W_l4"] > 0


def test_holding_costs_nothing_between_key_frames(trainer: Any) -> None:
    hold = Task(Hold(Sleepy(), Fixed(4)))
    report = evaluate(trainer(SpeedMonitor(8, 1.2)), hold, Chunks(*STREAM))
    assert report["speedup_l4"] == pytest.approx(4)
    assert not [key for key in report if "eq7" in key or "_F_" in key or "copy" in key]


def test_a_method_without_key_frames_has_no_speedup(trainer: Any) -> None:
    report = evaluate(trainer(SpeedMonitor(8, 0.2)), Task(PerFrame(Sleepy())), Chunks(*STREAM))
    assert report["fps"] == pytest.approx(100)  # N_feat sleeps for 10 ms
    assert not [key for key in report if key.startswith("speedup")]


class SleepyOff(PerFrame):
    """Two levels, of which the second takes 5 ms more than the feature network."""

    def __init__(self) -> None:
        super().__init__(Sleepy())
        self.channels, self.strides = (6, 6), (8, 8)

    def step(self, frames: Tensor, starts: Tensor, state: Any | None) -> tuple[Output, None]:
        output, _ = super().step(frames, starts, state)
        time.sleep(0.005)
        valid = torch.ones(len(frames), 2, dtype=torch.bool)
        return output._replace(features=output.features * 2, valid=valid), None


class Segments(Chunks):
    """Clips whose modality takes so many seconds a segment, and whose flow takes 0.025."""

    def __init__(self, seconds: float) -> None:
        actions = {"actions": torch.tensor([0]), "repeats": torch.zeros(1, 4, dtype=torch.bool)}
        super().__init__(chunk("a", 0, 4) | actions)
        self.modality, self.flow = SimpleNamespace(channels=3), SimpleNamespace(channels=10)
        self.seconds = seconds

    def segment_seconds(self, modality: Any, video: Any = None) -> float:
        return 0.025 if modality is self.flow else self.seconds


def recognition(temporal: TemporalModule, levels: int) -> RecognitionTask:
    head = Recognition(temporal.channels, temporal.strides, 2, motion_levels=levels - 1)
    return RecognitionTask(temporal, head, ("a", "b"), OPTIMIZATION)


def test_fps_counts_what_the_modality_computes(trainer: Any) -> None:
    """N_feat takes 10 ms and the flow of a segment 15: 40 segments a second, not 100."""
    task = recognition(PerFrame(Sleepy()), 1)
    report = evaluate(trainer(SpeedMonitor(8, 0.2)), task, Segments(0.015))
    expected = {"fps": 40, "ms_modality": 15, "ms_frame_p50": 25, "ms_frame_max": 25}
    assert {key: report[key] for key in expected} == pytest.approx(expected)
    assert report["ms_N_feat"] == pytest.approx(10)
    plain = evaluate(trainer(SpeedMonitor(8, 0.2)), task, Segments(0.0))
    assert plain["fps"] == pytest.approx(100)
    assert not {"ms_modality", "speed_over_rgb", "speed_over_rgb_flow"} & set(plain)


def test_off_on_rgb_is_compared_with_rgb_and_with_flow(trainer: Any) -> None:
    """15 ms of RGB and OFF; 10 of RGB alone; 10 of RGB, 10 of a network on flow, 25 of the flow."""
    task = recognition(SleepyOff(), 2)
    report = evaluate(trainer(SpeedMonitor(8, 2.0)), task, Segments(0.0))
    assert report["speed_over_rgb"] == pytest.approx(10 / 15)
    assert report["speed_over_rgb_flow"] == pytest.approx((10 + 10 + 25) / 15)


def test_the_network_on_flow_is_the_rgb_one_with_a_wider_first_layer() -> None:
    features = TimmFeatures("test_resnet", reduce_to=8, norm="group").eval()
    wide = copy_for_channels(features, 10)
    frames, flow = torch.rand(1, 3, 64, 96), torch.rand(1, 10, 64, 96)
    ours, theirs = (
        count_flops(lambda n=n, f=f: n(f)) for n, f in ((features, frames), (wide, flow))
    )  # type: ignore[misc]
    first = next(m for m in features.modules() if isinstance(m, nn.Conv2d))
    cells = 64 * 96 // first.stride[0] ** 2
    kernel = 2 * first.kernel_size[0] ** 2 * first.out_channels
    assert theirs - ours == cells * kernel * 7
    assert features(frames)[-1].shape == wide(flow)[-1].shape


class Kept(SpeedMonitor):
    """Notes the clip instead of measuring it."""

    clip: Tensor | None = None

    def measure(
        self, task: VideoTask, frames: Tensor, sizes: Tensor, intervals: Sequence[int]
    ) -> dict[str, float]:
        self.clip = frames
        return {"fps": 7.0}


def kept(trainer: Any, frames: int, *chunks: dict[str, Any]) -> list[float]:
    monitor = Kept(frames)
    monitor.measure_next([4])
    trainer(monitor).test(Task(method()), datamodule=Chunks(*chunks), verbose=False)
    assert monitor.clip is not None
    return monitor.clip[0, :, 0, 0, 0].tolist()


def test_the_longest_run_of_one_video_is_measured(trainer: Any) -> None:
    assert kept(trainer, 40, *STREAM) == [100 + i for i in range(8)]


def test_no_more_frames_are_kept_than_asked_for(trainer: Any) -> None:
    assert kept(trainer, 6, *STREAM) == [100 + i for i in range(6)]
    assert kept(trainer, 2, *STREAM) == [0, 1]


def test_gaps_and_new_starts_break_a_run(trainer: Any) -> None:
    gap = [chunk("a", 0, 2), chunk("a", 4, 2), chunk("a", 6, 1)]
    assert kept(trainer, 40, *gap) == [4, 5, 6]
    twice = [chunk("a", 0, 3), chunk("a", 0, 2), chunk("a", 2, 2)]
    assert kept(trainer, 40, *twice) == [0, 1, 2, 3]


def test_other_modules_are_passed_over(trainer: Any) -> None:
    class Other(pl.LightningModule):
        def test_step(self, batch: Any, index: int) -> None:
            self.log("x", 1.0)

    (result,) = trainer(SpeedMonitor()).test(Other(), datamodule=Chunks(*STREAM), verbose=False)
    assert result == {"x": 1.0}


def test_other_ranks_have_what_the_first_one_measured() -> None:
    task = Task(method())
    rank1: Any = SimpleNamespace(
        is_global_zero=False, strategy=SimpleNamespace(broadcast=lambda mine: {"fps": 7.0, **mine})
    )
    monitor = Kept()
    monitor.measure_next([4])
    monitor.on_test_epoch_start(rank1, task)
    monitor.on_test_batch_end(rank1, task, None, STREAM[0], 0)  # type: ignore[arg-type]
    monitor.on_test_epoch_end(rank1, task)
    assert monitor.clip is None
    assert monitor.figures == {"fps": 7.0}


def test_only_the_test_that_is_asked_for_is_measured(trainer: Any) -> None:
    """One of five: neither the other l, nor copied features, nor a test of somebody else's."""
    monitor = Kept(8)
    tester = trainer(monitor)
    tester.test(Task(method()), datamodule=Chunks(*STREAM), verbose=False)
    assert monitor.clip is None
    assert monitor.figures == {}
    report = evaluate(tester, Task(method()), Chunks(*STREAM), intervals=(1, 2))
    assert monitor.clip is not None
    assert report["fps"] == 7.0
    assert "score_copy_l4" in report


class Restless(SpeedMonitor):
    """On a machine that is busy for so many measurements."""

    def __init__(self, busy: int, **settings: Any) -> None:
        super().__init__(8, **settings)
        self.busy, self.measured = busy, 0


@pytest.fixture
def restless(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Restless]:
    def build(busy: int, **settings: Any) -> Restless:
        monitor = Restless(busy, **settings)

        def measure(*stream: Any, seconds: float, least: int) -> Speeds:
            time.sleep(seconds)
            monitor.measured += 1
            noise = max(0, monitor.busy - monitor.measured + 1)  # less and less
            rounds = (1.0, 1.0 + noise, 1.0 + noise)
            runs = {"N_feat": 0.25, "F": 0.75}
            double = tuple(2 * r for r in rounds)
            speed = StreamSpeed((1.0,) * 3, double, 4, (1.0,) * 3, {}, runs)
            return Speeds({4: speed}, {"N_feat": 1.0, "F": 0.2})

        monkeypatch.setattr("callbacks.speed_monitor.measure_streams", measure)
        return monitor

    return build


@pytest.mark.parametrize(
    ("busy", "measured", "suspect"),
    [(0, 1, 0), (1, 2, 0), (3, 4, 0), (9, 4, 1)],
)
def test_doubtful_figures_are_measured_again_up_to_three_times(
    trainer: Any, restless: Any, busy: int, measured: int, suspect: int
) -> None:
    monitor = restless(busy)
    begin = time.perf_counter()
    report = evaluate(trainer(monitor), Task(method()), Chunks(*STREAM), copy=False)
    assert monitor.measured == measured
    assert report["speed_repeats"] == measured - 1
    assert report["speed_suspect_l4"] == suspect
    # Of a machine that stays busy, the calmest of four measurements.
    assert report["speedup_l4"] == pytest.approx(2 * (1 + busy - 3) if suspect else 2)
    assert (report["speed_spread_l4"] > 0.2) is bool(suspect)
    assert time.perf_counter() - begin < 60


def test_the_time_is_kept_to_with_repetitions(trainer: Any, restless: Any) -> None:
    monitor = restless(99, seconds=4.0, repeats=30)
    evaluate(trainer(monitor), Task(method()), Chunks(*STREAM), copy=False)
    assert 25 < monitor.measured <= 31
    assert time.perf_counter() < 4.0 + 0.5


@pytest.mark.parametrize(("frames", "seconds", "repeats"), [(1, 1.0, 3), (8, 0.0, 3), (8, 1.0, -1)])
def test_impossible_settings_are_refused(frames: int, seconds: float, repeats: int) -> None:
    with pytest.raises(ValueError, match=r"callbacks\.speed\."):
        SpeedMonitor(frames, seconds, repeats)
