"""Septuplets become batches whose degraded and clean frames belong together, on all ranks alike."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from data_modules.clips import Single, Window
from data_modules.degrade import degrade, main
from data_modules.pictures import read_picture, write_png
from data_modules.sampling import EpochSampler
from data_modules.vimeo90k import Vimeo90k
from flowfeat import cli
from flowfeat.batches import RestorationBatch
from flowfeat.overrides import take_apart
from flowfeat.trust import build
from flowfeat.video_writer import VideoWriter

TINY = {"scene": {"size": [32, 48]}, "train_septuplets": 5, "test_septuplets": 3}


def floats(path: Path) -> torch.Tensor:
    return torch.from_numpy(read_picture(path)).permute(2, 0, 1).float() / 255


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vimeo") / "septuplets"
    module(folder).prepare_data()
    return folder


def module(place: Path, **options: Any) -> Vimeo90k:
    usual = {"batch_size": 2, "num_workers": 0, "clip": Window(1, 1), "synthetic": TINY}
    return Vimeo90k(synthetic_root=place, **{**usual, **options})


def ready(root: Path, **options: Any) -> Vimeo90k:
    data = module(root, **options)
    data.setup("fit")
    return data


def batches(data: Vimeo90k, epoch: int = 0) -> Iterator[RestorationBatch]:
    loader = data.train_dataloader()
    assert isinstance(loader.sampler, EpochSampler)
    loader.sampler.set_epoch(epoch)
    yield from loader


def test_the_embedded_set_is_written_and_degraded_once(root: Path) -> None:
    tree = root.with_name("septuplets_degraded") / "jpeg2000_q20"
    assert ready(root).tree == tree
    path = tree / "00001/0008/im7.png"
    before = path.stat().st_mtime_ns
    module(root).prepare_data()
    assert path.stat().st_mtime_ns == before


def test_an_embedded_set_of_other_settings_is_degraded_anew(tmp_path: Path) -> None:
    first = {**TINY, "train_septuplets": 1, "test_septuplets": 1}
    module(tmp_path / "set", synthetic=first).prepare_data()
    old = (tmp_path / "set_degraded/jpeg2000_q20/00001/0001/im1.png").read_bytes()
    other = module(tmp_path / "set", synthetic={**first, "seed": 1})
    other.prepare_data()
    other.setup("fit")
    assert (tmp_path / "set_degraded/jpeg2000_q20/00001/0001/im1.png").read_bytes() != old


def test_training_clips_are_windows_around_im4(root: Path) -> None:
    data = ready(root, batch_size=1)
    seen = set()
    for batch in batches(data):
        name = batch["snippets"][0]
        seen.add(name)
        assert batch["indices"].tolist() == [[2, 3, 4]]
        assert batch["targets"].tolist() == [[1]]
        for step, number in enumerate((3, 4, 5)):
            torch.testing.assert_close(
                batch["frames"][0, step], floats(data.tree / name / f"im{number}.png")
            )
        clean = floats(root / "sequences" / name / "im4.png")
        torch.testing.assert_close(batch["clean"][0], clean)
        assert not torch.equal(batch["frames"][0, 1], clean)
    assert seen == {f"00001/000{n}" for n in range(1, 6)}


def test_crops_and_flips_are_the_same_for_degraded_and_clean(root: Path) -> None:
    """Each crop, clean and degraded, is found at one and the same place of its own picture."""
    data = ready(root, clip=Single(), batch_size=1, augment={"crop": [16, 20], "flip": 0.5})
    places, flips = set(), set()
    for epoch in range(4):
        for batch in batches(data, epoch):
            name = batch["snippets"][0]
            assert batch["frames"].shape == (1, 1, 3, 16, 20)
            whole = [data.tree / name / "im4.png", root / "sequences" / name / "im4.png"]
            crops = [batch["frames"][0, 0], batch["clean"][0]]
            found = [locate(floats(p), c) for p, c in zip(whole, crops, strict=True)]
            assert found[0] == found[1]
            places.add(found[0][:2])
            flips.add(found[0][2])
    assert len(places) > 10
    assert flips == {False, True}


def locate(picture: torch.Tensor, crop: torch.Tensor) -> tuple[int, int, bool]:
    for flip in (False, True):
        patch = (crop.flip(2) if flip else crop).permute(1, 2, 0).numpy()
        score = cv2.matchTemplate(picture.permute(1, 2, 0).numpy(), patch, cv2.TM_SQDIFF)
        low, _, place, _ = cv2.minMaxLoc(score)
        if low < 1e-4:
            return (*place, flip)
    raise AssertionError("this crop is not of this picture")


def test_a_clip_depends_on_seed_epoch_and_sample_alone(root: Path) -> None:
    options: dict[str, Any] = {"augment": {"crop": [16, 20], "flip": 0.5}}

    def by_name(data: Vimeo90k, epoch: int) -> dict[str, torch.Tensor]:
        found = {}
        for batch in batches(data, epoch):
            found |= dict(zip(batch["snippets"], batch["frames"], strict=True))
        return found

    first = by_name(ready(root, batch_size=5, **options), 1)
    again = by_name(ready(root, batch_size=1, **options), 1)
    for name, frames in first.items():
        assert torch.equal(frames, again[name])
    later, other = by_name(ready(root, **options), 2), by_name(ready(root, seed=1, **options), 1)
    assert any(not torch.equal(first[name], frames) for name, frames in later.items())
    assert any(not torch.equal(first[name], frames) for name, frames in other.items())


@pytest.mark.parametrize(
    ("context", "names"), [(0, (4,)), (1, (3, 4, 5)), (3, tuple(range(1, 8))), (9, range(1, 8))]
)
def test_evaluation_streams_full_frames_around_im4(
    root: Path, context: int, names: tuple[int, ...]
) -> None:
    data = ready(root, context=context, augment={"crop": [16, 20]}, stream_chunk=8)
    found = list(data.val_dataloader())
    assert [b["snippets"][0] for b in found] == [f"00001/000{n}:3" for n in (6, 7, 8)]
    for batch in found:
        name = batch["snippets"][0].partition(":")[0]
        frames = [floats(data.tree / name / f"im{n}.png") for n in names]
        torch.testing.assert_close(batch["frames"][0], torch.stack(frames))
        assert batch["starts"].tolist() == [True]
        assert batch["targets"].tolist() == [[list(names).index(4)]]
        torch.testing.assert_close(batch["clean"][0], floats(root / "sequences" / name / "im4.png"))


def test_chunks_of_a_stream_join_to_the_whole(root: Path) -> None:
    whole = next(iter(ready(root, context=3).val_dataloader()))
    chunks = list(ready(root, context=3, stream_chunk=3).val_dataloader())[:3]
    assert torch.equal(torch.cat([c["frames"] for c in chunks], 1), whole["frames"])
    assert [c["starts"].item() for c in chunks] == [True, False, False]
    assert [c["targets"].tolist() for c in chunks] == [[[]], [[0]], [[]]]
    assert [len(c["clean"]) for c in chunks] == [0, 1, 0]


def test_ranks_share_septuplets_without_overlap(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_rank(rank: int, world: int) -> tuple[list[str], list[str]]:
        monkeypatch.setattr(Vimeo90k, "ranks", (rank, world))
        data = ready(root)
        train = [name for batch in batches(data) for name in batch["snippets"]]
        return train, [batch["snippets"][0] for batch in data.val_dataloader()]

    alone, first, second = on_rank(0, 1), on_rank(0, 2), on_rank(1, 2)
    assert sorted(alone[0]) == sorted(first[0] + second[0])
    assert sorted(alone[1]) == sorted(first[1] + second[1])
    assert not set(first[1]) & set(second[1])


def test_workers_give_the_same_batches(root: Path) -> None:
    here, there = ready(root), ready(root, num_workers=1)
    for a, b in zip(batches(here), batches(there), strict=True):
        assert torch.equal(a["frames"], b["frames"])
        assert all(torch.equal(x, y) for x, y in zip(a["clean"], b["clean"], strict=True))


def test_any_video_streams_at_its_own_size(root: Path, tmp_path: Path) -> None:
    data = module(root)
    for length in (1, 2, 5):
        path = tmp_path / f"{length}.mp4"
        with VideoWriter(path, 25, (47, 33), threads=1) as video:
            for t in range(length):
                video.write(np.full((47, 33, 3), 40 * t, np.uint8))
        chunks = list(data.stream(data.open(path), "a", 2))
        frames = torch.cat([c.batch["frames"] for c in chunks], 1)
        pictures = np.concatenate([c.pictures for c in chunks])
        assert frames.shape == (1, length, 3, *pictures.shape[1:3])
        assert torch.equal(frames[0], torch.from_numpy(pictures).permute(0, 3, 1, 2))


def test_what_is_opened_for_prediction_is_read_strictly(root: Path, tmp_path: Path) -> None:
    data = module(root)
    cv2.imwrite(str(tmp_path / "grey.png"), np.zeros((8, 8), np.uint8))
    with pytest.raises(ValueError, match=r"grey.png: expected an 8-bit RGB picture, found 8-bit"):
        data.open(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such picture"):
        data.open(tmp_path / "none.jp2")
    cv2.imwrite(str(tmp_path / "a.jp2"), np.zeros((64, 64, 3), np.uint8))
    assert len(data.open(tmp_path / "a.jp2")) == 1


@pytest.fixture
def real(root: Path, tmp_path: Path) -> Path:
    """A copy of the embedded set that plays a user's."""
    folder = tmp_path / "vimeo set"
    for n in range(1, 9):
        (folder / f"sequences/00001/000{n}").mkdir(parents=True)
        for m in range(1, 8):
            name = f"sequences/00001/000{n}/im{m}.png"
            (folder / name).write_bytes((root / name).read_bytes())
    (folder / "sep_trainlist.txt").write_text("\n00001/0001\r\n\n00001/0003\n")
    (folder / "sep_testlist.txt").write_text("00001/0002\n\n")
    return folder


