"""Suppression and proposals against a brute-force loop."""

import pytest
import torch

from flowfeat.heads.proposals import inside_cells, propose, suppress

ONES = (1.0, 1.0, 1.0, 1.0)


def iou(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0.0) * max(height, 0.0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def brute_force(boxes: torch.Tensor, groups: torch.Tensor, threshold: float) -> list[int]:
    rows, kept = boxes.double().tolist(), []
    for i, row in enumerate(rows):
        rivals = (rows[j] for j in kept if groups[j] == groups[i])
        if all(iou(row, rival) <= threshold for rival in rivals):
            kept.append(i)
    return kept


def random_boxes(count: int) -> torch.Tensor:
    start = torch.rand(count, 2) * 60
    return torch.cat((start, start + torch.rand(count, 2) * 40 + 4), 1)


@pytest.mark.parametrize("limit", [1, 10, 40, 1000])
@pytest.mark.parametrize("classes", [1, 3])
def test_suppression_equals_brute_force(limit: int, classes: int) -> None:
    torch.manual_seed(classes)
    boxes, groups = random_boxes(400), torch.randint(classes, (400,))
    scores = torch.rand(400).sort(descending=True).values
    kept = suppress(boxes, groups, scores, 0.5, limit)
    assert kept.tolist() == brute_force(boxes, groups, 0.5)[:limit]


def test_suppression_goes_on_when_the_best_boxes_are_one_heap() -> None:
    heap = torch.tensor([[0.0, 0, 10, 10]]).repeat(50, 1)
    boxes = torch.cat((heap, torch.tensor([[100.0, 0, 110, 10], [200, 0, 210, 10]])))
    scores = torch.linspace(1, 0, 52)
    assert suppress(boxes, torch.zeros(52).long(), scores, 0.7, 2).tolist() == [0, 50]


def test_equal_scores_keep_their_order_and_nothing_gives_nothing() -> None:
    boxes = torch.tensor([[0.0, 0, 1, 1], [5, 5, 6, 6], [9, 9, 10, 10]])
    groups = torch.tensor([1, 0, 1])
    assert suppress(boxes, groups, torch.ones(3), 0.5, 3).tolist() == [0, 1, 2]
    assert suppress(boxes[:0], groups[:0], torch.ones(0), 0.5, 3).tolist() == []


def test_proposals_equal_brute_force() -> None:
    torch.manual_seed(3)
    anchors, scores = random_boxes(300), torch.randn(300)
    usable = torch.rand(300) < 0.8
    found = propose(scores, torch.zeros(300, 4), anchors, usable, (70, 90), ONES, 100, 0.7, 20)
    order = sorted((i for i in range(300) if usable[i]), key=lambda i: -scores[i].item())[:100]
    cut = torch.stack([anchors[i] for i in order])
    cut = torch.minimum(cut, torch.tensor([90.0, 70, 90, 70]))
    torch.testing.assert_close(found, cut[brute_force(cut, torch.zeros(100), 0.7)[:20]])


def test_deltas_move_proposals_and_empty_ones_go() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10], [80, 0, 90, 10]])
    deltas = torch.tensor([[5.0, 0, 0, 0], [2.0, 0, 0, 0]])  # x 0.1: half a width, a fifth
    found = propose(
        torch.tensor([1.0, 2]),
        deltas,
        anchors,
        torch.ones(2).bool(),
        (50, 80),
        (0.1,) * 4,
        9,
        0.7,
        9,
    )
    assert found.tolist() == [[5, 0, 15, 10]]  # the other lies right of the picture


def test_cells_of_the_padding_are_outside() -> None:
    inside = inside_cells(3, 4, 2, (17, 24), 8, torch.device("cpu"))
    expected = torch.tensor([[True, True, True, False]]).expand(3, 4)  # ceil(17 / 8) = 3 rows
    assert torch.equal(inside.view(3, 4, 2), expected[:, :, None].expand(3, 4, 2))
    assert inside_cells(3, 4, 2, (16, 32), 8, torch.device("cpu")).view(3, 4, 2)[2].sum() == 0
