"""Label maps over pictures: the right colour at the right pixel."""

import numpy as np
import pytest

from flowfeat.drawing import draw_label_map, label_colours
from flowfeat.drawing.boxes import class_colour

CLASSES = ("road", "zebra", "sky")
PICTURE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def test_street_classes_have_their_usual_colours():
    table = label_colours(CLASSES)
    assert table[0].tolist() == [128, 64, 128]
    assert table[1].tolist() == list(class_colour(1))
    assert table[2].tolist() == [70, 130, 180]


def test_colours_are_mixed_pixel_by_pixel():
    labels = np.random.default_rng(1).choice(np.array([0, 1, 2, 255], np.uint8), (40, 60))
    before = PICTURE.copy()
    drawn = draw_label_map(PICTURE, labels, CLASSES, opacity=0.25, legend=False)
    for label, name in enumerate(CLASSES):
        mask = labels == label
        expected = 0.75 * PICTURE[mask] + 0.25 * label_colours(CLASSES)[label]
        assert np.abs(drawn[mask] - expected).max() <= 0.5, name
    assert np.array_equal(drawn[labels == 255], PICTURE[labels == 255])
    assert np.array_equal(PICTURE, before)


def test_opaque_colours_are_exact_and_zoom_repeats_them():
    labels = np.zeros((40, 60), np.uint8)
    labels[:, 30:] = 2
    drawn = draw_label_map(PICTURE, labels, CLASSES, opacity=1, zoom=2, legend=False)
    assert drawn.shape == (80, 120, 3)
    assert (drawn[:, :60] == [128, 64, 128]).all()
    assert (drawn[:, 60:] == [70, 130, 180]).all()


def test_the_legend_names_the_classes_that_show():
    labels = np.full((40, 60), 255, np.uint8)
    labels[30:, 50:] = 2
    grey = np.full((120, 180, 3), 128, np.uint8)
    labels = labels.repeat(3, 0).repeat(3, 1)
    with_legend = draw_label_map(grey, labels, CLASSES)
    changed = (with_legend != draw_label_map(grey, labels, CLASSES, legend=False)).any(2)
    rows, columns = np.nonzero(changed)
    assert rows.min() == columns.min() == 0
    assert rows.max() < 20  # one plate, since one class shows
    assert (with_legend[0, 0] == [70, 130, 180]).all()


def test_key_frames_are_marked():
    labels = np.zeros((40, 60), np.uint8)
    plain = draw_label_map(PICTURE, labels, CLASSES, legend=False)
    for key in (True, False):
        marked = draw_label_map(PICTURE, labels, CLASSES, legend=False, key=key)
        changed = np.nonzero((marked != plain).any(2))
        assert changed[0].max() < 20
        assert changed[1].max() > 45


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"must be \(40, 60\) uint8 .* found \(40, 61\) uint8"):
        draw_label_map(PICTURE, np.zeros((40, 61), np.uint8), CLASSES)
    with pytest.raises(ValueError, match=r"label 3: expected 0 .. 2 or 255"):
        draw_label_map(PICTURE, np.full((40, 60), 3, np.uint8), CLASSES)
    with pytest.raises(ValueError, match=r"opacity=1.5: expected 0..1"):
        draw_label_map(PICTURE, np.zeros((40, 60), np.uint8), CLASSES, opacity=1.5)


def test_background_has_no_colour():
    classes = ("background", "object")
    labels = np.zeros((120, 180), np.uint8)
    grey = np.full((120, 180, 3), 128, np.uint8)
    assert np.array_equal(draw_label_map(grey, labels, classes), grey)
    labels[60:] = 1
    drawn = draw_label_map(grey, labels, classes, opacity=1, legend=False)
    assert np.array_equal(drawn[:60], grey[:60])
    assert (drawn[60:] == class_colour(1)).all()
