"""Video object detection: boxes and classes for every frame, scored by the VID protocol."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from flowfeat.batches import DetectionBatch
from flowfeat.drawing import draw_detections, draw_truth, picture_of
from flowfeat.drawing.boxes import SHOWN_FROM
from flowfeat.heads.rfcn import DetectionLabels
from flowfeat.interfaces import Detections
from flowfeat.metrics.box_jitter import BoxJitter
from flowfeat.metrics.detection_ap import VIDAveragePrecision
from flowfeat.metrics.detection_delay import DetectionDelay
from flowfeat.metrics.motion_ap import MotionAveragePrecision
from flowfeat.metrics.snippet import Collector, Snippet, TrackedFrame, tracked_frame
from flowfeat.ops.upload import upload
from flowfeat.results import results_of
from flowfeat.streaming import Result
from flowfeat.tasks.preview import Preview
from flowfeat.tasks.video_task import Step, VideoTask


class FrameTruth(NamedTuple):
    """Labelled objects of one picture, in network pixels, and the way back to its own."""

    boxes: Tensor  # (N, 4)
    labels: Tensor  # (N,)
    tracks: Tensor  # (N,), -1 where unknown
    scale: Tensor  # (4,), network pixels per original pixel: sx, sy, sx, sy


class DetectionTask(VideoTask):
    """Trains any temporal module with a detection head.

    Reports ``mAP`` (ImageNet VID protocol, with its looser threshold for small boxes) and ``AP50``
    (IoU 0.5 for all), both over all frames and in pixels of the original pictures. Of whole videos
    it reports, where track ids are known, ``mAP_slow``, ``mAP_medium`` and ``mAP_fast``, the delay
    of first detections and the jitter of boxes; ``metrics`` defines them.
    """

    monitor = "mAP"

    def make_metrics(self) -> nn.ModuleDict:
        classes = len(self.classes)
        return nn.ModuleDict(
            {
                "mAP": VIDAveragePrecision(classes, threshold="vid"),
                "AP50": VIDAveragePrecision(classes, threshold="plain"),
            }
        )

    def make_stream_metrics(self) -> nn.ModuleDict:
        return nn.ModuleDict(
            {
                "motion": MotionAveragePrecision(len(self.classes)),
                "delay": DetectionDelay(),
                "jitter": BoxJitter(),
            }
        )

    def is_score(self, name: str) -> bool:
        following = (*MotionAveragePrecision.names, *DetectionDelay.names, *BoxJitter.names)
        return super().is_score(name) or name in following

    def labels(self, batch: DetectionBatch) -> DetectionLabels:
        targets = batch["targets"].shape[1]
        # Targets of one clip draw their anchors and RoIs apart.
        seeds = batch["seeds"][:, None] + torch.arange(targets, device=batch["seeds"].device)
        return DetectionLabels(
            batch["boxes"],
            batch["labels"],
            batch["sizes"].repeat_interleave(targets, dim=0),
            seeds.flatten(),
        )

    def truth(self, batch: DetectionBatch, step: int) -> list[FrameTruth | None]:
        truths: list[FrameTruth | None] = []
        targets = batch["targets"].tolist()
        for b, steps in enumerate(targets):
            if step not in steps:
                truths.append(None)
                continue
            row = b * len(steps) + steps.index(step)
            scale = batch["scales"][b].repeat(2)
            boxes, labels = batch["boxes"][row], batch["labels"][row]
            truths.append(FrameTruth(boxes, labels, batch["tracks"][row], scale))
        return truths

    def score(self, predictions: list[Detections], truth: list[FrameTruth | None]) -> None:
        for found, expected in zip(predictions, truth, strict=True):
            if expected is None:
                continue
            scale = expected.scale.to(found.boxes)
            original = self.to_original(found, scale[:2])
            for metric in self._each_metric():
                metric.update([original], [expected.boxes / scale], [expected.labels])

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self._collector = Collector()

    on_test_epoch_start = on_validation_epoch_start

    def follow(self, result: Result[Step]) -> None:
        frames: list[TrackedFrame | None] = []
        for found, truth in zip(result.predictions, result.tag.truth, strict=True):
            if truth is None:
                frames.append(None)
                continue
            scale = truth.scale.to(found.boxes)
            original = self.to_original(found, scale[:2])
            boxes = truth.boxes / scale
            frames.append(tracked_frame(original, boxes, truth.labels, truth.tracks))
        starts, is_key = result.tag.starts.tolist(), result.is_key.tolist()
        self._add(self._collector.add(frames, starts, is_key))

    def finish_following(self) -> None:
        self._add(self._collector.finish())

    def _add(self, snippets: list[Snippet]) -> None:
        for snippet in snippets:
            for metric in self._each_stream_metric():
                metric.update(snippet)

    @torch.no_grad()
    def preview(self, batch: DetectionBatch) -> Preview:
        """Show what happens between the first frame of a clip and its last target."""
        clip, target = batch["frames"][:1], int(batch["targets"][0, -1])
        is_key = torch.zeros(clip.shape[:2], dtype=torch.bool)
        is_key[:, 0] = True
        output = self.temporal(clip, is_key, batch["targets"][:1, -1:])
        found: Detections = results_of(self.head, output, batch["sizes"][:1])[0]
        truth = self.truth(batch, target)[0]
        key, current = clip[0, 0], clip[0, target]
        displacement = self.temporal.motion(current[None], key[None])
        picture = picture_of(current)
        zoom = max(1, 384 // max(picture.shape[:2]))  # labels need room that small frames lack
        boxes = current.new_zeros(0, 4) if truth is None else truth.boxes
        labels = found.labels[:0] if truth is None else truth.labels
        return Preview(
            key=key,
            current=current,
            displacement=None if displacement is None else displacement[0],
            predicted=draw_detections(picture, found, self.classes, key=False, zoom=zoom),
            truth=draw_truth(picture, boxes, labels, self.classes, zoom=zoom),
            caption=f"{batch['snippets'][0]}: frame {int(batch['indices'][0, target])} "
            f"from {int(batch['indices'][0, 0])}",
            predicted_caption=f"predicted, scores from {SHOWN_FROM}",
        )

    def to_original(self, predictions: Detections, scale: Tensor) -> Detections:
        """Return detections in pixels of the original picture; scale (2,) is (sx, sy)."""
        to_network = upload(scale.to(predictions.boxes.dtype).repeat(2), predictions.boxes.device)
        boxes = predictions.boxes / to_network
        return Detections(boxes, predictions.scores, predictions.labels)

    def describe(self, predictions: Detections, least: float) -> dict[str, Any]:
        """Return ``detections``, a list of class, score and box (xyxy, pixels), best first."""
        rows = zip(
            predictions.labels.tolist(),
            predictions.scores.tolist(),
            predictions.boxes.tolist(),
            strict=True,
        )
        return {
            "detections": [
                {
                    "class": self.classes[label],
                    "score": round(score, 4),
                    "box": [round(value, 2) for value in box],
                }
                for label, score, box in rows
                if score >= least
            ]
        }

    def render(
        self, picture: Any, predictions: Detections, is_key: bool | None, threshold: float
    ) -> Any:
        """Draw predictions, in pixels of the picture (H, W, 3), for `predict`."""
        return draw_detections(picture, predictions, self.classes, threshold, key=is_key)
