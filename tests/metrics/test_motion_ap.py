"""Motion IoU against a plain double loop, and the AP of each group against a hand count."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from flowfeat.interfaces import Detections
from flowfeat.metrics.motion_ap import MotionAveragePrecision, group_of, motion_iou
from flowfeat.metrics.snippet import Snippet, snippet_of, tracked_frame


def box(x: float, y: float = 0, side: float = 40) -> list[float]:
    return [x, y, x + side, y + side]


def detections(*rows: tuple[list[float], float]) -> Detections:
    boxes = torch.tensor([b for b, _ in rows]).reshape(-1, 4)
    scores = torch.tensor([s for _, s in rows])
    return Detections(boxes, scores, torch.zeros(len(rows), dtype=torch.int64))


def snippet(frames: list[tuple[Detections, list[list[float]], list[int]]]) -> Snippet:
    made = [
        tracked_frame(
            found,
            torch.tensor(boxes).reshape(-1, 4),
            torch.zeros(len(boxes), dtype=torch.int64),
            torch.tensor(tracks, dtype=torch.int64),
        )
        for found, boxes, tracks in frames
    ]
    return snippet_of(made, [True] * len(made))


def test_motion_is_the_mean_iou_within_ten_frames() -> None:
    rng = np.random.default_rng(0)
    boxes = np.cumsum(rng.normal(0, 3, (25, 3, 4)), axis=0) + np.array([0, 0, 60, 50])
    boxes[rng.random((25, 3)) < 0.3] = np.nan
    boxes[:, 2] = np.nan
    boxes[4, 2] = [0, 0, 9, 9]  # one box alone has no motion
    ours = motion_iou(boxes)
    for t in range(25):
        for k in range(3):
            near = [
                float(box_iou(torch.tensor(boxes[t, k][None]), torch.tensor(boxes[s, k][None])))
                for s in range(max(0, t - 10), min(25, t + 11))
                if s != t and not np.isnan(boxes[[s, t], k]).any()
            ]
            assert ours[t, k] == pytest.approx(np.mean(near) if near else math.nan, nan_ok=True)


def test_groups_part_at_seven_and_nine_tenths() -> None:
    motion = np.array([1, 0.91, 0.9, 0.7, 0.69, 0, np.nan])
    assert group_of(motion).tolist() == [0, 0, 1, 1, 2, 2, 3]


def scene() -> Snippet:
    """Two frames, a resting object and one that moves by half its side (IoU 1/3)."""
    rest, moving = box(0), [box(100), box(120)]
    nowhere, beside_rest = box(300), box(0, 30)
    return snippet(
        [
            (detections((nowhere, 0.9), (rest, 0.8), (moving[0], 0.7)), [rest, moving[0]], [1, 2]),
            (detections((beside_rest, 0.95), (moving[1], 0.6)), [rest, moving[1]], [1, 2]),
        ]
    )


def test_each_group_is_that_of_a_hand_count() -> None:
    metric = MotionAveragePrecision(2)
    metric.update(scene())
    # slow, 2 objects: false .95 (lies on the resting one), false .9, true .8; recall ends at 1/2.
    # fast, 2 objects: false .9, true .7 (precision 1/2), true .6 (2/3, so 2/3 from the start).
    # The misplaced box on the resting object counts for nothing among the fast.
    expected = {"mAP_slow": 1 / 2 * 1 / 3, "mAP_fast": 2 / 3}
    assert {n: float(v) for n, v in metric.compute().items()} == pytest.approx(expected)


def test_objects_without_a_track_or_a_neighbour_are_ignored() -> None:
    metric = MotionAveragePrecision(1)
    metric.update(snippet([(detections((box(0), 0.9)), [box(0)], [7])]))
    metric.update(snippet([(detections((box(0), 0.9)), [box(0)], [-1])] * 2))
    assert metric.compute() == {}
    metric.update(snippet([(detections((box(0), 0.5)), [box(0)], [7])] * 2))
    assert {n: float(v) for n, v in metric.compute().items()} == {"mAP_slow": 1}


def test_two_ranks_equal_one(computed_by_ranks) -> None:
    """The figures of a set are those of all its videos, wherever each was seen."""
    other = snippet([(detections((box(0), 0.85)), [box(0), box(80)], [0, 1])] * 3)
    alone = MotionAveragePrecision(1)
    for video in (scene(), other):
        alone.update(video)
    expected: dict[str, Tensor] = alone.compute()
    for shares in ([[scene()], [other]], [[scene(), other], []]):
        for result in computed_by_ranks(lambda **kw: MotionAveragePrecision(1, **kw), shares):
            assert result == expected
