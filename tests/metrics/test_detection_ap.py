"""Average precision against hand counts, the protocol in plain Python, and pycocotools."""

import math
import threading
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from flowfeat.interfaces import Detections
from flowfeat.metrics.detection_ap import (
    Threshold,
    VIDAveragePrecision,
    average_precision,
    iou_thresholds,
    match_frame,
)

Frame = tuple[Detections, Tensor, Tensor]


def detections(boxes: list[list[float]], scores: list[float], labels: list[int]) -> Detections:
    return Detections(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(scores),
        torch.tensor(labels, dtype=torch.int64),
    )


def truth(boxes: list[list[float]], labels: list[int]) -> tuple[Tensor, Tensor]:
    return (
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(labels, dtype=torch.int64),
    )


def evaluated(frames: list[Frame], classes: int, threshold: Threshold, **kwargs: Any) -> Any:
    metric = VIDAveragePrecision(classes, threshold, **kwargs)
    for prediction, boxes, labels in frames:
        metric.update([prediction], [boxes], [labels])
    return metric


def random_frames(seed: int, frames: int, classes: int, grid: float) -> list[Frame]:
    """Frames with 0-5 objects, found once, twice or not at all, and with false alarms."""
    rng = np.random.default_rng(seed)
    made: list[Frame] = []
    for _ in range(frames):
        corners = rng.integers(0, 100, (rng.integers(0, 6), 2))
        sides = rng.integers(6, 50, corners.shape)
        boxes = np.concatenate([corners, corners + sides], axis=1).astype(float)
        labels = rng.integers(0, classes, len(boxes))
        picks = rng.integers(0, max(1, len(boxes)), 2 * len(boxes))
        near = boxes[picks] + np.round(rng.normal(0, 3, (len(picks), 4)) / grid) * grid
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 2)
        far = np.tile([150.0, 150.0, 180.0, 170.0], (2, 1))
        guesses = np.where(rng.random(len(picks)) < 0.9, labels[picks], 0)
        made.append(
            (
                Detections(
                    torch.tensor(np.concatenate([near, far]), dtype=torch.float32),
                    torch.tensor(rng.random(len(near) + 2), dtype=torch.float32),
                    torch.tensor(np.concatenate([guesses, rng.integers(0, classes, 2)])),
                ),
                torch.tensor(boxes, dtype=torch.float32),
                torch.tensor(labels),
            )
        )
    return made


BOX = [10.0, 10.0, 50.0, 50.0]
AWAY = [100.0, 100.0, 140.0, 140.0]


def test_hand_count_over_two_frames() -> None:
    """Ranked: hit, miss, hit of 2 objects; precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1."""
    frames = [
        (detections([BOX, AWAY], [0.9, 0.8], [0, 0]), *truth([BOX], [0])),
        (detections([BOX], [0.7], [0]), *truth([BOX], [0])),
    ]
    assert evaluated(frames, 1, "plain").compute().item() == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_envelope_takes_the_best_precision_of_all_higher_recalls() -> None:
    """Ranked: miss, hit, hit, miss of 3 objects: the envelope is 2/3 up to recall 2/3, then 0."""
    value = average_precision(
        torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([False, True, True, False]), 3
    )
    assert value == pytest.approx(2 / 3 * 2 / 3)


def test_mean_is_over_classes_with_truth_only() -> None:
    frames = [
        (detections([BOX, AWAY, AWAY], [0.9, 0.8, 0.7], [0, 2, 3]), *truth([BOX, AWAY], [0, 1]))
    ]
    metric = evaluated(frames, 4, "vid")
    values = metric.per_class()
    assert values[:2].tolist() == [1.0, 0.0]
    assert values[2:].isnan().all()
    assert metric.compute().item() == 0.5


def test_without_any_truth_or_frame_the_mean_is_zero() -> None:
    assert VIDAveragePrecision(3).compute().item() == 0.0
    frames = [(detections([BOX], [0.9], [0]), *truth([], []))]
    assert evaluated(frames, 3, "plain").compute().item() == 0.0


