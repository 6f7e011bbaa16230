"""The embedded VID set has the official layout, its XMLs tell the truth, and it is reproducible."""

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import av
import cv2
import numpy as np
import pytest

from data_modules.synthetic.scenes import Scene, SceneSettings
from data_modules.synthetic.vid_writer import CLASSES, SCENE, VidSettings, write_imagenet_vid

SMALL = VidSettings(
    scene=replace(SCENE, size=(48, 64), objects=(2, 3)),
    train_snippets=2,
    val_snippets=2,
    frames=20,
    stills=5,
)
TRAIN = "train/ILSVRC2015_VID_train_0000/ILSVRC2015_train_"


def decode(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vid") / "ILSVRC2015"
    assert write_imagenet_vid(folder, SMALL)
    return folder


def test_lists_have_the_official_columns(root: Path) -> None:
    train = (root / "ImageSets/VID/VID_train_15frames.txt").read_text().splitlines()
    assert len(train) == 2 * 15
    assert train[0] == f"{TRAIN}00000000 1 0 20"
    frames = [int(line.split()[2]) for line in train[:15]]
    assert frames == sorted(set(frames))
    assert frames[-1] == 19
    assert (root / "ImageSets/VID/VID_val_videos.txt").read_text() == (
        "val/ILSVRC2015_val_00000000 1 0 20\nval/ILSVRC2015_val_00000001 21 0 20\n"
    )
    classes = (root / "map_vid.txt").read_text().splitlines()
    assert classes[:2] == ["striped_disc 1 striped disc", "star 2 star"]
    assert len(classes) == 10
    stills = (root / "ImageSets/DET/DET_train_30classes.txt").read_text().splitlines()
    assert len(stills) == 5
    for line in stills:
        name, one = line.split()
        image = cv2.imread(str(root / "Data/DET" / f"{name}.JPEG"))
        tree = ElementTree.parse(root / "Annotations/DET" / f"{name}.xml")
        assert one == "1"
        assert image.shape == (48, 64, 3)
        assert tree.find("object/trackid") is None


def test_every_class_is_seen_in_a_list_as_long_as_there_are_classes() -> None:
    seen = {
        int(kind)
        for number in range(len(CLASSES))
        for kind in Scene((0, 1, number), SCENE, first=number).render(0).classes
    }
    assert seen == set(range(len(CLASSES)))


def test_xml_has_the_official_fields(root: Path, samples: Path) -> None:
    def shape(element: ElementTree.Element) -> list[str]:
        return [element.tag, *(tag for child in element for tag in shape(child))]

    official = samples / "ILSVRC2015/Annotations/VID/val/ILSVRC2015_val_00030000/000000.xml"
    ours = root / "Annotations/VID/val/ILSVRC2015_val_00000000/000000.xml"
    found, wanted = ElementTree.parse(ours).getroot(), ElementTree.parse(official).getroot()
    assert set(shape(found)) == set(shape(wanted))
    assert shape(found)[:7] == shape(wanted)[:7]
    assert shape(found.findall("object")[0]) == shape(wanted.findall("object")[0])
    assert found.findtext("folder") == "ILSVRC2015_val_00000000"
    assert found.findtext("filename") == "000000"


def test_boxes_hold_both_ends_from_zero(root: Path) -> None:
    scene, seen = Scene((0, 0, 1), SMALL.scene, first=1), 0
    for t in (0, 7, 19):
        picture = scene.render(t)
        tree = ElementTree.parse(root / "Annotations/VID" / f"{TRAIN}00000001" / f"{t:06}.xml")
        objects = {int(o.findtext("trackid", "")): o for o in tree.iter("object")}
        for n, track in enumerate(picture.tracks):
            y, x = np.nonzero(picture.instances == picture.numbers[n])
            if int(track) not in objects:
                assert picture.visible[n] < 0.15 or min(np.ptp(x), np.ptp(y)) < 5
                continue
            seen += 1
            item = objects[int(track)]
            ends = [int(item.findtext(f"bndbox/{k}", "")) for k in ("xmin", "ymin", "xmax", "ymax")]
            assert ends == [x.min(), y.min(), x.max(), y.max()]
            assert item.findtext("name") == CLASSES[picture.classes[n]][0]
            assert item.findtext("occluded") == str(int(picture.visible[n] < 0.7))
    assert seen >= 4


def test_videos_hold_the_rendered_frames(root: Path) -> None:
    frames = decode(root / "Data/VID" / f"{TRAIN}00000001.mp4")
    scene = Scene((0, 0, 1), SMALL.scene, first=1)
    rendered = np.stack([scene.render(t).image for t in range(20)])
    assert frames.shape == rendered.shape
    error = [np.square(frames.astype(float) - np.roll(rendered, s, 0)).mean() for s in (0, 1, -1)]
    assert error[0] < 120  # 27 dB: noise and halved chroma
    assert error[0] < 0.5 * min(error[1:])  # no frame off by one


def test_a_seed_gives_the_same_labels_and_pixels(root: Path, tmp_path: Path) -> None:
    write_imagenet_vid(tmp_path / "again", SMALL)
    for path in sorted(root.rglob("*")):
        other = tmp_path / "again" / path.relative_to(root)
        if path.suffix == ".mp4":
            assert np.array_equal(decode(path), decode(other))
        elif path.is_file():
            assert path.read_bytes() == other.read_bytes()
    tiny = replace(SMALL, frames=2, train_snippets=1, val_snippets=1, stills=0)
    write_imagenet_vid(tmp_path / "other", replace(tiny, seed=1))
    name = f"Data/VID/{TRAIN}00000000.mp4"
    assert not np.array_equal(decode(root / name)[:2], decode(tmp_path / "other" / name))


def test_reuse_and_change(root: Path, tmp_path: Path) -> None:
    assert not write_imagenet_vid(root, SMALL)
    tiny = replace(SMALL, frames=2, train_snippets=1, val_snippets=1, stills=0, storage="jpeg")
    assert write_imagenet_vid(tmp_path / "vid", tiny)
    assert not write_imagenet_vid(tmp_path / "vid", tiny)
    assert write_imagenet_vid(tmp_path / "vid", replace(tiny, min_side=7))
    folder = tmp_path / "vid/Data/VID/val/ILSVRC2015_val_00000000"
    assert sorted(p.name for p in folder.iterdir()) == ["000000.JPEG", "000001.JPEG"]
    image = cv2.cvtColor(cv2.imread(str(folder / "000001.JPEG")), cv2.COLOR_BGR2RGB)
    truth = Scene((0, 1, 0), SMALL.scene, first=0).render(1).image
    assert np.square(image.astype(float) - truth).mean() < 60


def test_snippets_train_and_val_differ(root: Path) -> None:
    train = decode(root / "Data/VID" / f"{TRAIN}00000000.mp4")
    val = decode(root / "Data/VID/val/ILSVRC2015_val_00000000.mp4")
    assert np.abs(train.astype(int) - val).mean() > 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": 0}, "frames"),
        ({"storage": "avi"}, "storage"),
        ({"scene": replace(SCENE, size=(49, 64))}, "even"),
        ({"scene": SceneSettings()}, "scene.named=false"),
    ],
)
def test_bad_settings_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VidSettings(**change)  # type: ignore[arg-type]
