"""Boxes lie on the right pixels, labels can be read, and key frames are told from others."""

import numpy as np
import pytest
import torch

from flowfeat.drawing import class_colour, draw_boxes, draw_detections, draw_truth
from flowfeat.interfaces import Detections

GREEN = (0, 255, 0)


def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 90, np.uint8)


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return (before != after).any(axis=2)


def one(box: list[float], score: float = 0.9, label: int = 0) -> Detections:
    return Detections(torch.tensor([box]), torch.tensor([score]), torch.tensor([label]))


def test_half_open_box_covers_exactly_its_pixels() -> None:
    picture = grey(30, 40)
    drawn = draw_boxes(picture, torch.tensor([[5.0, 7.0, 15.0, 20.0]]), [GREEN])
    expected = np.zeros((30, 40), bool)
    expected[7:20, 5:15] = True
    expected[8:19, 6:14] = False
    np.testing.assert_array_equal(changed(picture, drawn), expected)
    assert (drawn[expected] == GREEN).all()
    assert (picture == 90).all()  # the input stays


def test_boxes_are_clipped_and_hopeless_ones_left_out() -> None:
    picture = grey(30, 40)
    outside = [[50.0, 5.0, 60.0, 9.0], [3.0, -9.0, 9.0, 0.0], [float("nan"), 0.0, 5.0, 5.0]]
    drawn = draw_boxes(picture, torch.tensor(outside), [GREEN] * 3, ["a", "b", "c"])
    np.testing.assert_array_equal(drawn, picture)
    drawn = draw_boxes(picture, torch.tensor([[-5.0, -5.0, 99.0, 99.0]]), [GREEN])
    assert changed(picture, drawn).sum() == 2 * (40 + 30) - 4


def test_lines_and_letters_grow_with_the_picture() -> None:
    covered = []
    for height, width in ((120, 160), (1080, 1440)):
        picture = grey(height, width)
        box = torch.tensor([[0.25 * width, 0.5 * height, 0.75 * width, 0.9 * height]])
        drawn = changed(picture, draw_boxes(picture, box, [GREEN], ["cow 0.97"]))
        middle = drawn[int(0.7 * height)].sum() // 2  # width of one vertical line
        plate = drawn[: int(0.5 * height), int(0.25 * width) + 1].sum()
        covered.append((middle, plate))
    assert covered[0][0] == 1
    assert covered[1][0] == 3
    assert 9 <= covered[0][1] <= 16
    assert 24 <= covered[1][1] <= 48


@pytest.mark.parametrize("corner", [(0, 0), (150, 0), (0, 118), (150, 118)])
def test_label_stays_inside_the_picture(corner: tuple[int, int]) -> None:
    """The plate has the same size wherever the box is: nothing of it is cut off."""
    picture, (x, y) = grey(128, 160), corner
    box = torch.tensor([[x, y, x + 10.0, y + 10.0]])
    plate = (draw_boxes(picture, box, [GREEN], ["airplane"]) == GREEN).all(axis=2).sum()
    middle = torch.tensor([[60.0, 60.0, 70.0, 70.0]])
    expected = (draw_boxes(picture, middle, [GREEN], ["airplane"]) == GREEN).all(axis=2).sum()
    assert expected - 40 <= plate <= expected  # the outline may lie under the plate


def test_only_detections_above_the_threshold_the_best_on_top() -> None:
    picture, box = grey(128, 160), [20.0, 40.0, 80.0, 100.0]
    both = Detections(
        torch.tensor([box, box, [100.0, 60.0, 140.0, 90.0]]),
        torch.tensor([0.9, 0.5, 0.2]),
        torch.tensor([0, 1, 2]),
    )
    drawn = draw_detections(picture, both, ("a", "b", "c"), threshold=0.3)
    assert tuple(drawn[99, 50]) == class_colour(0)
    assert not changed(picture, drawn)[55:95, 95:145].any()
    np.testing.assert_array_equal(drawn, draw_detections(picture, both, "abc", 0.3, key=None))


def test_text_depends_on_class_and_score() -> None:
    picture, box = grey(128, 160), [20.0, 40.0, 80.0, 100.0]
    pictures = [
        draw_detections(picture, one(box, score), classes)
        for score, classes in ((0.91, ["cow"]), (0.97, ["cow"]), (0.91, ["cat"]))
    ]
    assert changed(pictures[0], pictures[1]).any()
    assert changed(pictures[0], pictures[2]).any()


def test_truth_is_white_and_lies_under_the_detections() -> None:
    picture = grey(128, 160)
    truth = torch.tensor([[20.0, 40.0, 80.0, 100.0], [100.0, 60.0, 140.0, 90.0]])
    drawn = draw_detections(picture, one([20.0, 40.0, 80.0, 100.0]), ["cow"], truth=truth)
    assert tuple(drawn[89, 120]) == (255, 255, 255)
    assert tuple(drawn[99, 50]) == class_colour(0)


def test_key_frames_are_marked_and_others_differently() -> None:
    picture, nothing = grey(128, 160), one([0.0, 0.0, 1.0, 1.0], score=0.0)
    key, other, none = (
        draw_detections(picture, nothing, ["cow"], key=key) for key in (True, False, None)
    )
    np.testing.assert_array_equal(none, picture)
    for marked in (key, other):
        assert changed(picture, marked)[:20, 100:].any()
        assert not changed(picture, marked)[25:].any()
    yellow = (key[..., 0] > 200) & (key[..., 2] < 50)
    assert yellow.sum() > 100
    assert not ((other[..., 0] > 200) & (other[..., 2] < 50)).any()


def test_zoom_magnifies_picture_and_boxes_alike() -> None:
    picture = grey(30, 40)
    drawn = draw_detections(picture, one([5.0, 7.0, 15.0, 20.0]), [""], truth=None, zoom=4)
    assert drawn.shape == (120, 160, 3)
    assert tuple(drawn[79, 40]) == tuple(drawn[60, 20]) == class_colour(0)
    assert tuple(drawn[80, 40]) == (90, 90, 90)
    truth = draw_truth(picture, torch.tensor([[5.0, 7.0, 15.0, 20.0]]), torch.tensor([0]), [""], 4)
    assert tuple(truth[79, 40]) == class_colour(0)


def test_thirty_classes_have_thirty_colours() -> None:
    colours = np.array([class_colour(label) for label in range(30)]).astype(int)
    apart = np.abs(colours[:, None] - colours).sum(axis=2) + 999 * np.eye(30, dtype=int)
    assert apart.min() >= 10


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3, 8, 8\) float64"):
        draw_boxes(np.zeros((3, 8, 8)), torch.zeros(0, 4), [])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"zoom .* found 0"):
        draw_detections(grey(8, 8), one([0.0, 0.0, 4.0, 4.0]), ["cow"], zoom=0)
