"""One video with what was found in it, and its objects followed by their track ids."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowfeat.interfaces import Detections
from flowfeat.metrics.detection_ap import iou_thresholds, match_frame


class TrackedFrame(NamedTuple):
    """Detections of one labelled frame and its objects, on the CPU, in original pixels."""

    detections: Detections  # N
    partner: Tensor  # (N,) i64, the object that each detection found, or -1
    boxes: Tensor  # (G, 4) xyxy, half-open
    labels: Tensor  # (G,)
    tracks: Tensor  # (G,), -1 where unknown


class Snippet(NamedTuple):
    """A whole video of T frames with K tracks; NaN where a track has no box."""

    frames: Sequence[TrackedFrame | None]  # T, None where a frame has no labels
    is_key: NDArray[np.bool_]  # (T,)
    ids: NDArray[np.int64]  # (K,), ascending
    boxes: NDArray[np.float64]  # (T, K, 4), the objects
    found: NDArray[np.float64]  # (T, K, 4), the detections that found them
    scores: NDArray[np.float64]  # (T, K), theirs; 0 where none did


def tracked_frame(
    detections: Detections, boxes: Tensor, labels: Tensor, tracks: Tensor
) -> TrackedFrame:
    """Match a frame's detections to its objects by the rules of ImageNet VID.

    Args:
        detections: N detections in original pixels.
        boxes: (G, 4) xyxy, half-open, original pixels.
        labels: (G,).
        tracks: (G,), -1 where unknown.
    """
    there = Detections(*(field.detach().cpu() for field in detections))
    boxes, labels, tracks = boxes.detach().cpu(), labels.cpu(), tracks.cpu()
    partner = match_frame(there, boxes, labels, iou_thresholds(boxes, "vid"))
    return TrackedFrame(there, partner, boxes, labels, tracks)


def snippet_of(frames: Sequence[TrackedFrame | None], is_key: Sequence[bool]) -> Snippet:
    """Follow the objects of one video's frames, in order; ``is_key`` says where N_feat ran."""
    known = [frame.tracks for frame in frames if frame is not None]
    every = torch.cat(known).numpy() if known else np.zeros(0, np.int64)
    ids = np.unique(every[every >= 0])
    boxes = np.full((len(frames), len(ids), 4), np.nan)
    found = boxes.copy()
    scores = np.zeros(boxes.shape[:2])
    for t, frame in enumerate(frames):
        if frame is None:
            continue
        tracks = frame.tracks.numpy()
        columns = np.searchsorted(ids, tracks)
        boxes[t, columns[tracks >= 0]] = frame.boxes.numpy()[tracks >= 0]
        rows = (frame.partner >= 0).nonzero()[:, 0].numpy()
        partners = frame.partner.numpy()[rows]
        rows, partners = rows[tracks[partners] >= 0], partners[tracks[partners] >= 0]
        found[t, columns[partners]] = frame.detections.boxes.numpy()[rows]
        scores[t, columns[partners]] = frame.detections.scores.numpy()[rows]
    return Snippet(frames, np.array(is_key, np.bool_), ids, boxes, found, scores)


class Collector:
    """Collects B streams frame by frame and gives every video back whole when it has ended."""

    def __init__(self) -> None:
        self._frames: list[list[TrackedFrame | None]] = []
        self._keys: list[list[bool]] = []

    def add(
        self, frames: Sequence[TrackedFrame | None], starts: Sequence[bool], is_key: Sequence[bool]
    ) -> list[Snippet]:
        """Add one step of B streams; return the videos that ended before it.

        Args:
            frames: B frames.
            starts: B, whether a new video begins here.
            is_key: B, whether N_feat ran here.
        """
        if len(frames) != len(self._frames):
            ended = self.finish()
            self._frames, self._keys = [[] for _ in frames], [[] for _ in frames]
        else:
            ended = [self._end(row) for row, start in enumerate(starts) if start]
        for row, (frame, key) in enumerate(zip(frames, is_key, strict=True)):
            self._frames[row].append(frame)
            self._keys[row].append(key)
        return ended

    def finish(self) -> list[Snippet]:
        """Return the videos that are still open, and forget them."""
        ended = [self._end(row) for row in range(len(self._frames))]
        self._frames, self._keys = [], []
        return ended

    def _end(self, row: int) -> Snippet:
        snippet = snippet_of(self._frames[row], self._keys[row])
        self._frames[row], self._keys[row] = [], []
        return snippet
