"""Any clean videos serve: found by patterns, split by video, cut into windows, of any length."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_modules.clips import Window
from data_modules.pictures import write_png
from data_modules.synthetic.scenes import Scene, SceneSettings
from data_modules.video_folder import VideoFolder
from flowfeat.video_writer import VideoWriter

LENGTHS = {"a.mp4": 1, "b.avi": 2, "deep/c.mp4": 16, "deep/d.mp4": 9}


def frames(seed: int, length: int) -> list[np.ndarray]:
    scene = Scene(seed, SceneSettings(size=(32, 48)))
    return [scene.render(t).image for t in range(length)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos") / "clean"
    for seed, (name, length) in enumerate(LENGTHS.items()):
        codec = "libx264" if name.endswith("mp4") else "mpeg4"
        with VideoWriter(folder / name, 25, (32, 48), codec, crf=4, threads=1) as video:
            for picture in frames(seed, length):
                video.write(picture)
    (folder / "pictures").mkdir()
    for t, picture in enumerate(frames(9, 10)):
        write_png(folder / f"pictures/f{t}.png", picture)
    (folder / "readme.txt").write_text("not a video")
    return folder


def module(root: Path, **options: Any) -> VideoFolder:
    usual: dict[str, Any] = {"batch_size": 1, "num_workers": 0, "clip": Window(1, 1)}
    usual["degraded"] = root.with_name("degraded")
    return VideoFolder(root=root, **{**usual, **options})


def ready(root: Path, **options: Any) -> VideoFolder:
    data = module(root, **options)
    data.degrade()
    data.setup("fit")
    return data


def test_every_video_is_found_and_whole_videos_are_split(root: Path) -> None:
    data = module(root)
    train, val = data.clean_clips("train"), data.clean_clips("val")
    assert sorted(c.name for c in train + val) == sorted([*LENGTHS, "pictures"])
    assert len(val) == 1  # a fifth
    assert [c.name for c in module(root).clean_clips("val")] == [c.name for c in val]
    assert len(module(root, test_share=0.5).clean_clips("val")) == 2


def test_patterns_choose(root: Path) -> None:
    def names(**options: Any) -> tuple[list[str], list[str]]:
        data = module(root, **options)
        return tuple([c.name for c in data.clean_clips(u)] for u in ("train", "val"))  # type: ignore[return-value]

    assert names(test=["deep/*"]) == (["a.mp4", "b.avi", "pictures"], ["deep/c.mp4", "deep/d.mp4"])
    assert names(videos=["deep/*", "pic*"], test=["pic*"])[0] == ["deep/c.mp4", "deep/d.mp4"]
    assert names(exclude=["*.mp4"], test=["b.avi"]) == (["pictures"], ["b.avi"])
    assert "data.exclude=" in module(root, exclude=["*.mp4"]).command


def test_targets_lie_a_stride_apart_from_the_middle_of_the_first(root: Path) -> None:
    data = module(root)
    assert list(data.targets(16)) == [3, 10]
    assert list(data.targets(1)) == [0]
    assert list(data.targets(2)) == [1]
    assert list(module(root, stride=1).targets(3)) == [0, 1, 2]


@pytest.mark.parametrize(("codec", "quality"), [("jpeg2000", 20), ("h264", 37)])
def test_windows_of_all_lengths_train_and_stream(root: Path, codec: str, quality: int) -> None:
    data = ready(root, codec=codec, quality=quality, test=["a.mp4", "deep/c.mp4"])
    trained = {}
    for batch in data.train_dataloader():
        assert batch["frames"].shape == (1, 3, 3, 32, 48)
        trained.setdefault(batch["snippets"][0], []).append(batch["indices"][0].tolist())
    assert {name: sorted(found) for name, found in trained.items()} == {
        "b.avi": [[0, 1, 1]],  # two frames: the end stands in for its neighbour
        "deep/d.mp4": [[2, 3, 4]],
        "pictures": [[2, 3, 4]],
    }
    streamed = {b["snippets"][0]: b for b in data.val_dataloader()}
    lengths = {name: batch["frames"].shape[1] for name, batch in streamed.items()}
    assert lengths == {"a.mp4:0": 1, "deep/c.mp4:3": 3, "deep/c.mp4:10": 3}
    target = streamed["deep/c.mp4:10"]
    truth = data.open(root / "deep/c.mp4").read([10])[0]
    clean = torch.from_numpy(truth).permute(2, 0, 1).float() / 255
    torch.testing.assert_close(target["clean"][0], clean)
    error = [float(((target["frames"][0, step] - clean) ** 2).mean()) for step in range(3)]
    assert error.index(min(error)) == 1


def test_bad_folders_and_values(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data.root: data=video_folder has no embedded set"):
        VideoFolder().prepare_data()
    with pytest.raises(FileNotFoundError, match=r"none: no such folder of videos"):
        module(tmp_path / "none").setup("fit")
    with pytest.raises(FileNotFoundError, match=r"no video .* matches \*\*/\*, found nothing"):
        module(tmp_path).setup("fit")
    with pytest.raises(ValueError, match=r"data.test=\['x'\] makes 0 of 5 videos tests"):
        module(root, test=["x"]).setup("fit")
    with pytest.raises(ValueError, match=r"data.test_share=0.2 makes 1 of 1 videos tests"):
        module(root, videos=["a.mp4"]).setup("fit")
    for options, line in (
        ({"stride": 0}, "data.stride=0"),
        ({"test_share": 1.0}, "data.test_share=1.0"),
        ({"videos": ["../x"]}, r"data.videos: \.\./x: expected a pattern below data.root"),
    ):
        with pytest.raises(ValueError, match=line):
            module(root, **options)


def test_videos_inside_one_another_are_refused(tmp_path: Path) -> None:
    for name in ("a/1.png", "a/b/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_png(tmp_path / name, np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match=r"a/b lies in a: expected one of them"):
        module(tmp_path).setup("fit")


def test_a_file_that_is_no_video_is_named(tmp_path: Path) -> None:
    clean = tmp_path / "clean"
    clean.mkdir()
    (clean / "a.mp4").write_bytes(b"nothing" * 99)
    for seed, name in enumerate(("b.mp4", "c.mp4")):
        with VideoWriter(clean / name, 25, (32, 48), threads=1) as video:
            video.write(frames(seed, 1)[0])
    with pytest.raises(ValueError, match=r"1 of 3 clips could not be degraded .*a.mp4: not a vid"):
        module(clean).degrade()
    with pytest.raises(FileNotFoundError, match=r"half made, 1 of 3 clips are missing \(a.mp4\)"):
        module(clean).setup("fit")
    assert ready(clean, exclude=["a.mp4"]).windows["train"]


def test_septuplets_and_clips_of_the_samples_make_one_set(samples: Path, tmp_path: Path) -> None:
    """The small real set: no copying, split by clip."""
    data = VideoFolder(
        root=samples,
        videos=["vimeo_septuplet/sequences/*/*", "video/bikes.mp4", "video/carphone_pristine.mp4"],
        test=["vimeo_septuplet/sequences/00001/*", "*/bikes.mp4"],
        degraded=tmp_path,
    )
    assert [c.name for c in data.clean_clips("val")] == [
        "video/bikes.mp4",
        "vimeo_septuplet/sequences/00001/0001",
    ]
    assert len(data.clean_clips("train")) == 7