def test_lists_decide_and_the_missing_tree_names_its_command(real: Path) -> None:
    data = module(real, root=real, quality=40)
    data.prepare_data()  # a user's data are never written to
    tree = real.with_name("vimeo set_degraded") / "jpeg2000_q40"
    assert not tree.exists()
    line = (
        f"{tree}: no degraded frames: flowfeat-degrade data=vimeo90k \"data.root='{real}'\" "
        "data.codec=jpeg2000 data.quality=40 makes them"
    )
    with pytest.raises(FileNotFoundError) as raised:
        data.setup("fit")
    assert str(raised.value) == line
    said = data.degrade()
    assert said.startswith("jpeg2000_q40: 3 clips, 21 frames, mean input PSNR ")
    data.setup("fit")
    assert [w.clip.name for w in data.windows["train"]] == ["00001/0001", "00001/0003"]
    assert [w.clip.name for w in data.windows["val"]] == ["00001/0002"]
    assert not (tree / "00001/0004").exists()  # in no list
    with pytest.raises(FileNotFoundError, match=r"jpeg2000_q20: no degraded frames"):
        module(real, root=real).setup("fit")


def test_the_command_runs_as_it_is_printed(
    real: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = module(real, root=real, quality=21, degraded=real.with_name("it's here"))
    monkeypatch.setattr("sys.argv", shlex.split(data.command))
    degrade(take_apart("", (), ("workers",)))
    data.setup("test")
    monkeypatch.setattr("sys.argv", ["flowfeat-degrade", "data=imagenet_vid"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "data=ImageNetVid: expected data=vimeo90k or data=video_folder" in said
    assert said.count("\n") == 1


def test_missing_septuplets_are_counted_or_left_out(real: Path) -> None:
    (real / "sep_trainlist.txt").write_text("00001/0001\n00007/0001\n")
    data = module(real, root=real)
    with pytest.raises(FileNotFoundError, match=r"1 missing .* of 2 listed septuplets: 00007/0001"):
        data.degrade()
    assert "data.on_error=skip" not in data.command
    data = module(real, root=real, on_error="skip")
    assert "data.on_error=skip" in data.command
    assert data.degrade().startswith("jpeg2000_q20: 2 clips")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("00001-0001\n", "line 1: expected 00001/0001"),
        ("\n", "an empty list"),
        (None, "no such li"),
    ],
)
def test_lists_that_are_wrong(real: Path, text: str | None, line: str) -> None:
    path = real / "sep_testlist.txt"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=f"sep_testlist.txt: {line}"):
        module(real, root=real).setup("test")