def test_small_boxes_are_loosened() -> None:
    """A 20x20 box needs 400 / 900 = 0.444; shifted by d it overlaps (20 - d) / (20 + d)."""
    square = [0.0, 0.0, 20.0, 20.0]
    boxes = torch.tensor([square, [0.0, 0.0, 24.0, 24.0], [5.0, 5.0, 30.0, 30.0]])
    needed = iou_thresholds(boxes, "vid")
    assert needed.tolist() == pytest.approx([400 / 900, 576 / 1156, 0.5])
    assert iou_thresholds(boxes, "plain").tolist() == [0.5, 0.5, 0.5]

    def found(shift: float, threshold: Threshold) -> float:
        moved = detections([[shift, 0.0, 20.0 + shift, 20.0]], [0.9], [0])
        return evaluated([(moved, *truth([square], [0]))], 1, threshold).compute().item()

    assert found(7, "vid") == 1.0  # 13 / 27 = 0.481
    assert found(7, "plain") == 0.0
    assert found(8, "vid") == 0.0  # 12 / 28 = 0.429
    assert found(6, "plain") == 1.0  # 14 / 26 = 0.538


def test_fractional_box_by_hand() -> None:
    """20.5 x 8 needs 164 / (30.5 * 18) = 0.29872; IoU of its left w columns is w / 20.5."""
    box = [3.25, 1.5, 23.75, 9.5]
    assert iou_thresholds(torch.tensor([box]), "vid").item() == pytest.approx(164 / 549)
    for wide, expected in ((6.125, 1.0), (6.0, 0.0)):  # 0.29878, 0.29268
        part = detections([[3.25, 1.5, 3.25 + wide, 9.5]], [0.5], [0])
        frames = [(part, *truth([box], [0]))]
        assert evaluated(frames, 1, "vid").compute().item() == expected


def test_iou_of_exactly_the_threshold_counts() -> None:
    half = detections([[0.0, 0.0, 40.0, 20.0]], [0.9], [0])
    frames = [(half, *truth([[0.0, 0.0, 40.0, 40.0]], [0]))]
    assert evaluated(frames, 1, "plain").compute().item() == 1.0


def test_taken_box_leaves_the_next_best_to_the_next_detection() -> None:
    """Both prefer box 1 (IoU 1 and 0.9); the second falls back on box 0, the third finds none."""
    boxes, labels = truth([[4.0, 0.0, 24.0, 10.0], [0.0, 0.0, 20.0, 10.0]], [0, 0])
    frame = detections(
        [[1.0, 0.0, 21.0, 10.0], [1.0, 0.0, 21.0, 10.0], [0.0, 0.0, 20.0, 10.0]],
        [0.3, 0.8, 0.9],
        [0, 0, 0],
    )
    partner = match_frame(frame, boxes, labels, iou_thresholds(boxes, "plain"))
    assert partner.tolist() == [-1, 0, 1]


def test_classes_do_not_match_each_other() -> None:
    boxes, labels = truth([BOX, BOX], [0, 1])
    frame = detections([BOX, BOX, BOX], [0.9, 0.8, 0.7], [1, 1, 0])
    partner = match_frame(frame, boxes, labels, iou_thresholds(boxes, "plain"))
    assert partner.tolist() == [1, -1, 0]


def test_box_without_area_is_never_found() -> None:
    boxes, labels = truth([[5.0, 5.0, 5.0, 9.0]], [0])
    frame = detections([[0.0, 0.0, 20.0, 20.0], [5.0, 5.0, 5.0, 9.0]], [0.9, 0.8], [0, 0])
    assert match_frame(frame, boxes, labels, iou_thresholds(boxes, "vid")).tolist() == [-1, -1]


def test_equal_scores_enter_together() -> None:
    """One hit and one miss of equal score, 1 object: precision 1/2, whichever came first."""
    matched = torch.tensor([True, False])
    for order in ([0, 1], [1, 0]):
        assert average_precision(torch.tensor([0.5, 0.5]), matched[order], 1) == 0.5


