"""The embedded action set: balanced static cues, known motion, UCF-101's own layout."""

import itertools
from dataclasses import replace
from pathlib import Path as FilePath

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from data_modules.action_lists import read_ucf_lists
from data_modules.synthetic.actions_scenes import (
    ACTIONS,
    ACTS,
    SCENE,
    SPACING,
    ActionScene,
    row_of_paths,
)
from data_modules.synthetic.actions_writer import (
    ActionsSettings,
    action_scene,
    actions_settings,
    video_name,
    write_ucf101,
)
from data_modules.synthetic.motion import MOTIONS
from data_modules.video import open_video

SMALL = ActionsSettings(
    scene=replace(SCENE, size=(40, 52)), groups=4, clips=1, frames=(5, 8), quantiser=2
)
UNIT = min(SCENE.size)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> FilePath:
    folder = tmp_path_factory.mktemp("actions") / "set"
    assert write_ucf101(folder, SMALL)
    return folder


def poses(act: str, t: float, count: int = 300) -> dict[str, NDArray[np.float64]]:
    """Return what one frame shows of rows: phase, height, size, angle (at time t)."""
    values = []
    for number in range(count):
        rng = np.random.default_rng((list(ACTS).index(act), number))
        pose = row_of_paths(rng, ACTS[act], SCENE.size)[0].pose(t)
        size = np.sqrt(np.linalg.det(pose[:, :2]))
        angle = np.arctan2(pose[1, 0], pose[0, 0])
        values.append((pose[0, 2] % (SPACING * UNIT), pose[1, 2], size, angle))
    return dict(zip(("phase", "height", "size", "angle"), np.transpose(values), strict=True))


@pytest.mark.parametrize("t", [0, 20, 47])
def test_one_frame_does_not_tell_the_motion(t: float) -> None:
    """First, middle and last frame: every pose is distributed alike over all pairs of acts."""
    shown = {act: poses(act, t) for act in ACTS}
    p_values = [
        ks_2samp(shown[one][cue], shown[other][cue]).pvalue
        for one, other in itertools.combinations(ACTS, 2)
        for cue in shown[one]
    ]
    assert min(p_values) > 0.01 / len(p_values)  # Bonferroni


def test_the_balance_test_would_see_an_imbalance() -> None:
    biased = {act: poses(act, 20, 300)["phase"] for act in ("Left", "Right")}
    biased["Right"] = biased["Right"] * 0.7
    assert ks_2samp(*biased.values()).pvalue < 1e-4


def test_the_acts_move_as_they_say() -> None:
    for wanted in ACTS.values():
        path = row_of_paths(np.random.default_rng(3), wanted, SCENE.size)[1]
        before, after = path.pose(10), path.pose(14)
        dx = after[0, 2] - before[0, 2]
        turn = np.angle(
            complex(*after[:, 0]) / complex(*before[:, 0])  # columns of a similarity
        )
        sizes = [np.sqrt(np.linalg.det(path.pose(t)[:, :2])) for t in range(48)]
        assert 0.85 <= dx / (4 * wanted.shift * UNIT) <= 1.15 if wanted.shift else abs(dx) < 1e-9
        assert abs(turn - 4 * wanted.spin) < 4 * (0.15 * wanted.spin + 0.008) + 1e-9
        assert (max(sizes) / min(sizes) > 1.5) == (wanted.swell > 0)


def test_a_thing_is_always_in_view() -> None:
    """The central square, which a centre crop shows, holds a good part of one at any time."""
    for action in range(len(ACTIONS)):
        scene, frames = action_scene(ActionsSettings(), action, 1 + action, 1)
        for t in (0, frames // 2, frames - 1):
            picture = scene.render(t)
            assert (picture.instances[:, 13:93] > 0).sum() > 250
            kinds = set(picture.classes.tolist()) - {3}
            assert kinds == {action // len(ACTS)}
            motions = {MOTIONS[m] for m in picture.motions if MOTIONS[m] != "wander"}
            assert motions == {tuple(ACTS.values())[action % len(ACTS)].named}


def test_videos_of_a_group_show_one_place() -> None:
    """Backgrounds are the same texture, whatever the class: they tell nothing about it."""
    places = [ActionScene((0, g), (1, n), SCENE, n, "Spin") for n, g in enumerate((5, 5, 6))]
    same, other = (scene._background for scene in places[1:])
    assert np.array_equal(places[0]._background, same)
    assert not np.array_equal(places[0]._background, other)


def test_layout(root: FilePath) -> None:
    for name in ("classInd.txt", "trainlist01.txt", "testlist03.txt"):
        text = (root / "ucfTrainTestlist" / name).read_bytes()
        assert text.count(b"\n") == text.count(b"\r\n") > 0
    index = (root / "ucfTrainTestlist/classInd.txt").read_text().splitlines()
    assert index[:2] == ["1 DiscLeft", "2 DiscRight"]
    assert len(index) == len(ACTIONS) == 15
    tested = []
    for split in (1, 2, 3):
        lists = read_ucf_lists(root / "ucfTrainTestlist", split)
        assert lists.classes == ACTIONS
        assert (len(lists.train), len(lists.test)) == (45, 15)
        groups = [
            {v.group.rpartition("/")[2] for v in part if v.group}
            for part in (lists.train, lists.test)
        ]
        assert not groups[0] & groups[1]
        tested.append(groups[1])
        for video in lists.train + lists.test:
            assert (root / "UCF-101" / f"{video.name}.avi").is_file()
    assert tested == [{"g01"}, {"g02"}, {"g03"}]
    assert len(list(root.glob("UCF-101/*/*.avi"))) == 60


def test_videos_hold_the_rendered_frames(root: FilePath) -> None:
    path = root / "UCF-101" / f"{video_name(7, 2, 1)}.avi"
    assert path.name == "v_SquareFastRight_g02_c01.avi"
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.average_rate) == ("mpeg4", 25)
    scene, frames = action_scene(SMALL, 7, 2, 1)
    source = open_video(path)
    assert len(source) == frames
    assert 5 <= frames <= 8
    found = source.read(range(frames)).astype(float)
    rendered = np.stack([scene.render(t).image for t in range(frames)])
    error = [np.square(found - np.roll(rendered, s, 0)).mean() for s in (0, 1, -1)]
    assert error[0] < 120
    assert error[0] < 0.5 * min(error[1:])


def test_a_seed_gives_the_same_files(root: FilePath, tmp_path: FilePath) -> None:
    assert not write_ucf101(root, SMALL)
    write_ucf101(tmp_path / "again", SMALL)
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(root)).read_bytes()
    one, other = (action_scene(replace(SMALL, seed=seed), 0, 1, 1)[0] for seed in (0, 1))
    assert not np.array_equal(one.render(0).image, other.render(0).image)


def test_bad_settings_are_named() -> None:
    for values, message in (
        ({"groups": 3}, "groups: expected 4"),
        ({"clips": 0}, "clips"),
        ({"frames": [9, 5]}, "frames: expected 1 <= fewest <= most"),
        ({"quantiser": 0}, "quantiser"),
        ({"scene": {"classes": 3}}, "scene.classes: expected more than 3"),
        ({"colour": 1}, "unknown key colour: expected one of scene, groups"),
    ):
        with pytest.raises(ValueError, match=message):
            actions_settings(values)
