"""The scene generator tells the truth: flow, visibility, masks and boxes fit the pictures."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from data_modules.synthetic.motion import MOTIONS
from data_modules.synthetic.scenes import Picture, Scene, SceneSettings

CLEAN = SceneSettings(noise=0, brightness=0, detail=0)


def box_iou(a: np.ndarray, b: np.ndarray) -> float:
    width, height = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    inter = max(0, width) * max(0, height)
    return inter / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inter)


@pytest.mark.parametrize(("seed", "i", "k"), [(0, 9, 0), (1, 3, 12), (2, 25, 20), (3, 40, 31)])
def test_flow_warps_frame_k_onto_frame_i(seed: int, i: int, k: int) -> None:
    scene = Scene(seed, CLEAN)
    current, key = scene.render(i), scene.render(k)
    flow, valid = scene.flow(i, k)
    y, x = np.mgrid[: flow.shape[0], : flow.shape[1]].astype(np.float32)
    warped = cv2.remap(key.image, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR)
    error = np.abs(warped.astype(int) - current.image)[valid].mean(axis=1)
    still = np.abs(key.image.astype(int) - current.image)[valid].mean(axis=1)
    assert valid.mean() > 0.5
    # What is left is interpolation, and rims whose pixels mix with a background that moves apart.
    assert error.mean() < 2
    assert np.percentile(error, 95) < 6
    assert error.mean() < 0.15 * still.mean()


def test_flow_follows_each_object_and_not_the_background() -> None:
    # Inside objects alone: their share of the frame is too small for the test above to notice.
    # In half a pixel of error the fine patterns would differ by more.
    found = 0
    for seed in range(6):
        scene = Scene(seed, CLEAN)
        current, key = scene.render(9), scene.render(0)
        flow, valid = scene.flow(9, 0)
        y, x = np.mgrid[: flow.shape[0], : flow.shape[1]].astype(np.float32)
        warped = cv2.remap(key.image, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR)
        for number in current.numbers:
            inner = cv2.erode((current.instances == number).astype(np.uint8), np.ones((5, 5)))
            inside = (inner > 0) & valid
            if inside.sum() < 100:
                continue
            found += 1
            error = np.abs(warped[inside].astype(int) - current.image[inside])
            assert np.median(error) <= 3
            assert (
                error.mean() < 0.2 * np.abs(key.image[inside].astype(int) - warped[inside]).mean()
            )
    assert found >= 6


def test_flow_to_itself_is_zero_and_valid() -> None:
    flow, valid = Scene(5, CLEAN).flow(7, 7)
    assert np.abs(flow).max() < 1e-3
    # A rim pixel's four neighbours may belong to another layer; all else is visible.
    assert valid.mean() > 0.85


def test_there_and_back_is_the_identity() -> None:
    scene = Scene(8, CLEAN)
    forth, valid = scene.flow(12, 4)
    back, _ = scene.flow(4, 12)
    y, x = np.mgrid[: forth.shape[0], : forth.shape[1]].astype(np.float32)
    returned = cv2.remap(back, x + forth[..., 0], y + forth[..., 1], cv2.INTER_LINEAR)
    assert np.abs(forth + returned)[valid].max() < 0.05


def test_hidden_points_are_not_valid() -> None:
    settings = replace(CLEAN, objects=(3, 3), object_size=(0.4, 0.46), travel=(1.0, 1.4))
    for seed in range(4):
        scene = Scene(seed, settings)
        flow, valid = scene.flow(9, 0)
        here, there = scene.render(9).instances, scene.render(0).instances
        y, x = np.mgrid[: here.shape[0], : here.shape[1]]
        u, v = np.rint(x + flow[..., 0]).astype(int), np.rint(y + flow[..., 1]).astype(int)
        inside = (u >= 0) & (u < here.shape[1]) & (v >= 0) & (v < here.shape[0])
        at_target = there[v.clip(0, here.shape[0] - 1), u.clip(0, here.shape[1] - 1)]
        assert not valid[~inside].any()
        assert not valid[inside & (at_target != here)].any()
        assert (inside & (at_target != here)).sum() > 50  # there was something to get wrong


def test_boxes_are_tight_around_the_visible_part() -> None:
    for seed in range(5):
        scene = Scene(seed, replace(CLEAN, objects=(3, 3)))
        for t in (0, 11, 30):
            picture = scene.render(t)
            assert set(picture.numbers) == set(np.unique(picture.instances)) - {0}
            for number, box in zip(picture.numbers, picture.boxes, strict=True):
                y, x = np.nonzero(picture.instances == number)
                assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]


def test_masks_show_where_the_object_is_drawn() -> None:
    # The same scene without its objects differs inside the masks only (and on soft rims).
    scene = Scene(4, replace(CLEAN, objects=(3, 3)))
    picture = scene.render(6)
    scene._things = ()
    scene._recent.clear()
    bare = scene.render(6)
    changed = (picture.image != bare.image).any(axis=2)
    mask = picture.instances > 0
    rim = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5))) > 0
    assert mask.sum() > 500
    assert changed[mask].mean() > 0.99
    assert not changed[~rim].any()


def test_visible_share_tells_occlusion_from_full_view() -> None:
    settings = replace(CLEAN, objects=(1, 1), motions=("still",))
    whole = 0
    for seed in range(8):
        picture = Scene(seed, settings).render(0)
        x0, y0, x1, y1 = picture.boxes[0]
        if min(x0, y0, 160 - x1, 128 - y1) > 0:  # wholly inside the frame
            whole += 1
            assert picture.visible == pytest.approx([1.0], abs=0.03)
    assert whole >= 3
    crowd = replace(CLEAN, objects=(8, 8), object_size=(0.4, 0.46))
    shares = np.concatenate([Scene(n, crowd).render(0).visible for n in range(3)])
    assert shares.min() < 0.5 < shares.max() <= 1


@pytest.mark.parametrize(
    ("motion", "axis", "sign"), [("left", 0, -1), ("right", 0, 1), ("up", 1, -1), ("down", 1, 1)]
)
def test_named_directions_go_there(motion: str, axis: int, sign: int) -> None:
    settings = replace(
        CLEAN, motions=(motion,), liveliness=0, travel=(0.5, 0.5), objects=(1, 1), pan=(0, 0)
    )
    for seed in range(3):
        scene = Scene(seed, settings)
        picture = scene.render(0)
        flow, valid = scene.flow(0, 2)
        moved = flow[(picture.instances == 1) & valid]
        assert picture.motions.tolist() == [MOTIONS.index(motion)]
        assert (sign * moved[:, axis] > 1).all()
        assert np.abs(moved[:, 1 - axis]).max() < 1e-2


def test_named_turns_and_sizes() -> None:
    base = replace(CLEAN, liveliness=0, objects=(1, 1), pan=(0, 0))
    areas = {}
    for motion in ("grow", "shrink", "still"):
        path = Scene(2, replace(base, motions=(motion,)))._things[0].path
        areas[motion] = [np.linalg.det(path.pose(t)[:, :2]) for t in range(0, 40, 5)]
    assert (np.diff(areas["grow"]) > 0).all()
    assert (np.diff(areas["shrink"]) < 0).all()
    assert np.ptp(areas["still"]) == 0
    for motion, sign in (("clockwise", 1), ("anticlockwise", -1)):
        pose = Scene(2, replace(base, motions=(motion,)))._things[0].path.pose
        # y points down: a positive angle turns the x axis towards the bottom of the screen.
        turn = pose(1)[:, :2] @ np.linalg.inv(pose(0)[:, :2])
        assert sign * turn[1, 0] > 0.05


def test_an_object_that_comes_back_is_a_new_track() -> None:
    settings = replace(
        CLEAN, motions=("right",), liveliness=0, travel=(1.4, 1.4), objects=(1, 1), classes=1
    )
    scene = Scene(0, settings)
    pictures = [scene.render(t) for t in range(90)]
    shown = [tuple(p.tracks) for p in pictures if len(p.tracks)]
    assert len(set(shown)) >= 2
    gone = [t for t, p in enumerate(pictures) if not len(p.tracks)]
    assert gone  # wholly out of sight in between
    last = next(t for t in range(gone[0], 90) if len(pictures[t].tracks))
    _, valid = scene.flow(last, 0)
    assert not valid[pictures[last].instances == 1].any()


def same(a: Picture, b: Picture) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_same_seed_same_scene_in_any_order() -> None:
    settings = SceneSettings()
    one, two = Scene((3, 1), settings), Scene((3, 1), settings)
    forth = [one.render(t) for t in (0, 5, 9)]
    back = [two.render(t) for t in (9, 5, 0)][::-1]
    assert all(same(a, b) for a, b in zip(forth, back, strict=True))
    assert not np.array_equal(forth[0].image, Scene((3, 2), settings).render(0).image)


def test_noise_and_brightness_can_be_switched_off() -> None:
    still = SceneSettings(objects=(0, 0), pan=(0, 0), noise=4.0, brightness=0.0)
    clean = Scene(1, replace(still, noise=0)).render(3).image.astype(float)
    noisy = Scene(1, still).render(3).image.astype(float)
    inside = (clean > 20) & (clean < 235)
    assert np.std((noisy - clean)[inside]) == pytest.approx(4.0, rel=0.05)
    bright = Scene(1, replace(still, noise=0, brightness=0.2))
    means = [bright.render(t).image.mean() for t in range(0, 120, 5)]
    assert max(means) / min(means) > 1.25


def test_copying_a_key_frame_for_nine_frames_hurts() -> None:
    settings = SceneSettings(noise=0)
    overlaps: dict[int, list[float]] = {3: [], 9: []}
    for seed in range(60):
        scene = Scene((0, seed), settings)
        for k in (0, 15):
            key = scene.render(k)
            for distance, values in overlaps.items():
                current = scene.render(k + distance)
                for track, box in zip(current.tracks, current.boxes, strict=True):
                    values += [box_iou(box, b) for b in key.boxes[key.tracks == track]]
    assert np.median(overlaps[9]) < 0.45
    assert np.mean(np.array(overlaps[9]) > 0.6) > 0.05  # slow ones exist, too
    assert np.median(overlaps[3]) > 0.45  # and near frames are not a lottery


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objects": (3, 1)}, "objects"),
        ({"size": (8, 160)}, "size"),
        ({"motions": ("fly",)}, "fly"),
        ({"classes": 0}, "classes"),
    ],
)
def test_bad_settings_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SceneSettings(**change)  # type: ignore[arg-type]


def test_pace_changes_the_speed_and_not_the_way() -> None:
    kind = {"motions": ("right",), "objects": (1, 1), "liveliness": 0.0, "pan": (0.0, 0.0)}
    steady = Scene(4, SceneSettings(**kind))
    changing = Scene(4, SceneSettings(**kind, pace=1.0, pace_period=24.0))

    def moved(scene: Scene, i: int, k: int) -> float:
        return float(scene._between(1, i, k)[2, 0])

    speed = moved(steady, 0, 1)
    steps = [moved(changing, t, t + 1) for t in range(24)]
    assert np.isclose(sum(steps), 24 * speed, rtol=1e-4)  # one period brings everything as far
    assert min(steps) < 0.02 * speed
    assert max(steps) > 1.95 * speed
