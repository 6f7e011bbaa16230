"""Corner crops of action clips against slicing and cv2; one draw for a whole clip."""

from collections import Counter

import cv2
import numpy as np
import pytest

from data_modules.action_augment import CornerCrops, Crop, cut, evaluation_crops

HEIGHT, WIDTH = 240, 320


def test_crops_are_of_the_scales_at_the_fixed_places():
    crops = CornerCrops(flip=0.5)
    drawn = [crops.draw(HEIGHT, WIDTH, seed) for seed in range(3000)]
    sides = [int(HEIGHT * scale) for scale in (1, 0.875, 0.75, 0.66)]
    shapes = {(crop.height, crop.width) for crop in drawn}
    assert shapes == {
        (a, b) for i, a in enumerate(sides) for j, b in enumerate(sides) if abs(i - j) <= 1
    }
    # A crop of 180 x 180 leaves 60 x 140: TSN's places are at quarters of that.
    places = {(crop.top, crop.left) for crop in drawn if crop[2:4] == (180, 180)}
    corners = {(0, 0), (0, 140), (60, 0), (60, 140), (30, 70)}
    edges = {(30, 0), (30, 140), (60, 70), (0, 70)}
    quarters = {(15, 35), (15, 105), (45, 35), (45, 105)}
    assert places == corners | edges | quarters
    five = {CornerCrops(positions=5, scales=[0.75]).draw(HEIGHT, WIDTH, s)[:2] for s in range(200)}
    assert five == corners
    assert np.mean([crop.flipped for crop in drawn]) == pytest.approx(0.5, abs=0.03)
    assert min(Counter((crop.height, crop.width) for crop in drawn).values()) > 200  # 300 expected
    assert not any(CornerCrops(flip=0).draw(HEIGHT, WIDTH, s).flipped for s in range(50))


def test_a_draw_is_a_function_of_its_seed():
    crops = CornerCrops()
    assert crops.draw(100, 80, 7) == crops.draw(100, 80, 7)
    assert len({crops.draw(100, 80, seed) for seed in range(40)}) > 20


@pytest.mark.parametrize("planes", [2, 3])
@pytest.mark.parametrize("flipped", [False, True])
def test_all_pictures_are_cut_alike(planes, flipped):
    frames = np.random.default_rng(0).integers(0, 256, (4, 60, 80, planes), dtype=np.uint8)
    crop = Crop(5, 9, 40, 50, flipped)
    expected = np.stack([cv2.resize(frame[5:45, 9:59], (32, 32)) for frame in frames])
    assert np.array_equal(cut(frames, crop, 32), expected[:, :, ::-1] if flipped else expected)


def test_one_and_ten_crops():
    assert evaluation_crops(72, 96, 64, 1) == [Crop(4, 16, 64, 64)]
    ten = evaluation_crops(72, 96, 64, 10)
    assert [crop[:2] for crop in ten[:5]] == [(0, 0), (0, 32), (8, 0), (8, 32), (4, 16)]
    assert [crop.flipped for crop in ten] == [False] * 5 + [True] * 5
    assert [crop[:4] for crop in ten[:5]] == [crop[:4] for crop in ten[5:]]
    with pytest.raises(ValueError, match=r"data\.crop=64: expected at most 60"):
        evaluation_crops(60, 96, 64, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": []}, r"augment\.scales=\[\]"),
        ({"scales": [1.2]}, r"augment\.scales=\[1\.2\]"),
        ({"positions": 9}, r"augment\.positions=9: expected 5 or 13"),
        ({"flip": 2}, r"augment\.flip=2"),
        ({"max_distort": -1}, r"max_distort=-1"),
        ({"crop": 3}, r"augment\.crop: expected one of scales, max_distort, positions, flip"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        CornerCrops.from_mapping(options)
