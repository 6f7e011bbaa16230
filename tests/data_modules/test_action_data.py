"""Action data in their real layouts: the frames that were drawn, whole videos, and bad input."""

import logging
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from data_modules.action_layout import RawFrames, defect
from data_modules.clips import ConsistentInterval, Pair, Segments
from data_modules.hmdb51 import Hmdb51
from data_modules.ucf101 import Ucf101
from flowfeat.video_writer import VideoWriter

SIZE = (24, 32)
CLASSES = ("Run", "HandstandPushups")


def grey(frame: int) -> int:
    return 20 + 4 * frame


def frame_of(picture: torch.Tensor) -> int:
    return round((float(picture.mean()) * 255 - 20) / 4)


def pictures(length: int) -> list[np.ndarray]:
    return [np.full((*SIZE, 3), grey(n), np.uint8) for n in range(length)]


def write_video(path: Path, length: int) -> None:
    with VideoWriter(path, 25, SIZE, "mpeg4", crf=1, threads=1) as video:
        for picture in pictures(length):
            video.write(picture)


def write_raw(folder: Path, length: int, names: str = "img_{:05}.jpg") -> None:
    folder.mkdir(parents=True)
    for number, picture in enumerate(pictures(length), start=1):
        cv2.imwrite(str(folder / names.format(number)), picture)


def name(action: int, group: int, clip: int = 1) -> str:
    stem = ("v_Run", "v_HandStandPushups")[action]
    return f"{CLASSES[action]}/{stem}_g{group:02}_c{clip:02}"


def write_lists(root: Path, train: list[tuple[int, int]], test: list[tuple[int, int]]) -> None:
    folder = root / "ucfTrainTestlist"
    folder.mkdir(parents=True, exist_ok=True)
    index = "".join(f"{n} {c}\r\n" for n, c in enumerate(CLASSES, 1))
    (folder / "classInd.txt").write_bytes(index.encode())
    lines = "".join(f"{name(*video)}.avi {video[0] + 1}\r\n" for video in train)
    (folder / "trainlist01.txt").write_bytes(lines.encode())
    lines = "".join(f"{name(*video)}.avi\r\n" for video in test)
    (folder / "testlist01.txt").write_bytes(lines.encode())


TRAIN = [(action, group) for group in range(3, 9) for action in range(2)]
TEST = [(action, group) for group in range(1, 3) for action in range(2)]


def length(group: int) -> int:
    return 20 + 4 * group


@pytest.fixture(scope="session")
def written(tmp_path_factory) -> Path:
    """Two classes of eight groups with one video each, of different lengths."""
    root = tmp_path_factory.mktemp("ucf")
    write_lists(root, TRAIN, TEST)
    for video in TRAIN + TEST:
        write_video(root / "UCF-101" / f"{name(*video)}.avi", length(video[1]))
    return root


@pytest.fixture
def root(written, tmp_path) -> Path:
    """A copy in which tests may break things."""
    for path in written.rglob("*.*"):
        place = tmp_path / "data" / path.relative_to(written)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())
    return tmp_path / "data"


def ucf(root: Path, *stages: str, **options: object) -> Ucf101:
    settings = {"num_workers": 0, "batch_size": 2, "crop": 16, "short_side": 20, "seed": 3}
    settings |= {"clip": ConsistentInterval(3, 5), "val_share": 0.2, "root": root}
    data = Ucf101(**settings | options)
    data.prepare_data()
    for stage in stages or ("fit", "test"):
        data.setup(stage)
    return data


def group_of(snippet: str) -> int:
    return int(snippet[-6:-4])


