"""The embedded septuplets have the official layout, fine texture and motion, and come again."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_modules.degrade_codecs import Degradation
from data_modules.pictures import read_pictures
from data_modules.septuplets import FRAMES, Septuplets
from data_modules.synthetic.scenes import Scene
from data_modules.synthetic.septuplet_writer import (
    FINE,
    SeptupletSettings,
    embedded_settings,
    write_septuplets,
)

SMALL = SeptupletSettings(scene=replace(FINE, size=(48, 64)), train_septuplets=3, test_septuplets=2)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vimeo") / "vimeo_septuplet"
    assert write_septuplets(folder, SMALL)
    return folder


def test_the_layout_is_the_official_one(root: Path) -> None:
    assert (root / "sep_trainlist.txt").read_text() == "00001/0001\n00001/0002\n00001/0003\n"
    assert (root / "sep_testlist.txt").read_text() == "00001/0004\n00001/0005\n\n"
    folder = root / "sequences/00001/0005"
    assert sorted(p.name for p in folder.iterdir()) == [f"im{n}.png" for n in range(1, 8)]
    assert len(Septuplets(root).clips("sep_testlist.txt", allow_missing=False)) == 2


def test_frames_are_the_generators(root: Path) -> None:
    frames = read_pictures(root / "sequences/00001/0002", FRAMES)
    scene = Scene((0, 30, 1), SMALL.scene)
    np.testing.assert_array_equal(frames, np.stack([scene.render(t).image for t in range(7)]))
    assert not np.array_equal(frames, read_pictures(root / "sequences/00001/0003", FRAMES))


def test_it_is_written_once_and_the_same_again(root: Path, tmp_path: Path) -> None:
    assert not write_septuplets(root, SMALL)
    other = tmp_path / "again"
    assert write_septuplets(other, SMALL)
    for path in root.rglob("*.png"):
        assert path.read_bytes() == (other / path.relative_to(root)).read_bytes()


def test_compression_hurts_and_neighbours_know_more() -> None:
    """Averaging degraded neighbours along the true motion beats the degraded frame itself."""
    gains, inputs = [], []
    for seed in range(4):
        scene = Scene((0, 30, seed), FINE)
        clean = np.stack([scene.render(t).image for t in (2, 3, 4)])
        found = np.stack(list(Degradation("jpeg2000", 40)([clean], FINE.size))).astype(float)
        total, count = found[1].copy(), np.ones((*FINE.size, 1))
        y, x = np.mgrid[: FINE.size[0], : FINE.size[1]]
        for number, k in ((0, 2), (2, 4)):
            flow, seen = scene.flow(3, k)
            at = np.rint([y + flow[..., 1], x + flow[..., 0]]).astype(int)
            at = np.clip(at, 0, np.array(FINE.size)[:, None, None] - 1)
            total += found[number][at[0], at[1]] * seen[..., None]
            count += seen[..., None]
        errors = [np.mean((f - clean[1]) ** 2) for f in (found[1], total / count)]
        inputs.append(10 * np.log10(255**2 / errors[0]))
        gains.append(10 * np.log10(errors[0] / errors[1]))
    assert 27 < np.mean(inputs) < 33
    assert np.mean(gains) > 0.3


def test_settings_from_config() -> None:
    found = embedded_settings({"test_septuplets": 5, "scene": {"size": [32, 48]}})
    assert found == SeptupletSettings(scene=replace(FINE, size=(32, 48)), test_septuplets=5)
    with pytest.raises(ValueError, match=r"data.synthetic: unknown key tests: expected one of"):
        embedded_settings({"tests": 5})
    with pytest.raises(ValueError, match="train_septuplets: expected at least 1, found 0"):
        embedded_settings({"train_septuplets": 0})
    with pytest.raises(ValueError, match="seed: expected >= 0"):
        SeptupletSettings(seed=-1)
