"""Measure on the test stream what the method costs, to be reported beside the accuracy."""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from flowfeat.batches import SegmentData, VideoBatch
from flowfeat.metering import PARTS
from flowfeat.modality_speed import speeds_beside_flow
from flowfeat.reproduction.machine import load, load_word
from flowfeat.speed import PartCosts, key_frame_interval, non_key_parts, part_flops
from flowfeat.stream_speed import Speeds, StreamSpeed, measure_streams
from flowfeat.tasks.recognition import RecognitionTask
from flowfeat.tasks.video_task import VideoTask

log = logging.getLogger(__name__)

ROUNDS = 3
"""At least: the spread of fewer says nothing."""


class SpeedMonitor(pl.Callback):
    """Give FLOPs and times of the parts, r's consequences by Eq. 7, and s measured on real frames.

    During a test it keeps the longest run of consecutive frames of one video, ready for the network
    and on its device; at the end it streams them at every l that ``measure_next`` was asked for, in
    rounds beside the per-frame network. Where a figure cannot be (s above l) or the rounds lie too
    far apart, it measures again, and marks what remains so. The figures, without decoding and
    resizing, with post-processing:

    * ``fps``: frames per second of the method;
    * ``ms_frame_p50``, ``ms_frame_p95``, ``ms_frame_max``: latency of single frames, which key
      frames make uneven;
    * ``ms_N_feat``, ``ms_F``, ``ms_W``, ``ms_N_task``, ``ms_post``, ``gflops_...``: one call of a
      part, median time and operations (2 per multiply-add), as far as the method runs it;
    * with key frames: ``speedup`` over the per-frame network, and ``speedup_eq7_time``,
      ``speedup_eq7_flops``: what Eq. 5 and 7 promise;
    * ``speed_spread``: how far the rounds lie apart; ``speed_suspect``: 1 where the speed is not to
      be relied on, else 0;
    * ``speed_load``, ``speed_repeats``: of the whole measurement, the processes that wanted to run,
      and how often it was repeated.

    In recognition a frame is a segment, and what its modality computes (differences, all of its
    flow) counts: ``ms_modality``. Where a method adds to RGB, ``speed_over_rgb`` is its speed over
    that of the feature network alone, and ``speed_over_rgb_flow`` over that of two networks on RGB
    and flow, the flow computed.

    Only the first process measures; all get its figures.

    Args:
        frames: Frames kept, at most.
        seconds: Time to spend, repetitions included; three rounds always run.
        repeats: Measure so often again, at most.

    Raises:
        ValueError: Fewer than 2 frames, no time, a negative number of repetitions.
    """

    def __init__(self, frames: int = 40, seconds: float = 60.0, repeats: int = 3) -> None:
        if frames < 2:
            raise ValueError(f"callbacks.speed.frames={frames}: expected at least 2")
        if seconds <= 0:
            raise ValueError(f"callbacks.speed.seconds={seconds}: expected more than 0")
        if repeats < 0:
            raise ValueError(f"callbacks.speed.repeats={repeats}: expected at least 0")
        self.frames = frames
        self.seconds = seconds
        self.repeats = repeats
        self.figures: dict[str, float] = {}
        self._intervals: Sequence[int] | None = None  # None: the test is not one to measure in
        self._longest = _Run()
        self._current = _Run()

    def measure_next(self, intervals: Sequence[int]) -> None:
        """Measure at the end of the next test, at these l; without key frames at none."""
        self._intervals = intervals

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget the last test's frames and figures."""
        self._longest, self._current, self.figures = _Run(), _Run(), {}

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: VideoBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep frames until there are enough of one video."""
        if not isinstance(pl_module, VideoTask) or not trainer.is_global_zero:
            return
        if self._intervals is None or dataloader_idx or len(self._longest) >= self.frames:
            return
        if bool(batch["starts"][0]) or not self._current.continues(batch):
            self._current = _Run()
        self._current.add(batch, self.frames)
        if len(self._current) > len(self._longest):
            self._longest = self._current

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure on the kept frames."""
        intervals, self._intervals = self._intervals, None
        if intervals is None or not isinstance(pl_module, VideoTask):
            return
        figures: dict[str, float] = {}
        if trainer.is_global_zero and len(self._longest):
            with trainer.precision_plugin.test_step_context():
                clip, data = self._longest.clip(), getattr(trainer, "datamodule", None)
                figures = self.measure(pl_module, *clip, intervals)
                if isinstance(data, SegmentData) and isinstance(pl_module, RecognitionTask):
                    figures |= self._of_segments(pl_module, data, clip, figures)
        self._longest, self._current = _Run(), _Run()
        self.figures = trainer.strategy.broadcast(figures)

    def measure(
        self, task: VideoTask, frames: Tensor, sizes: Tensor, intervals: Sequence[int]
    ) -> dict[str, float]:
        """Return the figures of a task on a clip (1, T, 3, H, W); its modules are in eval mode."""
        before = load()
        speeds, repeats = self._measure_again(task, frames, sizes, intervals)
        stream = (task.temporal, task.head, frames, sizes)
        if task.temporal.key_frames is None:
            flops = part_flops(*stream)
        else:
            with key_frame_interval(task.temporal, max(intervals)):  # so that every part runs
                flops = part_flops(*stream)
        seconds = PartCosts(speeds.costs, non_key_parts(task.temporal))
        figures = {"speed_repeats": float(repeats)}
        loads = [value for value in (before, load()) if value is not None]
        if loads:
            figures["speed_load"] = max(loads)
        for interval, speed in speeds.at.items():
            suffix = "" if interval is None else f"_l{interval}"
            values = _stream_figures(speed) | _part_figures(speed, flops, seconds)
            figures |= {name + suffix: value for name, value in values.items()}
        return figures

    def _measure_again(
        self, task: VideoTask, frames: Tensor, sizes: Tensor, intervals: Sequence[int]
    ) -> tuple[Speeds, int]:
        """Measure until nothing is doubtful or the time is over; return the calmest, and repeats.

        The calmest has the fewest doubtful figures, and of those the least spread.
        """
        stream = (task.temporal, task.head, frames, sizes, intervals)
        seconds = 0.9 * self.seconds / (self.repeats + 1)  # the rest is for warming up and counting
        begin = time.perf_counter()
        measured: list[Speeds] = []
        while True:
            where = "" if task.temporal.key_frames is None else f" at l = {_listed(intervals)}"
            log.info(f"measuring the speed{where} (load {load_word()})")
            measured.append(measure_streams(*stream, seconds=seconds, least=ROUNDS))
            done, spent = len(measured), time.perf_counter() - begin
            calm = not _doubtful(measured[-1])
            if calm or done > self.repeats or spent * (done + 1) / done > self.seconds:
                return min(measured, key=_restlessness), done - 1

    def _of_segments(
        self,
        task: RecognitionTask,
        data: SegmentData,
        clip: tuple[Tensor, Tensor],
        figures: Mapping[str, float],
    ) -> dict[str, float]:
        """Add what the input's modality costs to the figures, or compare RGB with flow."""
        cost = 1e3 * data.segment_seconds(data.modality)  # ms
        if cost:
            slower = {name: v + cost for name, v in figures.items() if name.startswith("ms_frame")}
            fps = {
                name: 1e3 / (1e3 / v + cost)
                for name, v in figures.items()
                if name.startswith("fps")
            }
            return {**slower, **fps, "ms_modality": cost}
        if len(task.head.levels) == 1 or task.temporal.key_frames is not None:
            return {}
        flow, seconds = data.flow, data.segment_seconds(data.flow)
        return speeds_beside_flow(task, *clip, flow.channels, seconds, 0.1 * self.seconds)