def test_training_clips_show_the_frames_that_they_name(written):
    data = ucf(written)
    loader = data.train_dataloader()
    seeds, firsts = [], set()
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)
        names = []
        for batch in loader:
            assert batch["frames"].shape == (2, 3, 3, 16, 16)
            assert batch["targets"].tolist() == [[0, 1, 2]] * 2
            assert batch["starts"].tolist() == [True, True]
            assert not batch["repeats"].any()
            for b, snippet in enumerate(batch["snippets"]):
                indices = batch["indices"][b].tolist()
                assert [frame_of(frame) for frame in batch["frames"][b]] == indices
                assert set(np.diff(indices)) == {length(group_of(snippet)) // 5}
                assert batch["actions"][b] == CLASSES.index(snippet.partition("/")[0])
                firsts.add(indices[0])
            names += batch["snippets"]
            seeds += batch["seeds"].tolist()
        assert Counter(names) == Counter(video.name for video in data.parts["train"])
    assert len(set(seeds)) == len(seeds)
    assert len(firsts) > 8
    again = [batch["indices"].tolist() for batch in ucf(written).train_dataloader()]
    loader.sampler.set_epoch(0)
    assert [batch["indices"].tolist() for batch in loader] == again


def test_the_mean_step_of_training_is_measured_in_seconds(written, monkeypatch):
    """Lengths 20 + 4 g at 25 fps, five segments: floor(L / 5) frames; of differences L - 5."""
    data = ucf(written)
    groups = [group_of(video.name) for video in data.parts["train"]]
    frames = [length(group) // 5 for group in groups]
    assert min(frames) < max(frames)
    assert data.measured() == {"step_seconds": pytest.approx(np.mean(frames) / 25)}
    shorter = [(length(group) - 5) // 5 for group in groups]
    found = ucf(written, modality="rgb_diff").measured()["step_seconds"]
    assert found == pytest.approx(np.mean(shorter) / 25)
    assert ucf(written, clip=Segments(3, 5)).measured() == {"step_seconds": None}
    monkeypatch.setattr("data_modules.action_pace.MEASURED", 3)  # evenly spread
    some = frames[:: -(-len(frames) // 3)]
    assert len(some) == 3 < len(frames)
    assert data.measured()["step_seconds"] == pytest.approx(np.mean(some) / 25)


def test_groups_are_kept_apart(written):
    data = ucf(written)
    groups = {
        part: {group_of(video.name) for video in data.parts[part]}
        for part in ("train", "val", "test")
    }
    assert groups["test"] == {1, 2}
    assert groups["val"]
    assert groups["train"] | groups["val"] == set(range(3, 9))
    assert not groups["train"] & groups["val"]
    everything = ucf(written, val_share=0)
    assert everything.parts["val"] == everything.parts["test"]
    assert len(everything.parts["train"]) == len(TRAIN)


@pytest.mark.parametrize("crops", [1, 10])
def test_test_batches_are_whole_videos(written, crops):
    data = ucf(written, crops=crops, test_batch_size=3)
    batches = list(data.test_dataloader())
    assert [len(batch["frames"]) for batch in batches] == [3 * crops, crops]
    seen = [snippet for batch in batches for snippet in batch["snippets"]]
    assert seen == [name(*video) for video in TEST for _ in range(crops)]
    for batch in batches:
        for b, snippet in enumerate(batch["snippets"]):
            frames = length(group_of(snippet))
            expected = ConsistentInterval(3, 5).testing(frames)
            assert batch["indices"][b].tolist() == expected
            assert [frame_of(frame) for frame in batch["frames"][b]] == expected
    assert {len(batch["frames"]) for batch in data.val_dataloader()} <= {1, 2, 3}


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_ranks_share_the_test_videos_without_repeating_any(written, ranks):
    seen: list[str] = []
    for rank in range(ranks):
        data = ucf(written, "test")
        root_device = SimpleNamespace(root_device=torch.device("cpu"))
        data.trainer = SimpleNamespace(
            global_rank=rank, world_size=ranks, strategy=root_device, accumulate_grad_batches=1
        )
        seen += [snippet for batch in data.test_dataloader() for snippet in batch["snippets"]]
    assert sorted(seen) == sorted(name(*video) for video in TEST)


def test_short_videos_repeat_their_last_frame_and_say_so(tmp_path):
    write_lists(tmp_path, [(0, 2), (1, 2)], [(0, 1), (1, 1)])
    for video, frames in (((0, 1), 1), ((1, 1), 3), ((0, 2), 1), ((1, 2), 2)):
        write_video(tmp_path / "UCF-101" / f"{name(*video)}.avi", frames)
    data = ucf(tmp_path, val_share=0, test_batch_size=2)
    (batch,) = data.test_dataloader()
    assert batch["indices"].tolist() == [[0] * 5, [0, 1, 2, 2, 2]]
    assert batch["repeats"].tolist() == [[False] + [True] * 4, [False] * 3 + [True] * 2]
    assert [frame_of(frame) for frame in batch["frames"][1]] == [0, 1, 2, 2, 2]
    (batch,) = data.train_dataloader()
    rows = dict(zip(batch["snippets"], batch["indices"].tolist(), strict=True))
    assert rows == {name(0, 2): [0, 0, 0], name(1, 2): [0, 1, 1]}


@pytest.mark.parametrize("frames", [1, 4, 6, 30])
def test_differences_of_videos_of_any_length(tmp_path, frames):
    write_lists(tmp_path, [(0, 2)], [(0, 1)])
    for video in ((0, 1), (0, 2)):
        write_video(tmp_path / "UCF-101" / f"{name(*video)}.avi", frames)
    data = ucf(tmp_path, val_share=0, modality="rgb_diff", batch_size=1)
    (batch,) = data.test_dataloader()
    assert batch["frames"].shape == (1, 5, 15, 16, 16)
    positions = max(1, frames - 5)  # 6 frames make 5 differences
    assert batch["indices"].tolist() == [ConsistentInterval(3, 5).testing(positions)]
    steps = batch["frames"][0, 0].unflatten(0, (5, 3)).mean((1, 2, 3)) * 255
    expected = [4.0 if n + 1 < frames else 0.0 for n in range(5)]  # beyond the end nothing moves
    torch.testing.assert_close(steps, torch.tensor(expected), atol=1.2, rtol=0)


def test_raw_frames_are_the_same_as_videos(tmp_path):
    write_lists(tmp_path, [(0, 2)], [(0, 1)])
    for video in ((0, 1), (0, 2)):
        folder = tmp_path / "rawframes" / name(*video)
        write_raw(folder, 12)
        for plane in ("flow_x", "flow_y"):  # as precomputed flow lies beside the frames
            cv2.imwrite(str(folder / f"{plane}_00001.jpg"), np.zeros(SIZE, np.uint8))
    (batch,) = ucf(tmp_path, val_share=0, batch_size=1).test_dataloader()
    assert [frame_of(frame) for frame in batch["frames"][0]] == batch["indices"][0].tolist()
    assert batch["indices"].tolist() == [ConsistentInterval(3, 5).testing(12)]


def test_raw_frames_are_numbered_from_one_without_gaps(tmp_path):
    write_raw(tmp_path / "a", 12)
    assert len(RawFrames(tmp_path / "a")) == 12
    (tmp_path / "a" / "img_00007.jpg").unlink()
    with pytest.raises(ValueError, match=r"img_00007.jpg: expected .* found img_00008.jpg"):
        RawFrames(tmp_path / "a")
    write_raw(tmp_path / "b", 3, "frame{:05}.jpg")
    with pytest.raises(ValueError, match=r"expected img_00001.jpg ..., found frame00001.jpg"):
        RawFrames(tmp_path / "b")


@pytest.mark.parametrize(("flows", "message"), [(11, None), (6, r"6 .*flow.* 11 .*12 frames")])
def test_one_flow_less_than_frames_is_right_and_many_are_not(tmp_path, flows, message):
    write_lists(tmp_path, [(0, 2)], [(0, 1)])
    for video in ((0, 1), (0, 2)):
        folder = tmp_path / "rawframes" / name(*video)
        write_raw(folder, 12)
        for plane, value in (("flow_x", 200), ("flow_y", 90)):
            for n in range(1, flows + 1):
                path = folder / f"{plane}_{n:05}.jpg"
                cv2.imwrite(str(path), np.full(SIZE, value, np.uint8))
    data = ucf(tmp_path, val_share=0, batch_size=1, modality="flow", crops=10)
    if message:
        with pytest.raises(ValueError, match=message):
            next(iter(data.test_dataloader()))
        return
    (batch,) = data.test_dataloader()
    assert batch["frames"].shape == (10, 5, 10, 16, 16)
    values = batch["frames"].mean((1, 3, 4)) * 255
    expected = torch.tensor([200.0, 90] * 5).expand(5, 10)
    torch.testing.assert_close(values[:5], expected, atol=2, rtol=0)
    mirrored = torch.tensor([55.0, 90] * 5).expand(5, 10)  # what goes right goes left in a mirror
    torch.testing.assert_close(values[5:], mirrored, atol=2, rtol=0)


def test_missing_and_broken_videos_are_counted_and_left_out_when_allowed(root, caplog):
    (root / "UCF-101" / f"{name(0, 5)}.avi").unlink()
    (root / "UCF-101" / f"{name(1, 6)}.avi").write_bytes(b"not a video" * 99)
    with pytest.raises(FileNotFoundError, match=r"trainlist01.txt: 2 missing in .*UCF-101") as e:
        ucf(root, val_share=0)
    assert "v_HandStandPushups_g06_c01.avi (not a video" in str(e.value)
    assert "\n" not in str(e.value)
    with caplog.at_level(logging.WARNING):
        data = ucf(root, val_share=0, on_error="skip")
    left = {video.name for video in data.parts["train"]}
    assert left == {name(*video) for video in TRAIN} - {name(0, 5), name(1, 6)}
    assert "v_HandStandPushups_g06_c01.avi: left out: not a video that can be read" in caplog.text
    assert sum(len(batch["snippets"]) for batch in data.train_dataloader()) == len(left)


def test_what_is_held_out_does_not_depend_on_what_is_there(root):
    whole = {video.name for video in ucf(root).parts["val"]}
    gone = sorted(whole)[0]
    (root / "UCF-101" / f"{gone}.avi").unlink()
    left = {video.name for video in ucf(root, on_error="skip").parts["val"]}
    assert left == whole - {gone}


def test_a_class_of_which_nothing_is_left_is_named(root, caplog):
    for path in (root / "UCF-101" / "Run").iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match="Run/v_Run_g0"):
        ucf(root)
    with caplog.at_level(logging.WARNING):
        data = ucf(root, "fit", val_share=0, on_error="skip")
    assert "no video of 1 classes is left: Run" in caplog.text
    assert data.classes == CLASSES  # labels stay what they were
    assert {video.action for video in data.parts["train"]} == {1}


def test_videos_without_a_frame_are_found(root, tmp_path):
    path = root / "UCF-101" / f"{name(0, 5)}.avi"
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(b"movi") + 4])  # the header, and no picture
    assert defect(path)
    path.write_bytes(b"")
    assert defect(path)
    (tmp_path / "empty").mkdir()
    assert defect(tmp_path / "empty") == "no img_00001.jpg inside"
    with pytest.raises(FileNotFoundError, match=r"v_Run_g05_c01\.avi \("):
        ucf(root)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_video_that_goes_or_breaks_during_training_is_replaced(root, caplog, workers):
    data = ucf(root, "fit", val_share=0, on_error="skip", num_workers=workers)
    lost, broken = (root / "UCF-101" / f"{name(action, 4)}.avi" for action in range(2))
    lost.unlink()
    broken.write_bytes(b"not a video any more")
    loader = data.train_dataloader()
    batches = list(loader)
    assert len(batches) == len(loader) == len(TRAIN) // 2
    for batch in batches:  # what stands in their place is whole: frames, names and labels
        for b, snippet in enumerate(batch["snippets"]):
            assert group_of(snippet) != 4
            assert [frame_of(f) for f in batch["frames"][b]] == batch["indices"][b].tolist()
            assert batch["actions"][b] == CLASSES.index(snippet.partition("/")[0])
    caplog.clear()
    data.teardown("fit")
    assert str(lost) in caplog.text
    assert str(broken) in caplog.text
    raising = ucf(root, "test")
    raising.parts["train"] = data.parts["train"]
    with pytest.raises((OSError, ValueError), match=r"_g04_c01\.avi"):
        list(raising.train_dataloader())


def test_what_the_lists_say_is_said_once(root, caplog):
    """The lists are read for training and again for the test; a run has two stages."""
    shared = [*TRAIN, (0, 1)]
    write_lists(root, shared, TEST)
    (root / "UCF-101" / "Juggling").mkdir()
    for _ in range(2):
        ucf(root, "fit", "test")
    lines = [record.message for record in caplog.records]
    assert len(lines) == 2
    assert "1 folders are no class of" in lines[1]
    assert lines[1].endswith("and are left out: Juggling")
    assert "1 groups are in the training and in the test list (g01)" in lines[0]


def test_the_folder_of_the_videos_will_do_as_a_root(written):
    assert ucf(written / "UCF-101").parts == ucf(written).parts
    moved = ucf(written, videos="UCF-101", lists=str(written / "ucfTrainTestlist"))
    assert moved.parts == ucf(written).parts
    with pytest.raises(FileNotFoundError, match=r"expected UCF-101 or .* found nothing|no such"):
        ucf(written.parent / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"expected rawframes inside \(data\.videos="):
        ucf(written, videos="rawframes")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": 4}, r"data\.split=4: expected one of 1, 2, 3"),
        ({"val_share": 0.6}, r"data\.val_share=0\.6"),
        ({"crops": 5}, r"data\.crops=5: expected 1 or 10"),
        ({"crop": 64}, r"data\.crop=64: expected 1 \.\. data\.short_side=20"),
        ({"test_batch_size": 0}, r"data\.test_batch_size=0"),
        ({"modality": "depth"}, r"data\.modality='depth': expected one of rgb, rgb_diff, flow"),
        ({"clip": Pair()}, r"clip: Pair samples around .* clip=consistent_interval"),
        ({"augment": {"crop": 3}}, r"data\.augment\.crop: expected one of scales"),
        ({"synthetic": {"x": 3}}, r"data\.synthetic: unknown key x"),
    ],
)
def test_bad_options_are_refused(written, options, message):
    with pytest.raises(ValueError, match=message):
        ucf(written, **options)


