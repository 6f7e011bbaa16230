"""One draw changes all frames of a clip and their boxes alike."""

from pathlib import Path

import numpy as np
import pytest

from data_modules.augment import Augment

RNG = np.random.default_rng(0)
FRAMES = RNG.integers(0, 256, (3, 24, 40, 3), np.uint8)
BOXES = np.array([[2, 3, 10, 20], [0, 0, 40, 24], [30.5, 1, 39, 2.25]], np.float32)


def test_flip_mirrors_frames_and_boxes():
    drawn = Augment(flip=1.0)(FRAMES, BOXES, 0)
    assert np.array_equal(drawn.frames, FRAMES[:, :, ::-1])
    mirrored = BOXES[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [40, 0, 40, 0]
    np.testing.assert_allclose(drawn.boxes, mirrored, atol=1e-4)
    assert drawn.kept.tolist() == [0, 1, 2]
    assert drawn.frames.flags["C_CONTIGUOUS"]


def test_all_frames_share_one_draw():
    same = np.repeat(FRAMES[:1], 3, 0)
    augment = Augment(flip=0.5, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
    changed = 0
    for seed in range(5):
        frames = augment(same, BOXES, seed).frames
        assert np.array_equal(frames[0], frames[1])
        assert np.array_equal(frames[0], frames[2])
        changed += not np.array_equal(frames[0], same[0])
    assert changed == 5


def test_the_seed_decides():
    augment, other = Augment(flip=0.5, brightness=0.3), Augment(flip=0.5, brightness=0.3)
    augment(FRAMES, BOXES, 1)  # what was drawn before must not matter
    one, two = augment(FRAMES, BOXES, 1 << 62), other(FRAMES, BOXES, 1 << 62)
    assert np.array_equal(one.frames, two.frames)
    flip = Augment(flip=0.5)
    flipped = [not np.array_equal(flip(FRAMES, BOXES, seed).frames, FRAMES) for seed in range(200)]
    assert 70 < sum(flipped) < 130


def test_a_crop_cuts_frames_boxes_and_masks_at_one_place():
    masks = np.arange(2 * 24 * 40, dtype=np.uint16).reshape(2, 24, 40).astype(np.uint8)
    places = set()
    for seed in range(30):
        drawn = Augment(crop=[10, 16], flip=0.5)(FRAMES, BOXES[1:2], seed, masks)
        assert drawn.frames.shape == (3, 10, 16, 3)
        found = [
            (y, x, flip)
            for y in range(24 - 9)
            for x in range(40 - 15)
            for flip in (1, -1)
            if np.array_equal(FRAMES[:, y : y + 10, x : x + 16][:, :, ::flip], drawn.frames)
        ]
        ((y, x, flip),) = found  # the one place that looks like this
        assert np.array_equal(drawn.masks, masks[:, y : y + 10, x : x + 16][:, :, ::flip])
        np.testing.assert_allclose(drawn.boxes, [[0, 0, 16, 10]], atol=1e-4)
        places.add((y, x, flip))
    assert len(places) > 25
    assert max(y for y, _, _ in places) > 10
    assert max(x for _, x, _ in places) > 18


def test_crops_show_a_small_object_as_often_as_asked():
    masks = np.zeros((2, 24, 40), np.uint8)
    masks[:, :, 36:] = 255
    masks[1, 5:7, 4:6] = 3
    aimed, half = Augment(crop=[8, 8], crop_on=1.0), Augment(crop=[8, 8], crop_on=0.5)
    drawn = [aimed(FRAMES, BOXES[:0], seed, masks).masks for seed in range(20)]
    assert all(found.shape == (2, 8, 8) and (found[1] == 3).any() for found in drawn)
    assert len({np.argwhere(found[1] == 3)[0].tobytes() for found in drawn}) > 5
    shown = [(half(FRAMES, BOXES[:0], seed, masks).masks == 3).any() for seed in range(60)]
    assert 0.35 < np.mean(shown) < 0.85  # of the others, 15 % show it by chance
    empty = np.zeros((1, 24, 40), np.uint8)
    places = {aimed(FRAMES, BOXES[:0], seed, empty).frames.tobytes() for seed in range(5)}
    assert len(places) > 3  # nothing to aim at: anywhere
    with pytest.raises(ValueError, match=r"crop_on=1.0: expected data with label maps"):
        aimed(FRAMES, BOXES[:0], 0)
    with pytest.raises(ValueError, match=r"crop_on=0.5: expected data.augment.crop too"):
        Augment(crop_on=0.5)


def test_a_crop_larger_than_the_picture_is_refused():
    with pytest.raises(ValueError, match=r"crop=\[25, 16\]: expected at most \[24, 40\]"):
        Augment(crop=[25, 16])(FRAMES, BOXES, 0)
    with pytest.raises(ValueError, match=r"crop=\[8\]: expected \[height, width\]"):
        Augment(crop=[8])


def test_nothing_to_do_and_no_boxes():
    drawn = Augment()(FRAMES, BOXES, 3)
    assert np.array_equal(drawn.frames, FRAMES)
    assert np.array_equal(drawn.boxes, BOXES)
    empty = Augment(flip=1.0)(FRAMES, np.zeros((0, 4), np.float32), 3)
    assert empty.boxes.shape == (0, 4)
    assert empty.kept.shape == (0,)


def test_bad_options_name_the_choices():
    choices = r"augment\.flop: expected one of crop, crop_on, flip, brightness"
    with pytest.raises(ValueError, match=choices):
        Augment.from_mapping({"flop": 0.5})
    with pytest.raises(ValueError, match=r"augment\.flip=1.5: expected 0 .. 1"):
        Augment.from_mapping({"flip": 1.5})


def test_albumentations_stands_in_the_two_files_that_augment():
    root = Path(__file__).parents[2]
    files = {
        path.relative_to(root).as_posix()
        for folder in ("src", "data_modules", "callbacks")
        for path in (root / folder).rglob("*.py")
        if "import albumentations" in path.read_text()
    }
    assert files == {"data_modules/augment.py", "data_modules/action_augment.py"}
