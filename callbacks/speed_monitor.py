"""Measure on the test stream what the method costs, and log it beside the accuracy."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from flowfeat.batches import VideoBatch
from flowfeat.metering import PARTS
from flowfeat.speed import measure_stream, part_flops, part_seconds
from flowfeat.tasks.video_task import VideoTask


class SpeedMonitor(pl.Callback):
    """Log FLOPs and times of the parts, r's consequences by Eq. 7, and s measured on real frames.

    During a test it keeps the longest run of consecutive frames of one video, ready for the network
    and on its device; at the end it streams them. The figures, without decoding and resizing, with
    post-processing:

    * ``fps``: frames per second of the method;
    * ``ms_frame_p50``, ``ms_frame_p95``, ``ms_frame_max``: latency of single frames, which key
      frames make uneven;
    * ``ms_N_feat``, ``ms_F``, ``ms_W``, ``ms_N_task``, ``ms_post``, ``gflops_...``: one call of a
      part, median time and operations (2 per multiply-add), as far as the method has it;
    * with key frames: ``speedup`` over the same method at l = 1 on the same frames, in turns, and
      ``speedup_eq7_time``, ``speedup_eq7_flops``: what Eq. 5 and 7 promise.

    Only the first process measures; all log its figures.

    Args:
        frames: Frames kept, at most.
        seconds: Time to spend per test; a turn of l frames always runs.

    Raises:
        ValueError: Fewer than 2 frames, or no time.
    """

    def __init__(self, frames: int = 40, seconds: float = 5.0) -> None:
        if frames < 2:
            raise ValueError(f"callbacks.speed.frames={frames}: expected at least 2")
        if seconds <= 0:
            raise ValueError(f"callbacks.speed.seconds={seconds}: expected more than 0")
        self.frames = frames
        self.seconds = seconds
        self._longest = _Run()
        self._current = _Run()

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget the last test's frames."""
        self._longest, self._current = _Run(), _Run()

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
        if dataloader_idx or len(self._longest) >= self.frames:
            return
        if bool(batch["starts"][0]) or not self._current.continues(batch):
            self._current = _Run()
        self._current.add(batch, self.frames)
        if len(self._current) > len(self._longest):
            self._longest = self._current

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure on the kept frames and log."""
        if not isinstance(pl_module, VideoTask):
            return
        figures: dict[str, float] = {}
        if trainer.is_global_zero and len(self._longest):
            with trainer.precision_plugin.test_step_context():
                figures = self.measure(pl_module, *self._longest.clip())
        self._longest, self._current = _Run(), _Run()
        for name, value in trainer.strategy.broadcast(figures).items():
            pl_module.log(name, value, sync_dist=False)

    def measure(self, task: VideoTask, frames: Tensor, sizes: Tensor) -> dict[str, float]:
        """Return the figures of a task on a clip (1, T, 3, H, W); its modules are in eval mode."""
        stream = (task.temporal, task.head, frames, sizes)
        speed = measure_stream(*stream, seconds=0.75 * self.seconds)
        flops = part_flops(*stream)
        seconds = part_seconds(*stream, seconds=0.25 * self.seconds)
        figures = {"fps": speed.fps}
        shares = {"p50": 0.5, "p95": 0.95, "max": 1.0}
        figures |= {f"ms_frame_{name}": 1e3 * speed.latency(s) for name, s in shares.items()}
        if task.temporal.key_frames is not None:
            interval = task.temporal.key_frames.interval
            figures["speedup"] = speed.speedup
            if interval == 1 or "F" in seconds.costs:
                figures["speedup_eq7_time"] = seconds.speedup(interval)
            if interval == 1 or flops.costs.get("F"):  # hand-made flow has no countable operations
                figures["speedup_eq7_flops"] = flops.speedup(interval)
        shown = [part for part in PARTS if flops.costs.get(part) or part in ("F", "post")]
        figures |= {f"ms_{p}": 1e3 * seconds.costs[p] for p in shown if p in seconds.costs}
        figures |= {f"gflops_{p}": flops.costs[p] / 1e9 for p in shown if flops.costs.get(p)}
        return figures


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