def test_alpha_above_beta_is_refused():
    with pytest.raises(ValueError, match=r"clip\.alpha=8, clip\.beta=7: expected 1 <= alpha <="):
        ConsistentInterval(8, 7)


def ready(data, chunk):
    return data.transfer_batch_to_device(chunk.batch, torch.device("cpu"), 0)


def test_a_stream_is_prepared_as_in_testing(written):
    data = ucf(written, clip=Segments(3, 5))
    (video, *_) = data.parts["test"]
    source = data.open_video(video.path)
    chunks = list(data.stream(source, "holiday", 10))
    assert all(chunk.batch["frames"].dtype == torch.uint8 for chunk in chunks)
    streamed = torch.cat([ready(data, chunk)["frames"][0] for chunk in chunks])
    assert [chunk.batch["starts"].tolist() for chunk in chunks] == [[True], [False], [False]]
    assert sum(len(chunk.pictures) for chunk in chunks) == len(streamed) == len(source)
    tested = next(iter(data.test_dataloader()))
    torch.testing.assert_close(streamed[tested["indices"][0]], tested["frames"][0])
    differences = ucf(written, modality="rgb_diff")
    tested = next(iter(differences.test_dataloader()))
    chunks = list(differences.stream(source, "holiday", 10))
    steps = torch.cat([ready(differences, chunk)["frames"][0] for chunk in chunks])
    torch.testing.assert_close(steps[tested["indices"][0]], tested["frames"][0])