def protocol(frames: list[Frame], classes: int) -> list[float]:
    """The VID protocol in its own terms: inclusive corners, loops, one global ranking per class."""
    results = []
    for label in range(classes):
        ranking, total = [], 0
        for prediction, boxes, labels in frames:
            gold = [box for box, own in zip(boxes.tolist(), labels.tolist(), strict=True)
                    if own == label]  # fmt: skip
            gold = [[x1, y1, x2 - 1, y2 - 1] for x1, y1, x2, y2 in gold]  # inclusive
            total += len(gold)
            mine = [
                (score, [x1, y1, x2 - 1, y2 - 1])
                for (x1, y1, x2, y2), score, own in zip(
                    *(field.tolist() for field in prediction), strict=True
                )
                if own == label
            ]
            used: set[int] = set()
            for score, box in sorted(mine, key=lambda pair: -pair[0]):
                best, chosen = 0.0, -1
                for index, other in enumerate(gold):
                    wide = min(box[2], other[2]) - max(box[0], other[0]) + 1
                    high = min(box[3], other[3]) - max(box[1], other[1]) + 1
                    if index in used or wide <= 0 or high <= 0:
                        continue
                    areas = [(b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (box, other)]
                    iou = wide * high / (sum(areas) - wide * high)
                    w, h = other[2] - other[0] + 1, other[3] - other[1] + 1
                    if iou >= min(0.5, w * h / ((w + 10) * (h + 10))) and iou > best:
                        best, chosen = iou, index
                used.add(chosen)
                ranking.append((score, chosen >= 0))
        hits, points = 0, []
        for rank, (_, hit) in enumerate(sorted(ranking, reverse=True), start=1):
            hits += hit
            points.append((hits / total, hits / rank))
        area, before = 0.0, 0.0
        for index, (recall, _) in enumerate(points):
            area += (recall - before) * max(precision for _, precision in points[index:])
            before = recall
        results.append(area)
    return results


def test_half_open_boxes_equal_the_inclusive_protocol() -> None:
    frames = random_frames(0, 40, 3, grid=1.0)
    vid = evaluated(frames, 3, "vid").per_class()
    assert vid.tolist() == pytest.approx(protocol(frames, 3), abs=1e-6)
    assert not torch.allclose(vid, evaluated(frames, 3, "plain").per_class())


def coco_ap(frames: list[Frame], label: int) -> float:
    """AP of one class at IoU 0.5 by pycocotools.

    COCO averages the precision envelope over given recalls. All-point interpolation weighs each of
    the G recall steps by 1 / G; sampling once in the middle of each step is the same sum exactly.
    """
    gold, found = [], []
    for image, (prediction, boxes, labels) in enumerate(frames):
        for x1, y1, x2, y2 in boxes[labels == label].tolist():
            gold.append({"id": len(gold) + 1, "image_id": image, "category_id": 1, "iscrowd": 0,
                         "bbox": [x1, y1, x2 - x1, y2 - y1],
                         "area": (x2 - x1) * (y2 - y1)})  # fmt: skip
        mine = prediction.labels == label
        for (x1, y1, x2, y2), score in zip(
            prediction.boxes[mine].tolist(), prediction.scores[mine].tolist(), strict=True
        ):
            found.append({"image_id": image, "category_id": 1, "score": score,
                          "bbox": [x1, y1, x2 - x1, y2 - y1]})  # fmt: skip
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": image} for image in range(len(frames))],
        "annotations": gold,
        "categories": [{"id": 1}],
    }
    coco.createIndex()
    judge = COCOeval(coco, coco.loadRes(found), "bbox")
    judge.params.iouThrs = np.array([0.5])
    judge.params.recThrs = (np.arange(len(gold)) + 0.5) / len(gold)
    judge.params.maxDets = [1000]
    judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]], ["all"]
    judge.evaluate()
    judge.accumulate()
    return float(judge.eval["precision"].mean())


def test_plain_equals_pycocotools() -> None:
    frames = random_frames(1, 60, 3, grid=1e-3)
    ours = evaluated(frames, 3, "plain").per_class().tolist()
    assert ours == pytest.approx([coco_ap(frames, label) for label in range(3)], abs=1e-6)
    assert 0.1 < min(ours) < max(ours) < 0.9  # a case that tells right from wrong


