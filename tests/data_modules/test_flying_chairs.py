"""Flying Chairs, embedded and real: files, splits and flow say the same thing."""

import shutil
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from data_modules.flow_files import read_flo, write_flo
from data_modules.flying_chairs import FlyingChairs, read_pair, read_split
from data_modules.synthetic.chairs_writer import (
    SPLIT_FILE,
    TRAIN,
    VAL,
    chairs_settings,
    write_flying_chairs,
)
from data_modules.synthetic.scenes import Scene

SMALL = {"train_pairs": 6, "val_pairs": 2, "scene": {"size": [48, 64]}}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("chairs") / "FlyingChairs_release"
    assert write_flying_chairs(root, chairs_settings(SMALL))
    assert not write_flying_chairs(root, chairs_settings(SMALL))  # it is there
    return root


@pytest.fixture
def root(written, tmp_path):
    """Return a copy to be broken."""
    return shutil.copytree(written, tmp_path / "FlyingChairs_release")


def ready(root, **options) -> FlyingChairs:
    data = FlyingChairs(root, **{"batch_size": 2, "num_workers": 0, **options})
    data.setup("fit")
    return data


def test_the_embedded_set_has_the_real_layout(written):
    names = {path.name for path in (written / "data").iterdir()}
    kinds = ("img1.ppm", "img2.ppm", "flow.flo")
    assert names == {f"{n:05}_{kind}" for n in range(1, 9) for kind in kinds}
    split = read_split(written / SPLIT_FILE)
    assert (split.count(TRAIN), split.count(VAL), len(split)) == (6, 2, 8)


def test_the_embedded_flow_is_exact_from_the_first_picture_to_the_second(written):
    settings = chairs_settings(SMALL)
    for number in range(1, 9):
        current, key, flow = read_pair(written, number)
        scene = Scene((settings.seed, 12, number), settings.scene)
        frames = [scene.render(t).image for t in range(60)]
        i = next(t for t, frame in enumerate(frames) if np.array_equal(frame, current))
        k = next(t for t, frame in enumerate(frames) if np.array_equal(frame, key))
        np.testing.assert_array_equal(flow, scene.flow(i, k)[0])
        assert abs(i - k) <= settings.max_offset


def test_batches_hold_the_training_pairs_and_the_validation_pairs(written):
    data = ready(written)
    split = read_split(written / SPLIT_FILE)
    for loader, part in ((data.train_dataloader(), TRAIN), (data.val_dataloader(), VAL)):
        numbers = [n for n, p in enumerate(split, start=1) if p == part]
        expected = {read_pair(written, n)[2].tobytes() for n in numbers}
        flows = torch.cat([batch["flow"] for batch in loader])
        assert {flow.permute(1, 2, 0).numpy().tobytes() for flow in flows} == expected
    batch = next(iter(data.val_dataloader()))
    first = next(n for n, p in enumerate(split, start=1) if p == VAL)
    current, key, _ = read_pair(written, first)
    for name, picture in (("current", current), ("key", key)):
        frame = batch[name][0]
        assert frame.dtype == torch.float32
        np.testing.assert_allclose(frame.permute(1, 2, 0).numpy() * 255, picture, atol=1e-3)
    assert batch["valid"].all()


def test_augmentation_depends_on_seed_and_epoch_alone(written):
    def epoch(number: int, seed: int = 0) -> list[torch.Tensor]:
        data = ready(written, seed=seed, augment={"crop": [32, 32], "rotation": 20})
        loader = data.train_dataloader()
        loader.sampler.set_epoch(number)
        return [batch["flow"] for batch in loader]

    for one, again in zip(epoch(1), epoch(1), strict=True):
        assert torch.equal(one, again)
        assert one.shape[-2:] == (32, 32)
    ordered = [torch.cat(epoch(*which)).flatten(1).sum(1).sort()[0] for which in ((1,), (2,))]
    assert not torch.allclose(*ordered)
    assert not torch.equal(epoch(1)[0], epoch(1, seed=1)[0])


def test_a_lone_root_is_written_by_prepare_data(tmp_path):
    data = FlyingChairs(
        synthetic_root=tmp_path / "set", synthetic=SMALL, batch_size=2, num_workers=0, val_limit=1
    )
    data.prepare_data()
    data.setup("fit")
    assert len(list(data.val_dataloader())) == 1
    with pytest.raises(ValueError, match=r"data.synthetic: unknown key pairs: expected one of"):
        FlyingChairs(synthetic={"pairs": 3})