def test_frames_for_a_gpu_are_finished_after_the_transfer(written):
    data = ucf(written, modality="rgb_diff")
    (expected, *_) = data.test_dataloader()
    loader = data.test_dataloader()
    loader.for_gpu = True
    (raw, *_) = loader
    assert raw["frames"].dtype == torch.uint8
    for batch in (raw, expected):
        moved = data.transfer_batch_to_device(batch, torch.device("cpu"), 0)
        torch.testing.assert_close(moved["frames"], expected["frames"])
        assert moved["actions"].tolist() == expected["actions"].tolist()


@pytest.mark.parametrize("kind", [Ucf101, Hmdb51])
def test_the_embedded_set_is_read_like_the_real_one(tmp_path, kind):
    settings = {"groups": 4, "clips": 1, "frames": [3, 4], "scene": {"size": [32, 40]}}
    data = kind(
        synthetic_root=tmp_path / "set",
        synthetic=settings,
        **{"num_workers": 0, "crop": 16, "short_side": 20, "val_share": 0.3, "batch_size": 4},
    )
    classes = data.classes  # before it is written
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    assert classes == data.read_classes(data.list_folder)
    parts = {name: {video.name for video in part} for name, part in data.parts.items()}
    assert len(parts["train"] | parts["val"] | parts["test"]) == 4 * len(classes)
    batch = next(iter(data.train_dataloader()))
    for snippet, action in zip(batch["snippets"], batch["actions"].tolist(), strict=True):
        assert snippet.startswith(f"{classes[action]}/")


