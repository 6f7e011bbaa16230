"""Anchors against values worked out by hand."""

import pytest

from flowfeat.heads.anchors import anchor_shapes, grid_anchors


def test_shapes_keep_the_area_and_have_height_over_width() -> None:
    shapes = anchor_shapes((8, 16), (0.25, 1, 4))
    expected = [  # ratio 0.25: a size of 8 is 16 wide and 4 high
        [-8, -2, 8, 2],
        [-16, -4, 16, 4],
        [-4, -4, 4, 4],
        [-8, -8, 8, 8],
        [-2, -8, 2, 8],
        [-4, -16, 4, 16],
    ]
    assert shapes.tolist() == expected


def test_grid_is_ordered_by_row_column_anchor() -> None:
    anchors = grid_anchors(anchor_shapes((4, 8), (1,)), stride=16, height=2, width=3)
    assert anchors.shape == (12, 4)
    assert anchors[0].tolist() == [6, 6, 10, 10]
    assert anchors[1].tolist() == [4, 4, 12, 12]
    assert anchors[2].tolist() == [22, 6, 26, 10]  # next column
    assert anchors[6].tolist() == [6, 22, 10, 26]  # next row


@pytest.mark.parametrize(("sizes", "ratios"), [((), (1,)), ((8, 0), (1,)), ((8,), (-1,))])
def test_bad_settings_are_named(sizes: tuple[float, ...], ratios: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="anchor_"):
        anchor_shapes(sizes, ratios)
