"""ImageNet VID in its real layout: the right frames with the right boxes, in the right order."""

import logging
import shutil
from pathlib import Path
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest
import torch

from data_modules.clips import Pair, Window
from data_modules.imagenet_vid import ImageNetVid

TRAIN = "train/ILSVRC2015_VID_train_0000/ILSVRC2015_train_0000000"
VAL = "val/ILSVRC2015_val_0000000"
LENGTHS = {TRAIN + "0": 12, TRAIN + "1": 7, VAL + "0": 5, VAL + "1": 9, VAL + "2": 6}


def box(frame: int) -> tuple[int, int, int, int]:
    """An object that walks right; both ends belong to it."""
    return 4 + frame, 6, 15 + frame, 17


def annotation(*boxes: tuple[int, int, int, int], width: int, wnid: str = "n02402425") -> str:
    items = "".join(
        f"<object><trackid>3</trackid><name>{wnid}</name><bndbox><xmax>{x2}</xmax>"
        f"<xmin>{x1}</xmin><ymax>{y2}</ymax><ymin>{y1}</ymin></bndbox></object>"
        for x1, y1, x2, y2 in boxes
    )
    size = f"<size><width>{width}</width><height>40</height></size>"
    return f"<annotation>{size}{items}</annotation>"


def picture(snippet: int, frame: int, width: int) -> np.ndarray:
    """Background 40 * snippet, object 60 + 10 * frame: grey, so JPEG keeps it to a level or two."""
    image = np.full((40, width, 3), 40 * snippet, np.uint8)
    x1, y1, x2, y2 = box(frame)
    image[y1 : y2 + 1, x1 : x2 + 1] = 60 + 10 * frame
    return image


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Five snippets, the second one narrower, and two stills, as ILSVRC2015 has them."""
    root = tmp_path / "ILSVRC2015"
    for number, (name, length) in enumerate(LENGTHS.items()):
        width = 48 if number == 1 else 64
        for kind in ("Data", "Annotations"):
            (root / kind / "VID" / name).mkdir(parents=True)
        for frame in range(length):
            place = f"VID/{name}/{frame:06d}"
            options = [cv2.IMWRITE_JPEG_QUALITY, 100]
            file = root / "Data" / f"{place}.JPEG"
            assert cv2.imwrite(str(file), picture(number, frame, width), options)
            text = annotation(box(frame), width=width)
            (root / "Annotations" / f"{place}.xml").write_text(text)
    for kind in ("Data", "Annotations"):
        (root / kind / "DET/train").mkdir(parents=True)
    for n in range(2):
        assert cv2.imwrite(str(root / f"Data/DET/train/still{n}.JPEG"), picture(2, 10 + n, 64))
        text = annotation(box(10 + n), width=64)
        (root / f"Annotations/DET/train/still{n}.xml").write_text(text)
    write_list(root, "VID_train_15frames.txt", [f"{TRAIN}0 1 {f} 12" for f in (0, 3, 6, 11)])
    ids = ((VAL + "0", 1, 5), (VAL + "1", 6, 9), (VAL + "2", 15, 6))
    write_list(root, "VID_val_videos.txt", [f"{name} {first} 0 {n}" for name, first, n in ids])
    write_list(root, "DET_train_30classes.txt", ["train/still0 1", "train/still1 1"])
    return root


def replace_by_video(folder: Path, snippet: int, length: int) -> None:
    """Put one H.264 file in the place of a folder of pictures."""
    with av.open(str(folder.with_suffix(".mp4")), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = 64, 40, "yuv420p"
        for frame in range(length):
            image = av.VideoFrame.from_ndarray(picture(snippet, frame, 64), format="rgb24")
            container.mux(stream.encode(image))
        container.mux(stream.encode())
    shutil.rmtree(folder)


def write_list(root: Path, name: str, lines: list[str]) -> Path:
    path = root / "ImageSets/VID" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines))
    return path


def vid(root: Path, **options: object) -> ImageNetVid:
    settings: dict = {"root": root, "batch_size": 2, "num_workers": 0, "seed": 4} | options
    data = ImageNetVid(**settings)
    data.prepare_data()
    data.setup("fit")
    return data


def shown(frame: torch.Tensor) -> float:
    """The number of the frame that a picture (3, 40, 64) shows, read off its object."""
    x = int((frame[0, 7:17] * 255 > 55).float().mean(0).round().nonzero().float().mean())
    return (float(frame[:, 10:14, x].mean()) * 255 - 60) / 10


def test_pairs_show_their_frames_and_boxes(root):
    data = vid(root, clip=Pair(9))
    seen = set()
    for epoch in range(8):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            assert batch["frames"].shape == (2, 2, 3, 40, 64)
            assert batch["targets"].tolist() == [[1], [1]]
            for b in range(2):
                key, current = batch["indices"][b].tolist()
                assert 0 <= current - key <= 9
                seen.add((key, current))
                assert shown(batch["frames"][b, 0]) == pytest.approx(key, abs=0.3)
                assert shown(batch["frames"][b, 1]) == pytest.approx(current, abs=0.3)
                x1, y1, x2, y2 = box(current)
                assert batch["boxes"][b].tolist() == [[x1, y1, x2 + 1, y2 + 1]]
                assert batch["labels"][b].tolist() == [data.wnids.index("n02402425")]
                assert batch["tracks"][b].tolist() == [3]
    assert {current for _, current in seen} == {0, 3, 6, 11}
    assert len(seen) > 8  # every epoch draws anew


def test_boxes_stay_on_the_object_through_resize_and_flip(root):
    data = vid(root, clip=Pair(9), short_side=60, augment={"flip": 0.5}, batch_size=1)
    flips = 0
    for epoch in range(5):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            assert batch["scales"].tolist() == [[1.5, 1.5]]
            current = int(batch["indices"][0, 1])
            # The object is brighter than half its own value, against a black background.
            bright = batch["frames"][0, 1, 0] * 255 > (60 + 10 * current) / 2
            rows, columns = (axis.unique() for axis in bright.nonzero(as_tuple=True))
            measured = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            torch.testing.assert_close(
                batch["boxes"][0][0], torch.stack(measured).float(), atol=1.0, rtol=0
            )
            unflipped = 1.5 * (4 + current)
            flips += abs(float(batch["boxes"][0][0, 0]) - unflipped) > 2
    assert 3 < flips < 17


def test_window_gives_boxes_target_by_target(root):
    class Both(Window):
        def __call__(self, length, labelled, rng):
            indices, _ = super().__call__(length, labelled, rng)
            return indices, [0, 2]

    batch = next(iter(vid(root, clip=Both(1, 1), augment={"flip": 1.0}).train_dataloader()))
    assert batch["targets"].tolist() == [[0, 2], [0, 2]]
    frames = batch["indices"][:, [0, 2]].flatten().tolist()
    found = [boxes[0, 2].item() for boxes in batch["boxes"]]
    assert found == pytest.approx([64 - (4 + frame) for frame in frames], abs=1e-3)


def test_stills_are_videos_of_one_frame(root):
    data = vid(root, clip=Pair(9), det_list="DET_train_30classes.txt", batch_size=6)
    (batch,) = data.train_dataloader()
    stills = [b for b, name in enumerate(batch["snippets"]) if "still" in name]
    assert len(stills) == 2  # 4 labelled frames at 2:1
    for b in stills:
        assert batch["indices"][b].tolist() == [0, 0]
        assert torch.equal(batch["frames"][b, 0], batch["frames"][b, 1])
        number = 10 + int(batch["snippets"][b][-1])
        x1, y1, x2, y2 = box(number)
        assert batch["boxes"][b].tolist() == [[x1, y1, x2 + 1, y2 + 1]]
        assert batch["tracks"][b].tolist() == [3]
        assert shown(batch["frames"][b, 0] * (batch["frames"][b, 0] > 0.4)) == pytest.approx(
            number, abs=0.3
        )


def test_mixed_sizes_are_padded(root):
    lines = [f"{TRAIN}0 1 3 12", f"{TRAIN}1 1 3 7"]
    path = write_list(root, "two.txt", lines)
    for name in ("two.txt", str(path)):  # a name in ImageSets, or a path
        (batch,) = vid(root, train_list=name).train_dataloader()
        assert batch["frames"].shape[-2:] == (40, 64)
        narrow = batch["snippets"].index(TRAIN + "1")
        assert batch["sizes"][narrow].tolist() == [40, 48]
        assert float(batch["frames"][narrow, ..., 48:].abs().max()) == 0
        assert float(batch["frames"][narrow, ..., :48].min()) > 0.1


def test_a_list_of_whole_snippets_trains_on_every_frame(root):
    data = vid(root, train_list="VID_val_videos.txt")
    assert len(data.labelled) == 5 + 9 + 6
    assert data.labelled[5] == (VAL + "1", 0)


def test_samples_do_not_depend_on_workers(root):
    def batches(workers: int) -> list[dict]:
        data = vid(root, clip=Pair(9), augment={"flip": 0.5, "hue": 0.2}, num_workers=workers)
        loader = data.train_dataloader()
        loader.sampler.set_epoch(1)
        return list(loader)

    for one, two in zip(batches(0), batches(2), strict=True):
        assert torch.equal(one["frames"], two["frames"])
        assert torch.equal(one["seeds"], two["seeds"])


def test_snippets_may_be_video_files(root):
    def streamed() -> list[dict]:
        return list(vid(root, stream_chunk=4, num_workers=1).val_dataloader())

    from_folders = streamed()
    for number, name in enumerate(list(LENGTHS)[2:], 2):
        folder = root / "Data/VID" / name
        replace_by_video(folder, number, LENGTHS[name])
    from_files = streamed()
    for one, two in zip(from_folders, from_files, strict=True):
        assert one["snippets"] == two["snippets"]
        assert torch.equal(one["indices"], two["indices"])
        assert float((one["frames"] - two["frames"]).abs().mean()) < 0.02


def test_a_video_shorter_than_its_annotations_is_named(root):
    for frame in range(12, 15):
        text = annotation(box(frame), width=64)
        (root / f"Annotations/VID/{TRAIN}0/{frame:06d}.xml").write_text(text)
    replace_by_video(root / f"Data/VID/{TRAIN}0", 0, 12)
    write_list(root, "late.txt", [f"{TRAIN}0 1 14 15", f"{TRAIN}0 1 14 15"])
    with pytest.raises(ValueError, match=r"0.mp4: frame 14 is listed: expected 0 .. 11"):
        list(vid(root, train_list="late.txt").train_dataloader())


@pytest.mark.parametrize("workers", [0, 2])
def test_validation_streams_whole_snippets_in_order(root, workers):
    loader = vid(root, stream_chunk=4, num_workers=workers).val_dataloader()
    assert len(loader) == 2 + 3 + 2
    steps = []
    for batch in loader:
        name, indices = batch["snippets"][0], batch["indices"][0].tolist()
        assert batch["starts"].tolist() == [indices[0] == 0]
        assert batch["targets"].tolist() == [list(range(len(indices)))]
        assert len(batch["boxes"]) == len(batch["labels"]) == len(indices)
        for t, frame in enumerate(indices):
            steps.append((name, frame))
            assert batch["boxes"][t].tolist()[0][0] == 4 + frame
    assert steps == [(VAL + n, f) for n, length in zip("012", (5, 9, 6), strict=True)
                     for f in range(length)]  # fmt: skip


def test_limits_of_validation(root):
    data = vid(root, val_limit=2, val_frames=6)
    assert [snippet.length for snippet in data.whole] == [5, 6]


def test_every_snippet_is_streamed_by_one_rank(root):
    names = []
    for rank in range(2):
        data = vid(root)
        strategy = SimpleNamespace(root_device=torch.device("cpu"))
        data.trainer = SimpleNamespace(
            global_rank=rank, world_size=2, strategy=strategy, accumulate_grad_batches=1
        )
        names.append({batch["snippets"][0] for batch in data.val_dataloader()})
    assert names == [{VAL + "0", VAL + "2"}, {VAL + "1"}]


def test_ranks_share_a_global_batch(root):
    parts = []
    for rank, world_size in ((0, 1), (0, 2), (1, 2)):
        data = vid(root, clip=Pair(9), batch_size=4)
        strategy = SimpleNamespace(root_device=torch.device("cpu"))
        data.trainer = SimpleNamespace(
            global_rank=rank, world_size=world_size, strategy=strategy, accumulate_grad_batches=1
        )
        (batch,) = data.train_dataloader()
        parts.append({int(s): f for s, f in zip(batch["seeds"], batch["frames"], strict=True)})
    whole, first, second = parts
    assert len(first) == len(second) == 2
    for seed, frames in {**first, **second}.items():
        assert torch.equal(frames, whole[seed])
    data.batch_size = 3
    with pytest.raises(ValueError, match="multiple of the 2 processes"):
        data.train_dataloader()


def test_classes_come_from_the_root_or_are_the_official_ones(root):
    assert vid(root).classes[7] == "cattle"
    assert len(vid(root).wnids) == 30
    (root / "map_vid.txt").write_text("n02402425 1 cow\nn1 2 yak\n")
    assert vid(root).classes == ("cow", "yak")
    assert vid(root).wnids == ("n02402425", "n1")


def test_missing_snippets_are_counted_and_named(root, caplog):
    shutil.rmtree(root / "Data/VID" / (VAL + "1"))
    (root / "Data/VID" / (VAL + "2") / "000005.JPEG").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        vid(root)
    message = str(caught.value)
    assert "VID_val_videos.txt: 2 missing in" in message
    assert f"{VAL}1, {VAL}2 has 5 of 6 frames" in message
    assert "data.on_error=skip" in message
    assert "\n" not in message
    with caplog.at_level(logging.WARNING):
        data = vid(root, on_error="skip")
    assert [snippet.length for snippet in data.whole] == [5, 5]
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1
    assert "left out" in lines[0]


def test_a_listed_frame_that_is_not_there_is_named(root):
    write_list(root, "long.txt", [f"{TRAIN}0 1 3 40", f"{TRAIN}0 1 30 40"])
    with pytest.raises(FileNotFoundError, match=f"long.txt: 1 missing .*frame 30 of {TRAIN}0"):
        vid(root, train_list="long.txt")
    assert vid(root, train_list="long.txt", on_error="skip").labelled == [(TRAIN + "0", 3)]


def test_nothing_left_is_an_error_even_where_missing_is_allowed(root):
    write_list(root, "none.txt", ["train/other 1 3 40"])
    with pytest.raises(FileNotFoundError, match="train/other; nothing is left"):
        vid(root, train_list="none.txt", on_error="skip")


def test_gaps_in_a_folder_are_found(root):
    (root / "Data/VID" / (TRAIN + "0") / "000007.JPEG").unlink()
    with pytest.raises(ValueError, match=r"0000: 11 frames: expected 000000.JPEG .. 000010.JPEG"):
        list(vid(root).train_dataloader())


def test_broken_annotation_is_one_line_out_of_a_worker(root):
    for path in (root / "Annotations/VID" / (TRAIN + "0")).iterdir():
        path.write_text(annotation(box(0), width=64, wnid="n00000001"))
    with pytest.raises(ValueError, match=r"xml: unknown class 'n00000001'") as caught:
        list(vid(root, num_workers=1).train_dataloader())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"root": "{tmp}/nowhere"}, "nowhere: expected Data/VID, .* found no such folder"),
        ({"root": "{tmp}/empty"}, "empty: expected Data/VID, .* found nothing"),
        ({"root": "{tmp}"}, r"did you mean .*/ILSVRC2015\?"),
        ({"train_list": "VID_train.txt"}, "list VID_train.txt: expected a file, or a name in"),
    ],
)
def test_wrong_places_say_what_was_expected(root, tmp_path, options, message):
    (tmp_path / "empty").mkdir()
    values = {key: value.format(tmp=tmp_path) for key, value in options.items()}
    with pytest.raises(FileNotFoundError, match=message) as caught:
        vid(**{"root": root, **values})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vid_det_ratio": 0}, "data.vid_det_ratio=0"),
        ({"val_limit": 0}, "data.val_limit=0"),
        ({"root": None, "synthetic": {"snippets": 3}}, "unknown key snippets: expected one of"),
        ({"root": None, "synthetic": {"scene": {"x": 3}}}, "unknown key x: expected one of"),
    ],
)
def test_bad_options_are_refused(root, options, message):
    with pytest.raises(ValueError, match=message):
        vid(**{"root": root, **options})


def test_embedded_set_is_written_and_read_as_a_real_one(tmp_path):
    settings = {
        "train_snippets": 1,
        "val_snippets": 1,
        "frames": 6,
        "stills": 2,
        "scene": {"size": [48, 64], "classes": 3},
    }
    data = ImageNetVid(
        synthetic_root=tmp_path / "vid",
        synthetic=settings,
        det_list="DET_train_30classes.txt",
        clip=Pair(3),
        batch_size=2,
        num_workers=0,
    )
    assert data.classes == ("striped disc", "star", "ring")  # known before anything is written
    data.prepare_data()
    data.setup("fit")
    assert (tmp_path / "vid/map_vid.txt").read_text().splitlines()[2] == "ring 3 ring"
    names = [name for batch in data.train_dataloader() for name in batch["snippets"]]
    assert len(names) == 8  # 6 labelled frames and 3 stills, in whole batches of 2
    assert 2 <= sum("ILSVRC2013" in name for name in names) <= 3
    (chunk,) = data.val_dataloader()
    assert chunk["frames"].shape == (1, 6, 3, 48, 64)
    assert float(chunk["frames"].std()) > 0.05


def test_real_clip(samples, tmp_path):
    name = "val/ILSVRC2015_val_00007010"
    path = tmp_path / "clip.txt"
    path.write_text("".join(f"{name} 1 {frame} 96\n" for frame in (0, 40, 95)))
    data = vid(
        samples / "ILSVRC2015",
        train_list=str(path),
        val_list=str(path),  # of frames: the snippet is streamed whole
        clip=Pair(9),
        short_side=180,
        long_side=300,
        batch_size=3,
    )
    assert data.whole == [(name, 96)]
    (batch,) = data.train_dataloader()
    assert batch["frames"].shape == (3, 2, 3, 169, 300)
    assert sorted(batch["indices"][:, 1].tolist()) == [0, 40, 95]
    assert all(labels.tolist() == [0] * 7 for labels in batch["labels"])
    first = batch["indices"][:, 1].tolist().index(40)
    xml = samples / f"ILSVRC2015/Annotations/VID/{name}/000040.xml"
    text = xml.read_text()
    xmax = float(text.split("<xmax>")[1].split("<")[0])
    assert float(batch["boxes"][first][0, 2]) == pytest.approx((xmax + 1) * 300 / 1280, abs=1e-3)
    image = cv2.imread(str(samples / f"ILSVRC2015/Data/VID/{name}/000040.JPEG"))
    expected = cv2.resize(image, (300, 169))[..., ::-1].transpose(2, 0, 1) / 255
    np.testing.assert_allclose(batch["frames"][first, 1].numpy(), expected, atol=1e-6)


def test_official_lists_on_a_partial_download(samples, caplog):
    root = samples / "ILSVRC2015"
    with pytest.raises(FileNotFoundError, match=r"3862 missing in .*, of 3862 listed snippets"):
        vid(root)
    data = ImageNetVid(root=root, on_error="skip")
    data.setup("validate")
    assert data.whole == [("val/ILSVRC2015_val_00007010", 96)]
    assert "555 missing" in caplog.text
    assert "has 96 of 144 frames" not in caplog.text.split("left out")[1]
