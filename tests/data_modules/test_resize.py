"""Resizing keeps the aspect ratio, says its exact scale, and padding is zero."""

import cv2
import numpy as np
import pytest
import torch

from data_modules.resize import Resize, pad_clips


@pytest.mark.parametrize(
    ("resize", "old", "new"),
    [
        (Resize(600, 1000), (480, 640), (600, 800)),  # the short side decides
        (Resize(600, 1000), (720, 1280), (562, 1000)),  # the long side limits
        (Resize(600, 1000), (1280, 720), (1000, 562)),
        (Resize(), (33, 47), (33, 47)),
        (Resize(long=100), (300, 400), (75, 100)),
        (Resize(long=100), (30, 40), (30, 40)),  # a limit never enlarges
        (Resize(short=24), (1, 1), (24, 24)),
    ],
)
def test_sizes(resize, old, new):
    assert resize.size(*old) == new


def test_boxes_follow_the_picture():
    frames = np.zeros((2, 90, 160, 3), np.uint8)
    x1, y1, x2, y2 = 40, 20, 100, 70
    frames[:, y1:y2, x1:x2] = 255
    resized, (sx, sy) = Resize(short=60)(frames)
    assert resized.shape == (2, 60, 107, 3)
    assert (sx, sy) == (107 / 160, 60 / 90)
    rows, columns = np.nonzero(resized[1, ..., 0] > 127)
    assert abs(columns.min() - x1 * sx) <= 0.6
    assert abs(columns.max() + 1 - x2 * sx) <= 0.6
    assert abs(rows.min() - y1 * sy) <= 0.6
    assert abs(rows.max() + 1 - y2 * sy) <= 0.6


def test_frames_are_resized_as_by_the_reference():
    frame = np.random.default_rng(0).integers(0, 256, (1, 60, 80, 3), np.uint8)
    resized, _ = Resize(short=45)(frame)
    expected = cv2.resize(frame[0], None, fx=0.75, fy=0.75, interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(resized[0], expected)


def test_padding_is_zero_right_and_below():
    clips = [np.full((2, 4, 7, 3), 9, np.uint8), np.full((2, 6, 5, 3), 8, np.uint8)]
    clips[0][1, 3, 6] = [1, 2, 3]
    frames, sizes = pad_clips(clips)
    assert frames.shape == (2, 2, 3, 6, 7)
    assert sizes.tolist() == [[4, 7], [6, 5]]
    assert frames[0, 1, :, 3, 6].tolist() == [1, 2, 3]
    assert (frames[0, 0, :, :4] == 9).all()
    assert int(frames[0, :, :, 4:].sum()) == 0
    assert int(frames[1, :, :, :, 5:].sum()) == 0
    assert torch.equal(frames[1, 0, :, :6, :5], torch.full((3, 6, 5), 8, dtype=torch.uint8))


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="short_side=0"):
        Resize(0)
    with pytest.raises(ValueError, match="long_side=50: expected at least"):
        Resize(60, 50)
    with pytest.raises(ValueError, match=r"clip lengths \[1, 2\]"):
        pad_clips([np.zeros((1, 2, 2, 3), np.uint8), np.zeros((2, 2, 2, 3), np.uint8)])