def test_frames_in_any_order_and_grouping() -> None:
    frames = random_frames(2, 30, 3, grid=1.0)
    coarse = [  # many equal scores
        (prediction._replace(scores=(prediction.scores * 4).round() / 4), boxes, labels)
        for prediction, boxes, labels in frames
    ]
    shuffled = [coarse[i] for i in np.random.default_rng(0).permutation(len(coarse))]
    grouped = VIDAveragePrecision(3, "vid")
    grouped.update(*(list(column) for column in zip(*shuffled, strict=True)))
    one_by_one = evaluated(coarse, 3, "vid")
    torch.testing.assert_close(grouped.per_class(), one_by_one.per_class(), rtol=0, atol=0)


class Ranks:
    """Threads in place of processes: each gather waits for the others and returns all tensors."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=20)
        self.board: list[Tensor] = [torch.empty(0)] * size

    def gather(self, rank: int) -> Any:
        def all_tensors(tensor: Tensor, group: Any = None) -> list[Tensor]:
            self.board[rank] = tensor
            self.barrier.wait()
            gathered = list(self.board)
            assert len({part.dtype for part in gathered}) == 1  # as real collectives demand
            self.barrier.wait()
            return gathered

        return all_tensors


@pytest.mark.parametrize("shares", [(13, 17), (30, 0)])
def test_two_ranks_equal_one(shares: tuple[int, int]) -> None:
    frames = random_frames(3, 30, 3, grid=1.0)
    parts = [frames[: shares[0]], frames[shares[0] :]]
    ranks, results = Ranks(2), [torch.empty(0)] * 4

    def work(rank: int) -> None:
        metric = evaluated(
            parts[rank],
            3,
            "vid",
            dist_sync_fn=ranks.gather(rank),
            distributed_available_fn=lambda: True,
        )
        results[rank] = metric.compute()
        results[2 + rank] = metric.per_class()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = evaluated(frames, 3, "vid")
    for rank in range(2):
        torch.testing.assert_close(results[rank], alone.compute(), rtol=0, atol=0)
        torch.testing.assert_close(results[2 + rank], alone.per_class(), rtol=0, atol=0)


def test_merged_states_equal_one_and_reset_forgets() -> None:
    frames = random_frames(4, 20, 2, grid=1.0)
    merged = evaluated(frames[:9], 2, "vid")
    merged.merge_state(evaluated(frames[9:], 2, "vid"))
    torch.testing.assert_close(merged.compute(), evaluated(frames, 2, "vid").compute())
    merged.reset()
    assert merged.compute().item() == 0.0


def test_half_precision_scores_and_gradients_are_accepted() -> None:
    frame = detections([BOX], [0.9], [0])
    half = frame._replace(scores=frame.scores.bfloat16().requires_grad_())
    assert evaluated([(half, *truth([BOX], [0]))], 1, "vid").compute().item() == 1.0


@pytest.mark.parametrize(
    ("prediction", "target", "words"),
    [
        (detections([BOX], [0.9], [3]), truth([BOX], [0]), r"predicted labels .* 0\.\.2, found 3"),
        (detections([BOX], [0.9], [0]), truth([BOX], [-1]), r"ground truth labels .* found -1"),
        (detections([BOX], [math.nan], [0]), truth([BOX], [0]), "finite"),
        (detections([BOX], [0.9], [0]), (torch.zeros(1, 5), torch.zeros(1).long()), r"\(N, 4\)"),
    ],
)
def test_bad_frames_are_refused(
    prediction: Detections, target: tuple[Tensor, Tensor], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        VIDAveragePrecision(3).update([prediction], [target[0]], [target[1]])


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="num_classes must be at least 1, found 0"):
        VIDAveragePrecision(0)
    with pytest.raises(ValueError, match="'loose'"):
        VIDAveragePrecision(3, "loose")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="1, 0 and 0"):
        VIDAveragePrecision(3).update([detections([], [], [])], [], [])