def test_a_class_without_a_list_would_shift_the_labels(tmp_path):
    (tmp_path / "testTrainMulti_7030_splits").mkdir()
    (tmp_path / "testTrainMulti_7030_splits" / "wave_test_split1.txt").write_text("a.avi 1 \n")
    (tmp_path / "hmdb51" / "wave").mkdir(parents=True)
    (tmp_path / "hmdb51" / "walk").mkdir()
    with pytest.raises(ValueError, match=r"1 classes of .*hmdb51 have no list .*: walk"):
        Hmdb51(root=tmp_path, num_workers=0).setup("fit")


def test_a_folder_of_raw_frames_is_opened_without_its_flow(tmp_path):
    write_raw(tmp_path / "video", 4)
    for direction in ("flow_x", "flow_y"):
        for number in range(1, 4):
            name = f"{direction}_{number:05}.jpg"
            cv2.imwrite(str(tmp_path / "video" / name), np.full(SIZE, 128, np.uint8))
    source = Ucf101(tmp_path).open(tmp_path / "video")
    assert len(source) == 4
    assert [round(float(p.mean())) for p in source.read(range(4))] == [grey(n) for n in range(4)]
    (tmp_path / "others").mkdir()
    cv2.imwrite(str(tmp_path / "others/a.png"), np.zeros((*SIZE, 3), np.uint8))
    assert len(Ucf101(tmp_path).open(tmp_path / "others")) == 1  # any names otherwise
