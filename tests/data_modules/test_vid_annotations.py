"""Lists, classes and boxes of ImageNet VID are read as the official files mean them."""

from pathlib import Path

import numpy as np
import pytest

from data_modules.vid_annotations import (
    Annotations,
    ClassMap,
    official_classes,
    read_class_map,
    read_still_list,
    read_vid_list,
)

CLASSES = ClassMap(("n1", "n2"), ("cat", "dog"))


def xml(*objects: tuple[str, object, object, object, object], size=(40, 60), track=7) -> str:
    items = "".join(
        f"<object><trackid>{track}</trackid><name>{name}</name><bndbox><xmax>{x2}</xmax>"
        f"<xmin>{x1}</xmin><ymax>{y2}</ymax><ymin>{y1}</ymin></bndbox></object>"
        for name, x1, y1, x2, y2 in objects
    )
    height, width = size
    return (
        f"<annotation><size><width>{width}</width><height>{height}</height></size>"
        f"{items}</annotation>"
    )


def read(tmp_path: Path, text: str, size=(40, 60), **options: bool):
    path = tmp_path / "000000.xml"
    path.write_text(text)
    strict = options.pop("strict", True)
    return Annotations(CLASSES, **options).read(path, size, strict)


def test_official_sample_gives_half_open_boxes(samples):
    path = samples / "ILSVRC2015/Annotations/VID/val/ILSVRC2015_val_00030000/000000.xml"
    found = Annotations(official_classes()).read(path, (720, 1280))
    assert found.boxes.tolist() == [[449, 304, 856, 683], [172, 307, 932, 591]]
    assert found.labels.tolist() == [12, 12]
    assert official_classes().names[12] == "giant_panda"
    assert found.tracks.tolist() == [0, 1]


def test_official_classes_are_those_of_the_samples_map(samples):
    assert read_class_map(samples / "ILSVRC2015/map_vid.txt") == official_classes()
    assert len(set(official_classes().wnids)) == 30


def test_official_lists(samples):
    sets = samples / "ILSVRC2015/ImageSets/VID"
    train = read_vid_list(sets / "VID_train_15frames.txt")
    assert not train.whole
    assert len(train.entries) == 57834
    assert len({entry.snippet for entry in train.entries}) == 3862
    # 0-based: frame 0 is named, the length itself never.
    assert min(entry.frame for entry in train.entries) == 0
    assert all(entry.frame < entry.length for entry in train.entries)
    val = read_vid_list(sets / "VID_val_videos.txt")
    assert val.whole
    assert (len(val.entries), sum(entry.length for entry in val.entries)) == (555, 176126)


@pytest.mark.parametrize(
    ("lines", "whole"),
    [
        (["a 1 0 9"], True),  # the first line of the official list of whole snippets
        (["b 465 0 464"], True),
        (["a 1 3 9"], False),
        (["a 1 0 9", "a 1 3 9"], False),
        (["a 1 0 9\r", "", "b 10 0 9"], True),
    ],
)
def test_kind_of_a_list(tmp_path, lines, whole):
    path = tmp_path / "list.txt"
    path.write_text("\n".join(lines))
    assert read_vid_list(path).whole is whole


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a 1 9 9", r"list.txt:1: frame 9 of a: expected 0 .. 8"),
        ("a 1 0 9\nb 1", r"list.txt:2: expected '<snippet> 1 <frame> <length>'.*found 'b 1'"),
        ("a 1 -1 9", r"list.txt:1: expected"),
        ("\n", r"list.txt: expected at least one line"),
    ],
)
def test_bad_lists(tmp_path, text, message):
    path = tmp_path / "list.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_vid_list(path)


def test_still_list_may_carry_numbers(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("train/x 1\ntrain/y\n\n")
    assert read_still_list(path) == ("train/x", "train/y")


def test_class_map_follows_the_index(tmp_path):
    path = tmp_path / "map_vid.txt"
    path.write_text("n2 2 dog\nn1 1 domestic cat\n")
    assert read_class_map(path) == ClassMap(("n1", "n2"), ("domestic cat", "dog"))
    path.write_text("n2 2 dog\n")
    with pytest.raises(ValueError, match=r"map_vid.txt: expected the indices 1 .. n"):
        read_class_map(path)


def test_no_objects_and_no_track(tmp_path):
    found = read(tmp_path, xml())
    assert found.boxes.shape == (0, 4)
    assert found.boxes.dtype == np.float32
    found = read(tmp_path, xml(("n2", 0, 0, 0, 0)).replace("<trackid>7</trackid>", ""))
    assert found.boxes.tolist() == [[0, 0, 1, 1]]  # one pixel
    assert found.tracks.tolist() == [-1]


def test_overhanging_box_is_clipped_and_told_once(tmp_path, caplog):
    found = read(tmp_path, xml(("n1", 5, 5, 60, 40)))  # one pixel: usual in the real set
    assert found.boxes.tolist() == [[5, 5, 60, 40]]
    assert not caplog.records
    path = tmp_path / "000000.xml"
    path.write_text(xml(("n1", -4, 5, 70, 20)))
    annotations = Annotations(CLASSES)
    for _ in range(2):
        assert annotations.read(path, (40, 60)).boxes.tolist() == [[0, 5, 60, 21]]
    assert len(caplog.records) == 1
    assert "000000.xml: a box overhangs the picture by 11 pixels" in caplog.text


def test_unknown_classes_of_stills_are_left_out(tmp_path):
    text = xml(("n9", 0, 0, 3, 3), ("n2", 1, 1, 3, 3))
    found = read(tmp_path, text, skip_unknown=True)
    assert found.labels.tolist() == [1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation><size>", r"000000.xml: expected an XML annotation"),
        ("", r"000000.xml: expected an XML annotation"),
        (xml(("n9", 0, 0, 3, 3)), r"000000.xml: unknown class 'n9': expected one of the 2 classes"),
        (xml(("n1", 60, 0, 70, 9)), r"000000.xml: box \(60, 0, 71, 10\) lies outside .* 60x40"),
        (xml(("n1", 9, 0, 8, 9)), r"000000.xml: box of zero size \(9, 0\) .. \(8, 9\)"),
        (xml(("n1", "x", 0, 8, 9)), r"000000.xml: xmin: expected a number, found 'x'"),
        (xml(("n1", "nan", 0, 8, 9)), r"000000.xml: xmin: expected a number"),
        (
            xml(size=(80, 120)),
            r"000000.xml: annotated at 120x80, the picture has 60x40 pixels",
        ),
    ],
)
def test_bad_annotations_name_the_file_in_one_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_size_may_differ_where_it_is_not_trusted(tmp_path):
    assert read(tmp_path, xml(("n1", 0, 0, 3, 3), size=(0, 0))).boxes.tolist() == [[0, 0, 4, 4]]
    text = xml(("n1", 0, 0, 3, 3), size=(500, 500))
    assert read(tmp_path, text, strict=False).boxes.tolist() == [[0, 0, 4, 4]]


def test_each_file_is_parsed_once(tmp_path):
    path = tmp_path / "000000.xml"
    path.write_text(xml(("n1", 0, 0, 3, 3)))
    annotations = Annotations(CLASSES)
    first = annotations.read(path, (40, 60))
    path.unlink()
    assert annotations.read(path, (40, 60)).boxes.tolist() == first.boxes.tolist()
    with pytest.raises(FileNotFoundError, match=r"000001.xml: the annotation of a listed frame"):
        annotations.read(tmp_path / "000001.xml", (40, 60))
