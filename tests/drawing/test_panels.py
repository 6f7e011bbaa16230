"""Panels hold every picture, whole and unmixed, beside its caption; tensors become pictures."""

import numpy as np
import pytest
import torch

from flowfeat.drawing import panel, picture_of


def plain(height: int, width: int, colour: tuple[int, int, int]) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def extent(drawn: np.ndarray, colour: tuple[int, int, int]) -> tuple[int, int]:
    rows, columns = np.nonzero((drawn == colour).all(axis=2))
    assert len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)  # a full rectangle
    return int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1


COLOURS = [(200, 10, 10), (10, 200, 10), (10, 10, 200), (200, 200, 10), (10, 200, 200)]


def test_small_pictures_are_enlarged_by_a_whole_factor() -> None:
    drawn = panel([plain(60, 80, colour) for colour in COLOURS], list("abcde"), cell=(256, 640))
    assert {extent(drawn, colour) for colour in COLOURS} == {(240, 320)}


def test_large_pictures_are_reduced_and_small_ones_beside_them_fitted() -> None:
    drawn = panel(
        [plain(600, 1000, COLOURS[0]), plain(60, 100, COLOURS[1])], ["a", "b"], cell=(256, 500)
    )
    assert extent(drawn, COLOURS[0]) == extent(drawn, COLOURS[1]) == (300, 500)


def test_order_is_by_rows() -> None:
    drawn = panel([plain(64, 64, colour) for colour in COLOURS], [""] * 5, columns=3)
    where = [np.argwhere((drawn == colour).all(axis=2)).min(axis=0).tolist() for colour in COLOURS]
    assert where[0][0] == where[1][0] == where[2][0] < where[3][0] == where[4][0]
    assert where[0][1] == where[3][1] < where[1][1] == where[4][1] < where[2][1]


def test_captions_and_title_are_written() -> None:
    pictures = [plain(64, 64, colour) for colour in COLOURS[:2]]
    bare = panel(pictures, ["", ""])
    written = panel(pictures, ["key frame", ""])
    assert (bare != written).any()
    titled = panel(pictures, ["", ""], title="snippet")
    assert titled.shape[0] > bare.shape[0]
    assert (titled[: titled.shape[0] - bare.shape[0]] < 60).any()


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="0 pictures"):
        panel([], [])
    with pytest.raises(ValueError, match="1 pictures and 2 captions"):
        panel([plain(8, 8, COLOURS[0])], ["a", "b"])


def test_frames_become_pictures_exactly() -> None:
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16).repeat(3, 1, 1)
    levels[1] = 255 - levels[1]
    drawn = picture_of(levels.float() / 255)
    np.testing.assert_array_equal(drawn, levels.permute(1, 2, 0).numpy())
    assert picture_of(torch.tensor([-1.0, 0.5, 2.0]).reshape(3, 1, 1)).tolist() == [[[0, 128, 255]]]
