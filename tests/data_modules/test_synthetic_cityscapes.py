"""The embedded segmentation set: official names, true labels, regions that move with the flow."""

from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch

from data_modules.cityscapes import Cityscapes
from data_modules.cityscapes_labels import CLASSES
from data_modules.clips import Pair
from data_modules.synthetic.cityscapes_writer import (
    CITY,
    REGIONS,
    THINGS,
    CityscapesSettings,
    embedded_settings,
    label_ids,
    write_cityscapes,
)
from data_modules.synthetic.scenes import Scene, SceneSettings, scene_settings

SMALL = CityscapesSettings(scene=replace(CITY, size=(48, 96)), train_snippets=3, val_snippets=2)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("city") / "cityscapes"
    assert write_cityscapes(folder, SMALL)
    return folder


def files(root: Path) -> list[str]:
    return sorted(str(p.relative_to(root)) for p in root.rglob("*.*") if p.suffix != ".json")


def test_names_are_official_and_only_the_20th_frame_is_labelled(root: Path, tmp_path: Path) -> None:
    assert files(root) == sorted(
        [f"gtFine/train/aurelia/aurelia_{n:06}_000019_gtFine_labelIds.png" for n in range(3)]
        + [f"leftImg8bit/train/aurelia/aurelia_{n:06}_000019_leftImg8bit.png" for n in range(3)]
        + [f"leftImg8bit_sequence/train/aurelia/aurelia_{n:06}_000000.mp4" for n in range(3)]
        + [f"gtFine/val/florin/florin_000000_{n:06}_gtFine_labelIds.png" for n in (294, 354)]
        + [f"leftImg8bit/val/florin/florin_000000_{n:06}_leftImg8bit.png" for n in (294, 354)]
        + [f"leftImg8bit_sequence/val/florin/florin_000000_{n:06}.mp4" for n in (275, 335)]
    )
    pictures = replace(SMALL, storage="png", train_snippets=1, val_snippets=1, stills=False)
    write_cityscapes(tmp_path / "png", pictures)
    folder = tmp_path / "png/leftImg8bit_sequence/val/florin"
    names = [f"florin_000000_{n:06}_leftImg8bit.png" for n in range(275, 305)]
    assert sorted(p.name for p in folder.iterdir()) == names
    assert not (tmp_path / "png/leftImg8bit").exists()
    image = cv2.imread(str(folder / names[19]))[..., ::-1]
    assert np.array_equal(image, Scene((0, 21, 0), SMALL.scene).render(19).image)


def test_labels_and_stills_are_the_rendered_truth(root: Path) -> None:
    scene = Scene((0, 20, 1), SMALL.scene)
    picture = scene.render(19)
    stem = "train/aurelia/aurelia_000001_000019"
    still = cv2.imread(str(root / f"leftImg8bit/{stem}_leftImg8bit.png"))[..., ::-1]
    assert np.array_equal(still, picture.image)
    ids = cv2.imread(str(root / f"gtFine/{stem}_gtFine_labelIds.png"), cv2.IMREAD_UNCHANGED)
    assert ids.dtype == np.uint8
    official = {"sky": 23, "building": 11, "vegetation": 21, "road": 7}
    official |= {"car": 26, "person": 24, "bicycle": 33}
    for y, x in np.random.default_rng(0).integers((2, 2), (46, 94), (400, 2)):
        number = picture.instances[y, x]
        name = REGIONS[picture.regions[y, x]]
        if number:
            name = THINGS[picture.classes[picture.numbers.tolist().index(number)]]
        assert ids[y, x] == official[name]
    assert (ids[:2] == 3).all()
    assert (ids[:, -2:] == 3).all()


def test_videos_hold_the_rendered_frames(root: Path) -> None:
    path = root / "leftImg8bit_sequence/train/aurelia/aurelia_000001_000000.mp4"
    with av.open(str(path)) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    assert len(frames) == 30
    scene = Scene((0, 20, 1), SMALL.scene)
    for t in (0, 19, 29):
        near = [np.square(frames[n].astype(float) - scene.render(t).image).mean()
                for n in (t, (t + 1) % 30, t - 1)]  # fmt: skip
        assert near[0] < 150  # noise and halved chroma
        assert near[0] < 0.6 * min(near[1:])


def test_the_data_module_reads_it_as_the_real_set(root: Path) -> None:
    options = {"train_snippets": 3, "val_snippets": 2, "scene": {"size": [48, 96]}}
    data = Cityscapes(
        synthetic_root=root, synthetic=options, clip=Pair(4), batch_size=3, num_workers=0
    )
    data.prepare_data()
    data.setup("fit")
    (batch,) = data.train_dataloader()
    assert batch["indices"][:, 1].tolist() == [19] * 3
    names = {CLASSES[n] for labels in batch["label_maps"] for n in labels.unique() if n != 255}
    assert {"sky", "building", "vegetation", "road"} <= names <= {*REGIONS, *THINGS[:3]}
    stills = Cityscapes(
        synthetic_root=root, synthetic=options, images="leftImg8bit", batch_size=3, num_workers=0
    )
    stills.setup("fit")
    (still,) = stills.train_dataloader()
    order = [still["snippets"].index(name) for name in batch["snippets"]]
    for b, n in enumerate(order):
        assert torch.equal(batch["label_maps"][b], still["label_maps"][n])
        assert (batch["frames"][b, 1] - still["frames"][n, 0]).abs().mean() < 0.04