def test_a_root_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}: expected sequences inside, found no"):
        module(tmp_path, root=tmp_path).setup("fit")


def test_frames_that_vanish_or_change_later_are_named(real: Path) -> None:
    data = module(real, root=real, batch_size=1)
    data.degrade()
    data.setup("fit")
    degraded = data.tree / "00001/0002/im3.png"
    degraded.unlink()
    line = f"{degraded}: no such picture: flowfeat-degrade data=vimeo90k .* makes that clip anew"
    with pytest.raises(FileNotFoundError, match=line):
        list(data.val_dataloader())
    for number in range(1, 8):
        write_png(data.tree / f"00001/0002/im{number}.png", np.zeros((30, 48, 3), np.uint8))
    with pytest.raises(ValueError, match=r"degraded frames of \(30, 48\) pixels .* \(32, 48\)"):
        list(data.val_dataloader())


def test_values_outside_their_ranges(root: Path) -> None:
    for options, line in (
        ({"short_side": 64}, "data.short_side: restoration keeps the pixels"),
        ({"context": -1}, "data.context=-1"),
        ({"val_limit": 0}, "data.val_limit=0"),
        ({"codec": "mpeg2"}, "data.codec=mpeg2: expected one of jpeg2000"),
        ({"quality": 0}, "data.quality=0"),
    ):
        with pytest.raises(ValueError, match=line):
            module(root, **options)
    assert len(ready(root, val_limit=2).windows["val"]) == 2


@pytest.mark.parametrize("leaf", ["vimeo90k", "video_folder"])
def test_the_leaf_builds(leaf: str) -> None:
    config = cli.compose_config([f"data={leaf}"])
    data = build(config.data, trust=())(clip=Window(1, 1), seed=0)
    assert (data.leaf, data.classes, data.degradation.name) == (leaf, (), "jpeg2000_q20")