def split_of(lines: int) -> str:
    return "1\n2\n" * (lines // 2)


@pytest.mark.parametrize(
    ("broken", "said", "kind"),
    [
        (
            lambda r: (r / SPLIT_FILE).write_text(split_of(6)),
            "6 lines, .* pairs 1 .. 8",
            ValueError,
        ),
        (
            lambda r: (r / SPLIT_FILE).write_text(split_of(12)),
            r"4 missing in .*, of 12 listed pairs: 00009 \(img1.ppm, img2.ppm, flow.flo\)",
            FileNotFoundError,
        ),
        (
            lambda r: (r / SPLIT_FILE).write_text("1\n3\n"),
            "line 2: expected 1 or 2, found '3'",
            ValueError,
        ),
        (lambda r: (r / SPLIT_FILE).unlink(), "no such split file", FileNotFoundError),
        (
            lambda r: (r / "data/00003_img2.ppm").unlink(),
            r"1 missing in .*: 00003 \(img2.ppm\); data.on_error=skip",
            FileNotFoundError,
        ),
        (
            lambda r: (r / SPLIT_FILE).write_text("1\n" * 8),
            r"none of the pairs that are there is for validation \(2\)",
            ValueError,
        ),
        (
            lambda r: shutil.rmtree(r / "data"),
            "expected .* a folder data, found",
            FileNotFoundError,
        ),
    ],
)
def test_what_is_wrong_is_one_line(root, broken, said, kind):
    broken(root)
    with pytest.raises(kind, match=said) as refusal:
        ready(root)
    assert "\n" not in str(refusal.value)


def test_missing_pairs_may_be_left_out(root, caplog):
    (root / "data/00001_img2.ppm").unlink()
    (root / SPLIT_FILE).write_text(split_of(20))
    data = ready(root, on_error="skip")
    assert data.numbers == {TRAIN: [3, 5, 7], VAL: [2, 4, 6, 8]}
    assert "13 missing" in caplog.text


def test_broken_files_are_one_line_from_the_loader_too(root):
    path = root / "data/00002_flow.flo"
    path.write_bytes(path.read_bytes()[:-4])
    (root / SPLIT_FILE).write_text(split_of(8))
    with pytest.raises(
        ValueError, match=r"00002_flow\.flo: expected .* bytes for a flow of 64 x 48"
    ):
        list(ready(root, num_workers=1).val_dataloader())


def test_sizes_that_differ_are_one_line(root):
    shutil.copy(root / "data/00001_img1.ppm", root / "data/00002_img1.ppm")
    path = root / "data/00002_img1.ppm"
    path.write_bytes(b"P6 2 2 255\n" + b"\0" * 12)
    with pytest.raises(ValueError, match=r"one size, found 2 x 2, 64 x 48, 64 x 48"):
        read_pair(root, 2)


def test_real_flow_warps_the_second_picture_onto_the_first(samples):
    """Over the pixels whose match lies inside the frame the error falls at least by half."""
    root = samples / "FlyingChairs_release"
    with pytest.raises(FileNotFoundError, match="22867 missing"):
        ready(root)
    split = read_split(root / SPLIT_FILE)
    assert (len(split), split.count(VAL)) == (22872, 640)
    for number in range(1, 6):
        current, key, flow = read_pair(root, number)
        assert flow.shape == (384, 512, 2)
        y, x = np.mgrid[:384, :512].astype(np.float32)
        tx, ty = x + flow[..., 0], y + flow[..., 1]
        inside = (tx >= 0) & (tx <= 511) & (ty >= 0) & (ty <= 383)
        warped = cv2.remap(key, tx, ty, cv2.INTER_LINEAR).astype(float)
        error, still = (
            np.abs(other - current.astype(float))[inside].mean() for other in (warped, key)
        )
        assert error <= 0.5 * still, f"pair {number}: {error:.1f} of {still:.1f}"


def test_more_ranks_than_validation_pairs_are_refused(written):
    # A rank without any would skip the evaluation, and the others would wait for it for ever.
    data = ready(written, batch_size=3)
    for ranks in (2, 3):
        data.trainer = SimpleNamespace(
            global_rank=1,
            accumulate_grad_batches=1,
            world_size=ranks,
            strategy=SimpleNamespace(root_device=torch.device("cpu")),
        )
        data.batch_size = ranks
        if ranks == 2:
            assert list(data.val_dataloader().sampler) == [(0, 1)]
    with pytest.raises(ValueError, match=r"at most 2 processes .* found 3"):
        data.val_dataloader()


def test_flow_that_is_not_known_does_not_count(root):
    number = ready(root).numbers[VAL][0]
    path = root / "data" / f"{number:05}_flow.flo"
    flow = read_flo(path)
    flow[:4, :4], flow[4, 4] = 1e10, np.nan
    write_flo(path, flow)
    valid = next(iter(ready(root).val_dataloader()))["valid"][0].numpy()
    assert not valid[:4, :4].any()
    assert not valid[4, 4]
    assert valid.sum() == valid.size - 17
