"""Semantic segmentation of video: a class for every pixel, scored by one confusion matrix."""

import re
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from flowfeat.batches import SegmentationBatch
from flowfeat.drawing import draw_label_map, picture_of
from flowfeat.heads.segmentation import IGNORED
from flowfeat.interfaces import TaskHead, TemporalModule
from flowfeat.metrics.class_iou import ClassIoU
from flowfeat.metrics.label_consistency import LabelConsistency, Seen, seen
from flowfeat.optimization import Optimization
from flowfeat.results import results_of
from flowfeat.streaming import Result
from flowfeat.tasks.preview import Preview
from flowfeat.tasks.video_task import Step, VideoTask

_LEGEND = 240  # pixels of the shorter side from which a legend has room


class SegmentationTask(VideoTask):
    """Trains any temporal module with a segmentation head.

    Reports ``mIoU``, the mean over classes of TP / (TP + FP + FN) counted over all labelled pixels
    of the set at the labels' own resolution, and ``IoU_<class>``. As in the official evaluation of
    Cityscapes, a class that is neither in the truth nor predicted anywhere has no IoU and does not
    enter the mean; one that is predicted but never true has IoU 0 and does.

    Of whole streams it reports, unless ``consistency`` is off, how far labels stay the same along
    the flow: ``consistency_inside`` key-frame intervals, and ``consistency_across`` key frames.

    The primary protocol is that of the paper: the l pairs that end on each labelled frame.
    """

    monitor = "mIoU"
    protocol = "pairs"

    def __init__(
        self,
        temporal: TemporalModule,
        head: TaskHead,
        classes: tuple[str, ...],
        optimization: Optimization,
        consistency: bool = True,
    ) -> None:
        super().__init__(temporal, head, classes, optimization)
        if consistency:
            self.stream_metrics["consistency"] = LabelConsistency()
        self._seen: list[Seen] = []

    def make_metrics(self) -> nn.ModuleDict:
        return nn.ModuleDict({"mIoU": ClassIoU(len(self.classes), IGNORED)})

    def computed_metrics(self) -> dict[str, Tensor]:
        """Return ``mIoU`` and the IoU of every class that has one."""
        (metric,) = self._each_metric()
        per_class: Tensor = metric.compute()
        known = [n for n, value in enumerate(per_class.tolist()) if value == value]  # not NaN
        mean = per_class[known].mean() if known else per_class.new_zeros(())
        return {"mIoU": mean} | {score_name(self.classes[n]): per_class[n] for n in known}

    def is_score(self, name: str) -> bool:
        return super().is_score(name) or name in map(score_name, self.classes)

    def labels(self, batch: SegmentationBatch) -> list[Tensor]:
        return batch["label_maps"]

    def truth(self, batch: SegmentationBatch, step: int) -> list[Tensor | None]:
        targets = batch["targets"].tolist()
        return [
            batch["label_maps"][b * len(steps) + steps.index(step)] if step in steps else None
            for b, steps in enumerate(targets)
        ]

    def score(self, predictions: list[Tensor], truth: list[Tensor | None]) -> None:
        for found, expected in zip(predictions, truth, strict=True):
            if expected is None:
                continue
            sized = resize_labels(found, (expected.shape[0], expected.shape[1]))
            for metric in self._each_metric():
                metric.update(sized[None], expected[None])

    def follow(self, result: Result[Step]) -> None:
        for metric in self._each_stream_metric():
            now = list(map(seen, result.predictions, result.tag.frames))
            if len(self._seen) == len(now):
                steps = zip(now, self._seen, result.is_key.tolist(), strict=True)
                for step, start in zip(steps, result.tag.starts.tolist(), strict=True):
                    if not start:
                        metric.update(*step)
            self._seen = now

    def finish_following(self) -> None:
        self._seen = []

    @torch.no_grad()
    def preview(self, batch: SegmentationBatch) -> Preview:
        """Show a labelled frame (else the last one) from a key frame at most l - 1 before it."""
        clip, steps = batch["frames"][:1], batch["targets"][0].tolist()
        target = steps[-1] if steps else clip.shape[1] - 1
        schedule = self.temporal.key_frames
        first = 0 if schedule is None else max(0, target - schedule.interval + 1)
        clip, last = clip[:, first:], target - first
        is_key = torch.zeros(clip.shape[:2], dtype=torch.bool)
        is_key[:, 0] = True
        output = self.temporal(clip, is_key, torch.tensor([[last]]))
        found: Tensor = results_of(self.head, output, batch["sizes"][:1])[0]
        height, width = found.shape
        key, current = clip[0, 0, :, :height, :width], clip[0, last, :, :height, :width]
        displacement = self.temporal.motion(clip[:, last], clip[:, 0])
        picture = picture_of(current)
        expected = self.truth(batch, target)[0] if steps else None
        true = torch.full_like(found, IGNORED)
        if expected is not None:
            true = resize_labels(expected, (height, width))
        zoom = max(1, 384 // max(height, width))
        return Preview(
            key=key,
            current=current,
            displacement=None if displacement is None else displacement[0],
            predicted=draw_label_map(picture, self.label_map(found), self.classes, zoom=zoom),
            truth=draw_label_map(picture, self.label_map(true), self.classes, zoom=zoom),
            caption=f"{batch['snippets'][0]}: frame {int(batch['indices'][0, target])} "
            f"from {int(batch['indices'][0, first])}",
        )

    def to_original(self, predictions: Tensor, scale: Tensor) -> Tensor:
        """Return a label map of the original picture's size; scale (2,) is (sx, sy)."""
        wide, high = (
            round(side / factor)
            for side, factor in zip(predictions.shape[::-1], scale.tolist(), strict=True)
        )
        return resize_labels(predictions, (high, wide))

    def describe(self, predictions: Tensor, least: float) -> dict[str, Any]:
        """Return ``classes``: the share of the picture's pixels (0..1) by class, largest first."""
        counts = predictions.flatten().bincount(minlength=len(self.classes))
        shares = {
            self.classes[n]: round(int(counts[n]) / predictions.numel(), 4)
            for n in counts.argsort(descending=True, stable=True).tolist()
            if counts[n]
        }
        return {"classes": shares}

    def render(
        self, picture: Any, predictions: Tensor, is_key: bool | None, threshold: float
    ) -> Any:
        """Draw the label map over its picture (H, W, 3), for `predict`; nothing has a score."""
        legend = min(picture.shape[:2]) >= _LEGEND
        labels = self.label_map(predictions)
        return draw_label_map(picture, labels, self.classes, key=is_key, legend=legend)

    def label_map(self, predictions: Tensor) -> NDArray[np.uint8]:
        """Return a label map as an array (H, W) of labels, which `predict` saves as PNG."""
        return predictions.cpu().numpy().astype(np.uint8, copy=False)


def score_name(name: str) -> str:
    """Return the report's key for the IoU of a class, of letters, digits and _ only."""
    return "IoU_" + re.sub(r"[^A-Za-z0-9]+", "_", name)


def resize_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a label map (H, W) to (height, width): each pixel takes the label nearest to it."""
    if labels.shape == size:
        return labels
    axes = zip(labels.shape, size, strict=True)
    if (
        labels.device.type == "cpu"
        and labels.dtype == torch.uint8
        and all(_alike(*a) for a in axes)
    ):
        # OpenCV takes a quarter of the time.
        exact = cv2.INTER_NEAREST_EXACT
        return torch.from_numpy(cv2.resize(labels.numpy(), size[::-1], interpolation=exact))
    return _nearest(labels.float(), size).to(labels.dtype)


def _nearest(labels: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(labels[None, None], size=size, mode="nearest-exact")[0, 0]


@lru_cache(maxsize=256)
def _alike(old: int, new: int) -> bool:
    """Say whether OpenCV takes the same pixels along an axis: torch rounds positions to float32."""
    row = torch.arange(old, dtype=torch.float32)[None]
    theirs = cv2.resize(row.numpy(), (new, 1), interpolation=cv2.INTER_NEAREST_EXACT)
    return torch.equal(_nearest(row, (1, new)), torch.from_numpy(theirs))