def test_the_same_settings_write_nothing_again(root: Path) -> None:
    before = {name: (root / name).read_bytes() for name in files(root)}
    assert not write_cityscapes(root, SMALL)
    assert write_cityscapes(root, replace(SMALL, seed=1))
    assert files(root) == sorted(before)
    assert write_cityscapes(root, SMALL)
    assert {name: (root / name).read_bytes() for name in files(root)} == before


def test_regions_move_with_the_background() -> None:
    scene = Scene(5, replace(CITY, size=(64, 128)))
    here, there = scene.render(9), scene.render(5)
    flow, seen = scene.flow(9, 5)
    y, x = np.mgrid[:64, :128]
    seen &= here.instances == 0
    target = np.rint(np.stack([y + flow[..., 1], x + flow[..., 0]]))[:, seen].astype(int)
    moved = there.regions[target[0], target[1]]
    assert np.hypot(flow[..., 0], flow[..., 1])[seen].mean() > 1.5
    assert (moved == here.regions[seen]).mean() > 0.97  # all but a rim
    assert (there.regions == here.regions)[seen].mean() < 0.95


def test_regions_can_be_told_apart_and_stand_in_order() -> None:
    scene = Scene(3, replace(CITY, size=(64, 128), noise=0, brightness=0))
    picture = scene.render(0)
    bare = picture.instances == 0
    rows = np.arange(64)[:, None].repeat(128, 1)
    colours, heights = [], []
    for kind in range(4):
        mask = bare & (picture.regions == kind)
        assert mask.sum() > 50
        colours.append(picture.image[mask].mean(0))
        heights.append(rows[mask].mean())
    assert heights[0] < min(heights[1:3])
    assert max(heights[1:3]) < heights[3]
    gaps = [np.abs(a - b).max() for n, a in enumerate(colours) for b in colours[:n]]
    assert min(gaps) > 15


@pytest.mark.parametrize("kinds", [1, 2, 3])
def test_fewer_regions(kinds: int) -> None:
    picture = Scene(1, SceneSettings(size=(64, 64), regions=kinds)).render(0)
    assert set(np.unique(picture.regions)) == set(range(kinds))
    if kinds == 1:
        assert set(np.unique(label_ids(picture)[picture.instances == 0])) <= {3, 7}


def test_copying_four_frames_hurts_and_the_true_flow_does_not() -> None:
    """IoU of the picture's own labels, carried over four frames without and with the true flow."""
    confusions = np.zeros((2, 34, 34))
    y, x = np.mgrid[:128, :256]
    for seed in range(6):
        scene = Scene((1, seed), CITY)
        truth, past = label_ids(scene.render(19)), label_ids(scene.render(15))
        flow, _ = scene.flow(19, 15)
        rows = np.clip(np.rint(y + flow[..., 1]), 2, 125).astype(int)
        columns = np.clip(np.rint(x + flow[..., 0]), 2, 253).astype(int)
        for n, found in enumerate((past, past[rows, columns])):
            inside = truth != 3
            np.add.at(confusions[n], (truth[inside], found[inside]), 1)
    means = []
    for confusion in confusions:
        both = np.diag(confusion)
        union = confusion.sum(0) + confusion.sum(1) - both
        means.append((both / np.maximum(union, 1))[confusion.sum(1) > 0].mean())
    assert means[0] < 0.65
    assert means[1] > means[0] + 0.2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"val_snippets": 0}, "val_snippets: expected at least 1"),
        ({"seed": -1}, "seed: expected >= 0"),
        ({"storage": "avi"}, "storage: expected mp4 or png"),
        ({"scene": replace(CITY, size=(49, 64))}, "even"),
        ({"scene": replace(CITY, classes=9)}, r"scene.classes: expected 1..8, found 9"),
    ],
)
def test_bad_settings_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


def test_settings_from_a_config() -> None:
    found = embedded_settings({"train_snippets": 5, "scene": {"pan": [0, 0.1]}})
    assert found == replace(
        CityscapesSettings(), train_snippets=5, scene=replace(CITY, pan=(0, 0.1))
    )
    assert scene_settings({"classes": 2}) == SceneSettings(classes=2)
    with pytest.raises(ValueError, match=r"scene regions: expected 1 .. 4, found 5"):
        scene_settings({"regions": 5})
