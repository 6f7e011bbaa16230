"""Agreement of results, by hand counts."""

import pytest
import torch

from flowfeat.agreement import agreement
from flowfeat.interfaces import Detections


def detections(*rows: tuple[list[float], float, int]) -> Detections:
    boxes = torch.tensor([box for box, _, _ in rows]).view(-1, 4)
    scores = torch.tensor([score for _, score, _ in rows])
    return Detections(boxes, scores, torch.tensor([label for *_, label in rows]).long())


A, NEAR, FAR = [0.0, 0, 10, 10], [0.0, 0, 10, 8], [20.0, 20, 30, 30]


def test_label_maps_agree_by_their_pixels():
    ours = torch.tensor([[0, 1, 2], [0, 1, 2]])
    assert agreement(ours, ours) == 1
    assert agreement(ours, torch.tensor([[0, 1, 2], [0, 0, 0]])) == pytest.approx(4 / 6)


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ([(A, 0.9, 0), (FAR, 0.3, 1)], [(A, 0.9, 0), (FAR, 0.3, 1)], 1),
        ([(A, 0.9, 0)], [(NEAR, 0.9, 0)], 1),  # IoU 0.8
        ([(A, 0.9, 0)], [(A, 0.9, 1)], 0),
        ([(A, 0.9, 0)], [(FAR, 0.9, 0)], 0),
        ([(A, 0.9, 0)], [], 0),
        ([], [], 1),
        ([(A, 0.8, 0)], [(A, 0.4, 0)], 2 * 0.4 / 1.2),
        ([(A, 0.6, 0), (FAR, 0.4, 0)], [(A, 0.6, 0)], 2 * 0.6 / 1.6),
        ([(A, 0.6, 0), (NEAR, 0.4, 0)], [(A, 0.6, 0)], 2 * 0.6 / 1.6),  # one box, one partner
    ],
)
def test_detections_agree_by_matched_scores(ours, theirs, expected):
    assert agreement(detections(*ours), detections(*theirs)) == pytest.approx(expected)
    assert agreement(detections(*theirs), detections(*ours)) == pytest.approx(expected)


def test_other_results_cannot_be_compared():
    with pytest.raises(ValueError, match="cannot compare float"):
        agreement(1.0, 2.0)
