"""Moving a pair moves its flow: known motion stays known, and pictures still follow it."""

import cv2
import numpy as np
import pytest

from data_modules.flow_augment import FlowAugment, move_pair
from data_modules.flow_photometric import Photometric
from data_modules.synthetic.scenes import Scene, SceneSettings

HEIGHT, WIDTH = 60, 80
MOTION = np.array([[1.04, 0.06, -3.0], [-0.05, 0.97, 2.5], [0, 0, 1]])  # current -> key
ALL = {
    "crop": [40, 48],
    "flip": 0.5,
    "flip_vertical": 0.5,
    "scale": [0.8, 1.5],
    "rotation": 25.0,
    "translation": 0.1,
    "relative": 0.3,
}


def grid(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width].astype(np.float64)
    return np.stack([x, y, np.ones_like(x)], axis=-1)


def affine_flow(motion: np.ndarray, height: int, width: int) -> np.ndarray:
    places = grid(height, width)
    return (places @ motion.T - places)[..., :2].astype(np.float32)


def textured(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    noise = np.random.default_rng(0).uniform(0, 255, (height // 6, width // 6, 3))
    picture = cv2.resize(noise.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(picture, 0, 255).astype(np.uint8)


def coordinates(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Return a picture whose colours are its own coordinates, times two."""
    places = grid(height, width) * 2
    return np.concatenate([places[..., :2], np.zeros((height, width, 1))], -1).astype(np.uint8)


def turn(degrees: float, zoom: float, dx: float, dy: float) -> np.ndarray:
    matrix = np.eye(3)
    matrix[:2] = cv2.getRotationMatrix2D((WIDTH / 2, HEIGHT / 2), degrees, zoom)
    matrix[:2, 2] += dx, dy
    return matrix


def test_a_known_affine_motion_stays_known():
    """In coordinates q = A p the motion M becomes B^-1 M A, whatever A and B are."""
    picture = textured()
    to_current, to_key = turn(20, 0.8, 3.3, -1.2), turn(14, 0.9, 1.0, 2.0)
    size = (44, 52)
    moved = move_pair(
        picture, picture, affine_flow(MOTION, HEIGHT, WIDTH), to_current, to_key, size
    )
    expected = affine_flow(np.linalg.inv(to_key) @ MOTION @ to_current, *size)
    assert moved.valid.mean() > 0.5
    np.testing.assert_allclose(moved.flow[moved.valid], expected[moved.valid], atol=1e-3)
    source = grid(*size) @ to_current.T
    inside = (source[..., :2] >= 0).all(-1) & (source[..., :2] <= [WIDTH - 1, HEIGHT - 1]).all(-1)
    np.testing.assert_array_equal(moved.valid, inside)


def test_every_draw_keeps_a_motion_affine_and_tells_the_truth_about_it():
    """The colours say where each frame's pixels came from: the flow must join the same points."""
    augment = FlowAugment(**ALL)
    flow = affine_flow(MOTION, HEIGHT, WIDTH)
    picture = coordinates()
    seen = 0
    for seed in range(12):
        moved = augment(picture, picture, flow, seed)
        assert moved.flow.shape == (40, 48, 2)
        # One affine map explains all of the flow.
        places = grid(40, 48)[moved.valid]
        fit, *_ = np.linalg.lstsq(places, moved.flow[moved.valid], rcond=None)
        np.testing.assert_allclose(places @ fit, moved.flow[moved.valid], atol=1e-3)
        target = (places[:, :2] + moved.flow[moved.valid]).astype(np.float32)
        inside = ((target >= 1) & (target <= [46, 38])).all(-1)
        there = cv2.remap(moved.key, target[None, :, 0], target[None, :, 1], cv2.INTER_LINEAR)[
            0, :, :2
        ]
        here = moved.current[moved.valid][:, :2] / 2.0
        expected = np.column_stack([here, np.ones(len(here))]) @ MOTION.T
        # The key frame has mirrored content outside its border.
        inside &= ((expected[:, :2] >= 2) & (expected[:, :2] <= [WIDTH - 3, HEIGHT - 3])).all(-1)
        if inside.any():
            error = np.abs(there[inside] / 2.0 - expected[inside, :2])
            assert np.percentile(error, 99) < 1.2  # colours count in steps of half a pixel
            seen += inside.sum()
    assert seen > 5000


def test_a_flipped_pair_has_the_flow_of_the_mirror():
    flow = np.random.default_rng(1).normal(size=(HEIGHT, WIDTH, 2)).astype(np.float32)
    picture = textured()
    flipped = FlowAugment(flip=1.0)(picture, picture, flow, 0)
    np.testing.assert_array_equal(flipped.current, picture[:, ::-1])
    np.testing.assert_allclose(flipped.flow, flow[:, ::-1] * [-1, 1], atol=1e-5)
    upside_down = FlowAugment(flip_vertical=1.0)(picture, picture, flow, 0)
    np.testing.assert_array_equal(upside_down.key, picture[::-1])
    np.testing.assert_allclose(upside_down.flow, flow[::-1] * [1, -1], atol=1e-5)
    assert flipped.valid.all()
    assert upside_down.valid.all()


def test_a_crop_takes_pixels_as_they_are_from_everywhere():
    picture = coordinates()
    flow = affine_flow(MOTION, HEIGHT, WIDTH)
    corners = set()
    for seed in range(200):
        cut = FlowAugment(crop=[50, 70])(picture, picture, flow, seed)
        x, y = (int(v) // 2 for v in cut.current[0, 0, :2])
        corners.add((x, y))
        np.testing.assert_array_equal(cut.key, picture[y : y + 50, x : x + 70])
        np.testing.assert_allclose(cut.flow, flow[y : y + 50, x : x + 70], atol=1e-5)
        assert cut.valid.all()
    assert {x for x, _ in corners} == set(range(11))
    assert {y for _, y in corners} == set(range(11))


def test_nothing_asked_for_changes_nothing():
    picture = textured()
    flow = affine_flow(MOTION, HEIGHT, WIDTH)
    same = FlowAugment()(picture, picture[::-1], flow, 3)
    np.testing.assert_array_equal(same.current, picture)
    np.testing.assert_array_equal(same.key, picture[::-1])
    np.testing.assert_allclose(same.flow, flow, atol=1e-5)


def test_scenes_still_follow_their_flow():
    """Warped by the moved flow, the moved key frame is the moved current frame where it is seen."""
    settings = SceneSettings(size=(96, 128), noise=0, brightness=0, detail=0, objects=(0, 0))
    scene = Scene(4, settings)
    current, key = scene.render(7).image, scene.render(0).image
    flow, _ = scene.flow(7, 0)
    for seed in range(4):
        moved = FlowAugment(**ALL | {"crop": [64, 80]})(current, key, flow, seed)
        y, x = np.mgrid[:64, :80].astype(np.float32)
        tx, ty = x + moved.flow[..., 0], y + moved.flow[..., 1]
        seen = moved.valid & (tx >= 0) & (tx <= 79) & (ty >= 0) & (ty <= 63)
        warped = cv2.remap(moved.key, tx, ty, cv2.INTER_LINEAR).astype(float)
        still = np.abs(moved.key.astype(float) - moved.current)[seen]
        error = np.abs(warped - moved.current)[seen]
        assert seen.mean() > 0.4
        assert np.median(error) < 0.35 * np.median(still)


def test_colours_change_both_frames_alike_and_leave_the_flow():
    picture = textured()
    flow = affine_flow(MOTION, HEIGHT, WIDTH)
    jitter = FlowAugment(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.2)
    one, again, other = (jitter(picture, picture, flow, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.current, one.key)
    np.testing.assert_array_equal(one.current, again.current)
    assert not np.array_equal(one.current, other.current)
    assert not np.array_equal(one.current, picture)
    np.testing.assert_allclose(one.flow, flow, atol=1e-5)


def grey(level: int) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), level, np.uint8)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"channels": [0.5, 0.5]}, 0.2),
        ({"gamma": [2.0, 2.0]}, 0.16),
        ({"contrast": [-0.8, -0.8]}, 0.5 - 0.1 * 0.2),
        ({"contrast": [0.4, 0.4]}, 0.5 - 0.1 * 1.4),
        ({"channels": [2.0, 2.0], "gamma": [0.5, 0.5], "contrast": [-0.5, -0.5]}, 0.6972),
    ],
)
def test_colours_of_flownet_by_hand(options, expected):
    """Of a level of 0.4; the last: ((2 * 0.4) ** 0.5 - 0.5) / 2 + 0.5."""
    frames = np.stack([grey(102), grey(102)])
    changed = Photometric(**options)(frames, np.random.default_rng(0))
    np.testing.assert_allclose(changed / 255, expected, atol=0.5 / 255 + 1e-6)


def test_noise_is_each_frames_own_and_the_rest_is_common():
    flow = affine_flow(np.eye(3), HEIGHT, WIDTH)
    ranges = {"channels": [0.5, 2.0], "gamma": [0.7, 1.5], "contrast": [-0.8, 0.4]}
    common = FlowAugment(photometric={**ranges, "brightness": 0.2})
    noisy = FlowAugment(photometric={"noise": 0.04})
    deviations = []
    for seed in range(40):
        pair = common(grey(102), grey(102), flow, seed)
        np.testing.assert_array_equal(pair.current, pair.key)
        pair = noisy(grey(102), grey(102), flow, seed)
        difference = pair.current.astype(float) - pair.key
        assert abs(difference.mean()) < 1
        deviations.append(difference.std() / np.sqrt(2) / 255)
    assert 0 <= min(deviations) < 0.005  # uniform in 0 .. 0.04
    assert 0.035 < max(deviations) < 0.041
    assert 0.015 < np.mean(deviations) < 0.025


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"photometric": {"gama": 1}}, r"data.augment.photometric.gama: expected one of channels"),
        (
            {"photometric": {"gamma": [2, 1]}},
            r"gamma=\[2, 1\]: expected \[least, most\]",
        ),
        ({"photometric": {"noise": 4}}, r"data.augment.photometric.noise=4: expected 0 .. 1"),
        ({"flop": 0.5}, "data.augment.flop: expected one of crop, flip, "),
        ({"flip": 1.5}, r"data.augment.flip=1.5: expected 0 .. 1"),
        ({"scale": [1.2, 0.8]}, r"data.augment.scale=\[1.2, 0.8\]: expected \[least, most\]"),
        ({"rotation": 200}, "data.augment.rotation=200: expected 0 .. 180"),
        ({"crop": [0, 4]}, r"data.augment.crop=\[0, 4\]: expected \[height, width\]"),
        ({"hue": 0.7}, "data.augment.hue=0.7: expected 0 .. 0.5"),
    ],
)
def test_bad_options_are_one_line(options, said):
    with pytest.raises(ValueError, match=said) as refusal:
        FlowAugment.from_mapping(options)
    assert "\n" not in str(refusal.value)


def test_a_crop_larger_than_the_pictures_is_refused():
    picture = textured()
    with pytest.raises(ValueError, match=r"crop=\[64, 80\]: expected at most \[60, 80\]"):
        FlowAugment(crop=[64, 80])(picture, picture, affine_flow(MOTION, HEIGHT, WIDTH), 0)
