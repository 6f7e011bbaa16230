"""Videos with masks: the mask of exactly this frame, parts that stay apart, and clear refusals."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_modules.clips import Pair
from data_modules.video_masks import VideoMasks
from data_modules.video_masks_layout import read_mask
from flowfeat import train
from flowfeat.video_writer import VideoWriter

SIZE = (32, 64)
LENGTH = 12
PALETTE = np.random.default_rng(0).integers(0, 256, 768).tolist()  # not the indices


def picture(number: int) -> np.ndarray:
    """A red ball on grey; white cells say in binary which frame it is."""
    image = np.full((*SIZE, 3), 90, np.uint8)
    for bit in range(5):
        image[:4, 8 * bit : 8 * bit + 8] = 255 * (number >> bit & 1)
    image[mask(number) == 1] = (220, 20, 20)
    return image


def mask(number: int) -> np.ndarray:
    values = np.zeros(SIZE, np.uint8)
    values[12:20, 4 * number : 4 * number + 8] = 1
    return values


def number_of(frame: torch.Tensor) -> int:
    cells = frame[1, 1, 4:40:8] > 0.5
    return sum(1 << bit for bit, on in enumerate(cells.tolist()) if on)


def save(path: Path, values: np.ndarray, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if mode == "P":
        image.putpalette(PALETTE)
    image.convert(mode).save(path)


def write_video(root: Path, name: str, labelled: range = range(LENGTH)) -> None:
    for n in range(LENGTH):
        save(root / f"JPEGImages/480p/{name}/{n:05}.png", picture(n))
    for n in labelled:
        save(root / f"Annotations/480p/{name}/{n:05}.png", mask(n), "P")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_video(tmp_path / "davis", "ball")
    return tmp_path / "davis"


def video_masks(root: Path, stage: str = "fit", **options: object) -> VideoMasks:
    ranges = {"train_frames": [0, 6], "test_frames": [6, 12]}
    settings: dict = {"root": root, "batch_size": 2, "num_workers": 0, "seed": 4} | ranges | options
    data = VideoMasks(**settings)
    data.prepare_data()
    data.setup(stage)
    return data


def shown(data: VideoMasks) -> dict[str, list[tuple[int, bool]]]:
    """Stream the test parts: name -> (frame, whether it has a mask), each mask checked."""
    found: dict[str, list[tuple[int, bool]]] = {}
    for batch in data.val_dataloader():
        frames, steps = batch["frames"][0], batch["targets"][0].tolist()
        name = batch["snippets"][0]
        assert batch["starts"].tolist() == [name not in found]
        for step, labels in zip(steps, batch["label_maps"], strict=True):
            assert np.array_equal(labels.numpy(), mask(number_of(frames[step])))
        seen = [(number_of(frame), step in steps) for step, frame in enumerate(frames)]
        found[name] = found.get(name, []) + seen
    return found


def test_training_and_testing_stay_inside_their_frames(root):
    data = video_masks(root, clip=Pair(4), stream_chunk=4)
    assert data.classes == ("background", "object")
    pairs = []
    for epoch in range(8):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        current = []
        for batch in loader:
            for frames, labels in zip(batch["frames"], batch["label_maps"], strict=True):
                k, i = map(number_of, frames)
                assert np.array_equal(labels.numpy(), mask(i))
                current.append(i)
                pairs.append((k, i))
        assert sorted(current) == [0, 1, 2, 3, 4, 5]  # each labelled frame once per epoch
    assert {i - k for k, i in pairs} == {0, 1, 2, 3, 4}
    assert max(i for _, i in pairs) == 5
    assert shown(data) == {"ball[6:12]": [(n, True) for n in range(6, 12)]}
    assert shown(video_masks(root, train_frames=[0, 7], test_frames=[7, None])) == {
        "ball[7:12]": [(n, True) for n in range(7, 12)]
    }


def test_any_subset_of_the_frames_may_have_masks(root):
    for n in (0, 1, 2, 4, 7, 8, 10, 11):
        (root / f"Annotations/480p/ball/{n:05}.png").unlink()
    data = video_masks(root, clip=Pair(2))
    frames = {number_of(f[1]) for batch in data.train_dataloader() for f in batch["frames"]}
    assert frames == {3, 5}
    assert shown(data) == {"ball[6:12]": [(n, n in (6, 9)) for n in range(6, 12)]}


def test_several_videos_and_parts_by_video(root):
    write_video(root, "ball_10", range(3, 5))
    write_video(root, "ball_9", range(8))
    (root / "JPEGImages/480p/unlabelled").mkdir()
    assert list(shown(video_masks(root))) == ["ball[6:12]", "ball_9[6:12]"]  # 10 has none there
    options = {"train_frames": None, "test_frames": None, "test_videos": ["ball_10"]}
    data = video_masks(root, train_videos=["ball", "ball_9"], **options)
    assert [part.name for part in data.parts["train"]] == ["ball", "ball_9"]
    assert shown(data) == {"ball_10": [(n, n in (3, 4)) for n in range(LENGTH)]}
    with pytest.raises(ValueError, match=r"ball_10 would be trained and tested on frames 0 .. 11"):
        video_masks(root, **options)
    with pytest.raises(ValueError, match=r"no video box with masks .* some of ball, ball_9, ball_"):
        video_masks(root, test_videos=["box"])


@pytest.mark.parametrize(("first", "names"), [(0, "{:05}.png"), (1, "ball_{}_mask.png")])
def test_a_video_file_is_matched_by_number(tmp_path, first, names):
    with VideoWriter(tmp_path / "clips/ball.mp4", 17, SIZE, crf=5, gop=5) as video:
        for n in range(LENGTH):
            video.write(picture(n))
    for n in (2, 9, 11):
        save(tmp_path / "truth/ball" / names.format(n + first), 255 * mask(n))
    data = video_masks(tmp_path, frames="clips", masks="truth", first_number=first)
    assert shown(data) == {"ball[6:12]": [(n, n in (9, 11)) for n in range(6, 12)]}
    alone = video_masks(tmp_path, frames="clips/ball.mp4", masks="truth/ball", first_number=first)
    assert shown(alone) == shown(data)


def test_one_video_beside_its_masks_matched_by_number(tmp_path):
    for n in range(LENGTH):
        save(tmp_path / f"ball/frame_{n + 3}.png", picture(n))
        if n % 2:
            save(tmp_path / f"ball_mask/m{n + 3:04}.png", 255 * mask(n))
    data = video_masks(tmp_path, frames="ball", masks="ball_mask")
    assert shown(data) == {"ball[6:12]": [(n, n % 2 == 1) for n in range(6, 12)]}


def test_values_are_palette_indices_by_class(root, tmp_path):
    values = np.zeros(SIZE, np.uint8)
    values[:, :4], values[0, 0] = 2, 255
    path = tmp_path / "one.png"
    save(path, values, "P")
    assert np.array_equal(read_mask(path, SIZE), (values > 0).astype(np.uint8))
    assert np.array_equal(read_mask(path, SIZE, 3, void=255), values)
    with pytest.raises(ValueError, match=r"unknown values \[255\]: expected 0 .. 2, by data.clas"):
        read_mask(path, SIZE, 3)
    with pytest.raises(ValueError, match=r"unknown values \[2\]: expected 0 .. 1, .*void=255"):
        read_mask(path, SIZE, 2, void=255)
    Image.fromarray(values > 0).save(path)  # one bit per pixel
    assert np.array_equal(read_mask(path, SIZE), (values > 0).astype(np.uint8))
    data = video_masks(root, classes=["ground", "ball", "hand"])
    assert data.classes == ("ground", "ball", "hand")
    assert len(shown(data)["ball[6:12]"]) == 6


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            mask(0)[:, :-2],
            r"00002.png: mask of 32 x 62: expected 32 x 64, the size of its frame",
        ),
        (picture(2), r"00002.png: expected a mask of one channel .*, found RGB"),
        (mask(0).astype(np.uint16), r"00002.png: expected a mask of one channel .*, found I;16"),
        (None, r"00002.png: not a mask that can be read"),
    ],
)
def test_bad_masks_are_one_line(root, values, message):
    path = root / "Annotations/480p/ball/00002.png"
    if values is None:
        path.write_bytes(path.read_bytes()[:60])
    else:
        save(path, values)
    with pytest.raises(ValueError, match=message) as caught:
        list(video_masks(root).train_dataloader())
    assert "\n" not in str(caught.value)


def test_masks_without_a_frame_are_counted(root, caplog):
    save(root / "Annotations/480p/ball/00012.png", mask(0))
    save(root / "Annotations/480p/box/00000.png", mask(0))
    message = r"2 missing in .*480p, of 14 listed frames of masks: ball/00012.png, box/00000.png"
    with pytest.raises(FileNotFoundError, match=message):
        video_masks(root)
    assert list(shown(video_masks(root, on_error="skip"))) == ["ball[6:12]"]
    assert "left out" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_frames": [6, 13]}, r"test_frames=\[6, 13\]: outside .*ball, .* frames 0 .. 11"),
        ({"train_frames": [12, None]}, r"train_frames=\[12, None\]: outside"),
        ({"train_frames": [3, 3]}, r"data.train_frames=\[3, 3\]: expected \[first, end\] with 0"),
        ({"test_frames": [4]}, r"data.test_frames=\[4\]: expected \[first, end\]"),
        ({"test_frames": [4, 9]}, r"ball would be trained and tested on frames 4 .. 5, expected"),
        ({"root": None}, "data.root: data=video_masks has no embedded set"),
        ({"classes": ["object"]}, r"data.classes=\['object'\]: expected 2 .. 255 names"),
        ({"void": 0}, "data.void=0: expected 1 .. 255"),
    ],
)
def test_bad_options_are_refused(root, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        video_masks(**{"root": root, **options})
    assert "\n" not in str(caught.value)


def test_a_part_without_masks_is_refused(root):
    for n in range(6):
        (root / f"Annotations/480p/ball/{n:05}.png").unlink()
    with pytest.raises(ValueError, match=r"train_frames=\[0, 6\]: none of these frames of ball"):
        video_masks(root)
    assert shown(video_masks(root, stage="test"))  # which is not asked for here


def test_other_layouts_are_refused(root):
    frames, masks = root / "JPEGImages/480p", root / "Annotations/480p"
    with pytest.raises(
        FileNotFoundError, match=r"expected video .*data.frames.* found Annotations"
    ):
        video_masks(root, frames="video")
    save(masks / "ball/mask_3.png", mask(3))
    with pytest.raises(FileNotFoundError, match=r"1 missing in .*: ball/mask_3.png"):
        video_masks(root)  # the others say that masks are named like their frames
    (masks / "ball/mask_3.png").rename(masks / "ball/00003.jpg")
    with pytest.raises(ValueError, match=r"00003.jpg: expected masks as PNG"):
        video_masks(root)
    (masks / "ball/00003.jpg").unlink()
    save(frames / "ball/00003.bmp", picture(3))
    with pytest.raises(ValueError, match=r"expected one frame 00003, 00003.bmp is another"):
        video_masks(root)
    (frames / "ball/00003.bmp").rename(frames / "ball.mp4")
    with pytest.raises(ValueError, match=r"expected one video ball, found ball, ball.mp4"):
        video_masks(root)
    (frames / "ball.mp4").unlink()
    for path in (masks / "ball").iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"expected <video>/<frame>.png, .* found ball"):
        video_masks(root)


def test_a_run_takes_it_in_place_of_cityscapes(root, monkeypatch, tmp_path):
    words = [
        *("task=cityscapes", "method=dff", "data=video_masks", "data.num_workers=0"),
        *("data.train_frames=[0,6]", "data.test_frames=[6,12]", "data.batch_size=2"),
        *("data.short_side=32", "data.long_side=64", "data.augment.crop=[32,32]", "warmup=none"),
        *("features.model=test_resnet", "flow=flownet_half", "flow.width=0.0625"),
        *("evaluation.intervals=[1]", "logger=none", "callbacks=quiet", "callbacks.speed=null"),
        *("trainer.accelerator=cpu", "trainer.max_steps=1", "trainer.val_check_interval=1"),
    ]
    words += [f"data.root='{root}'", f"run_root={tmp_path / 'runs'}"]
    monkeypatch.setattr(sys, "argv", ["flowfeat-train", *words])
    train.main()
    (folder,) = (tmp_path / "runs/cityscapes/dff").iterdir()
    results = json.loads((folder / "results.json").read_text())
    expected = {f"mIoU_distance{d}_l5" for d in range(5)} | {"IoU_background_l1", "mIoU_copy_l5"}
    assert expected <= set(results)
    assert 0 < results["IoU_background_l5"] <= 1
    assert len(list((folder / "pictures").glob("test_*ball*.png"))) == 1


def test_real_masks(samples):
    """Masks of frames 40 .. 79 as Pillow reads them."""
    options = {"frames": "bmx-trees", "masks": "bmx-trees_mask", "stream_chunk": 10}
    data = video_masks(samples / "davis", train_frames=[0, 40], test_frames=[40, 80], **options)
    pixels = [int(m.sum()) for batch in data.val_dataloader() for m in batch["label_maps"]]
    paths = [samples / f"davis/bmx-trees_mask/{n:05}.png" for n in range(40, 80)]
    assert pixels == [int((np.asarray(Image.open(path)) == 255).sum()) for path in paths]
    assert len(data.parts["train"][0].labelled) == 40