def _listed(intervals: Sequence[int]) -> str:
    return ", ".join(map(str, intervals))


def _doubtful(speeds: Speeds) -> list[StreamSpeed]:
    return [speed for speed in speeds.at.values() if speed.doubt]


def _restlessness(speeds: Speeds) -> tuple[int, float]:
    return len(_doubtful(speeds)), max(speed.spread for speed in speeds.at.values())


def _stream_figures(speed: StreamSpeed) -> dict[str, float]:
    figures = {"fps": speed.fps}
    if speed.interval is not None:
        figures["speedup"] = speed.speedup
    shares = {"p50": 0.5, "p95": 0.95, "max": 1.0}
    figures |= {f"ms_frame_{name}": 1e3 * speed.latency(s) for name, s in shares.items()}
    return figures | {"speed_spread": speed.spread, "speed_suspect": float(bool(speed.doubt))}


def _part_figures(speed: StreamSpeed, flops: PartCosts, seconds: PartCosts) -> dict[str, float]:
    """Return what the parts cost that run at this l, and s of Eq. 7 where there is a flow."""
    figures = {}
    if speed.interval is not None:
        if "F" in seconds.costs:
            figures["speedup_eq7_time"] = seconds.speedup_of(speed.runs)
        if flops.costs.get("F"):  # hand-made flow has no countable operations
            figures["speedup_eq7_flops"] = flops.speedup_of(speed.runs)
    shown = [part for part in PARTS if flops.costs.get(part) or part in ("F", "post")]
    shown = [part for part in shown if part in speed.costs]
    figures |= {f"ms_{part}": 1e3 * speed.costs[part] for part in shown}
    return figures | {
        f"gflops_{part}": flops.costs[part] / 1e9 for part in shown if flops.costs.get(part)
    }


class _Run:
    """Consecutive frames of one video."""

    def __init__(self) -> None:
        self.chunks: list[Tensor] = []  # each (1, T, 3, H, W)
        self.sizes: Tensor | None = None  # (1, 2)
        self.snippet = ""
        self.next = 0  # number of the frame that would continue the run

    def __len__(self) -> int:
        return sum(chunk.shape[1] for chunk in self.chunks)

    def continues(self, batch: VideoBatch) -> bool:
        """Say whether a batch's first stream goes on where this run ends."""
        if not self.chunks:
            return True
        same = batch["snippets"][0] == self.snippet and int(batch["indices"][0, 0]) == self.next
        return same and batch["frames"].shape[2:] == self.chunks[0].shape[2:]

    def add(self, batch: VideoBatch, limit: int) -> None:
        """Append a batch's first stream, up to so many frames in all."""
        self.chunks.append(batch["frames"][:1, : limit - len(self)].detach())
        self.sizes = batch["sizes"][:1]
        self.snippet = batch["snippets"][0]
        self.next = int(batch["indices"][0, -1]) + 1

    def clip(self) -> tuple[Tensor, Tensor]:
        """Return frames (1, T, 3, H, W) and sizes (1, 2)."""
        if self.sizes is None:
            raise ValueError("no frames were kept")
        return torch.cat(self.chunks, dim=1), self.sizes
