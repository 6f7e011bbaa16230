"""Assignments by hand, and draws that a seed alone decides."""

import torch

from flowfeat.heads.assignment import IGNORE, assign_anchors, assign_rois, draw

ANCHORS = torch.tensor(
    [
        [0.0, 0, 10, 10],  # the first object itself
        [0, 0, 10, 8],  # IoU 0.8 with it
        [0, 0, 10, 5],  # 0.5: neither
        [0, 0, 10, 2],  # 0.2: background
        [20, 0, 30, 10],  # 1/3 with the second object: the best that it has
        [50, 50, 60, 60],  # far from everything
        [0, 0, 10, 9],  # 0.9, but unusable
    ]
)
USABLE = torch.tensor([True] * 6 + [False])
BOXES = torch.tensor([[0.0, 0, 10, 10], [25, 0, 35, 10]])


def test_anchors_by_hand() -> None:
    assigned = assign_anchors(ANCHORS, USABLE, BOXES, positive=0.7, negative=0.3)
    assert assigned.labels.tolist() == [1, 1, IGNORE, 0, 1, 0, IGNORE]
    assert assigned.objects[:5].tolist() == [0, 0, 0, 0, 1]


def test_the_best_usable_anchor_of_a_box_counts_when_the_best_is_unusable() -> None:
    usable = torch.tensor([False, False, True, True, True, True, False])
    assigned = assign_anchors(ANCHORS, usable, BOXES[:1], positive=0.7, negative=0.3)
    assert assigned.labels.tolist() == [IGNORE, IGNORE, 1, 0, 0, 0, IGNORE]


def test_a_box_that_no_anchor_touches_makes_no_objects() -> None:
    lonely = torch.tensor([[200.0, 200, 210, 210]])
    assigned = assign_anchors(ANCHORS, USABLE, lonely, positive=0.7, negative=0.3)
    assert assigned.labels.tolist() == [0] * 6 + [IGNORE]


def test_without_objects_everything_usable_is_background() -> None:
    none = torch.zeros(0, 4)
    assigned = assign_anchors(ANCHORS, USABLE, none, positive=0.7, negative=0.3)
    assert assigned.labels.tolist() == [0] * 6 + [IGNORE]
    assert assign_rois(ANCHORS, none, torch.zeros(0).long(), 0.5).labels.tolist() == [0] * 7


def test_rois_take_the_class_of_the_best_object_from_one_half_on() -> None:
    assigned = assign_rois(ANCHORS, BOXES, torch.tensor([3, 0]), positive=0.5)
    assert assigned.labels.tolist() == [4, 4, 4, 0, 0, 0, 4]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_draw_counts() -> None:
    labels = torch.tensor([1] * 50 + [0] * 500 + [IGNORE] * 50)
    drawn = draw(labels, 128, 0.25, generator(0))
    assert (drawn & (labels > 0)).sum() == 32
    assert (drawn & (labels == 0)).sum() == 96
    assert not drawn[labels == IGNORE].any()
    few = draw(torch.tensor([1] * 5 + [0] * 500), 128, 0.25, generator(0))
    assert (few[:5].all(), few.sum()) == (True, 128)  # background fills what objects leave
    assert draw(torch.tensor([1, 0, 0]), 128, 0.25, generator(0)).all()


def test_draw_follows_the_seed_and_is_uniform() -> None:
    labels = torch.tensor([1] * 10 + [0] * 30)
    draws = torch.stack([draw(labels, 8, 0.5, generator(s)) for s in range(600)]).float()
    assert torch.equal(draws[7], draw(labels, 8, 0.5, generator(7)).float())
    assert not torch.equal(draws[7], draws[8])
    frequency = draws.mean(0)  # 4 of 10 and 4 of 30, within 5 standard deviations
    assert (frequency[:10] - 0.4).abs().max() < 5 * (0.24 / 600) ** 0.5
    assert (frequency[10:] - 4 / 30).abs().max() < 5 * (0.1156 / 600) ** 0.5
