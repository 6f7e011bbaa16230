"""The named shapes of the embedded VID set are what they are called, and no two look alike."""

from itertools import combinations

import cv2
import numpy as np
import pytest

from data_modules.synthetic.scenes import SceneSettings
from data_modules.synthetic.shapes import NAMED
from data_modules.synthetic.textures import thing

SIDE = 101
MIDDLE = SIDE // 2


def mask(name: str) -> np.ndarray:
    """Return (101, 101) bool, the shape with equal axes."""
    axis = np.linspace(-1, 1, SIDE)
    return NAMED[name].shape(*np.meshgrid(axis, axis)) < 0


def turns_around(name: str, radius: float) -> int:
    """Count the stretches of a circle around the middle that lie inside the shape."""
    angles = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    x = np.rint(MIDDLE + radius * MIDDLE * np.cos(angles)).astype(int)
    y = np.rint(MIDDLE + radius * MIDDLE * np.sin(angles)).astype(int)
    inside = mask(name)[y, x]
    return int((inside & ~np.roll(inside, 1)).sum())


@pytest.mark.parametrize("name", NAMED)
def test_a_shape_is_one_piece_that_fills_its_canvas(name: str) -> None:
    found = mask(name)
    pieces, _ = cv2.connectedComponents(found.astype(np.uint8))
    assert pieces == 2  # and the ground
    y, x = np.nonzero(found)
    assert max(np.ptp(x), np.ptp(y)) > 0.75 * SIDE
    assert not np.concatenate((found[0], found[-1], found[:, 0], found[:, -1])).any()


def test_shapes_have_the_marks_of_their_names() -> None:
    assert not mask("ring")[MIDDLE, MIDDLE]
    assert turns_around("star", 0.7) == 5
    assert turns_around("cross", 0.8) == 4
    assert turns_around("hourglass", 0.8) == 2
    assert turns_around("checked square", 1.0) == 4  # the corners
    assert turns_around("triangle", 0.85) == 3
    disc, crescent = mask("striped disc"), mask("crescent")
    assert not (crescent & ~disc).any()
    assert crescent.sum() < 0.6 * disc.sum()
    heart, arrow = mask("heart"), mask("arrow")
    assert (heart != heart[:, ::-1]).mean() < 0.01
    above = heart[12]  # two lobes, and nothing between them
    assert (np.diff(above.astype(int)) == 1).sum() == 2
    widths = arrow.sum(axis=1)
    assert widths[widths > 0][0] < widths.max() > 2 * widths[widths > 0][-1]


def test_no_two_shapes_cover_each_other_whatever_their_turn() -> None:
    for one, other in combinations(NAMED, 2):
        still, best = mask(one), 0.0
        for degrees in range(0, 360, 15):
            turn = cv2.getRotationMatrix2D((MIDDLE, MIDDLE), degrees, 1)
            turned = cv2.warpAffine(mask(other).astype(np.uint8), turn, (SIDE, SIDE)) > 0
            best = max(best, (still & turned).sum() / (still | turned).sum())
        assert best < 0.85, (one, other)


def test_hues_of_classes_do_not_overlap() -> None:
    coloured = [look for look in NAMED.values() if look.colour == 1]
    assert len(coloured) == len(NAMED) - 1  # and one that is grey
    ranges = sorted((look.hue - look.spread, look.hue + look.spread) for look in coloured)
    gaps = [b[0] - a[1] for a, b in zip(ranges, [*ranges[1:], (ranges[0][0] + 1, 0)], strict=True)]
    assert min(gaps) > 0.03


def test_objects_of_one_class_differ_and_are_textured() -> None:
    for look in NAMED.values():
        one, other = (thing(np.random.default_rng(seed), look, 48) for seed in (0, 1))
        assert np.abs(one - other).mean() > 3
        assert one[one[..., 3] == 1][:, :3].std(axis=0).max() > 10


def test_more_classes_than_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected 1 \.\. 10 named shapes, found 11"):
        SceneSettings(classes=11, named=True)
