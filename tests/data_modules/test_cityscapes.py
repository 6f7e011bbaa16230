"""Cityscapes in its real layout: the frames before the labelled one, and labels that follow."""

import logging
from pathlib import Path
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest
import torch
import yaml

from data_modules.cityscapes import Cityscapes
from data_modules.cityscapes_labels import CLASSES, LABEL_IDS, read_label_map, to_train_ids
from data_modules.clips import ConsistentInterval, Pair, Single
from data_modules.resize import Resize
from data_modules.segmentation_clips import nearest
from data_modules.synthetic.cityscapes_writer import CITY
from flowfeat.batches import VideoSource

SIZE = (32, 64)
LONG = ("frankfurt", 0, (294, 576))  # one long sequence: labelled frames are not number 19
CAR, ROAD, SKY = LABEL_IDS["car"], LABEL_IDS["road"], LABEL_IDS["sky"]


def picture(number: int) -> np.ndarray:
    """Frame ``number`` of a sequence, from 1 .. 7 bright bits of it: a car drives over a road."""
    image = np.full((*SIZE, 3), 90, np.uint8)
    for bit in range(10):  # the number, in white and black cells
        image[:4, 4 * bit : 4 * bit + 4] = 255 * (number >> bit & 1)
    image[12:20, car(number) : car(number) + 8] = (0, 0, 255)  # BGR
    return image


def car(number: int) -> int:
    return 4 + number * 2 % 40


def label_ids(number: int) -> np.ndarray:
    labels = np.full(SIZE, ROAD, np.uint8)
    labels[:6] = SKY
    labels[:, :2] = 3  # out of roi
    labels[12:20, car(number) : car(number) + 8] = CAR
    return labels


def number_of(frame: torch.Tensor) -> int:
    """Read a frame's number off its cells."""
    cells = frame[1, 1, 1:41:4] > 0.5
    return sum(1 << bit for bit, on in enumerate(cells.tolist()) if on)


def write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def write_snippet(root: Path, split: str, city: str, sequence: int, labelled: int) -> None:
    stem = f"{city}_{sequence:06}"
    for n in range(labelled - 19, labelled + 11):
        path = root / "leftImg8bit_sequence" / split / city / f"{stem}_{n:06}_leftImg8bit.png"
        write(path, picture(n))
    path = root / "leftImg8bit" / split / city / f"{stem}_{labelled:06}_leftImg8bit.png"
    write(path, picture(labelled))
    path = root / "gtFine" / split / city / f"{stem}_{labelled:06}_gtFine_labelIds.png"
    write(path, label_ids(labelled))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four snippets of a city for training, a long sequence with two of them for validation."""
    root = tmp_path / "cityscapes"
    for sequence in range(4):
        write_snippet(root, "train", "aachen", sequence, 19)
    for labelled in LONG[2]:
        write_snippet(root, "val", LONG[0], LONG[1], labelled)
    return root


def cityscapes(root: Path | None, stage: str = "fit", **options: object) -> Cityscapes:
    settings: dict = {"root": root, "batch_size": 2, "num_workers": 0, "seed": 4} | options
    data = Cityscapes(**settings)
    data.prepare_data()
    data.setup(stage)
    return data


def test_the_official_table():
    ids = np.arange(34, dtype=np.uint8)[None]
    expected = [255] * 7 + [0, 1, 255, 255, 2, 3, 4, 255, 255, 255, 5, 255]
    expected += [*range(6, 16), 255, 255, 16, 17, 18]
    assert to_train_ids(ids)[0].tolist() == expected
    assert len(CLASSES) == 19
    assert CLASSES[13] == "car"


def test_pairs_end_on_the_labelled_frame(root):
    data = cityscapes(root, clip=Pair(9))
    offsets = set()
    for epoch in range(6):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            assert batch["frames"].shape == (2, 2, 3, *SIZE)
            assert batch["targets"].tolist() == [[1], [1]]
            for b in range(2):
                key, current = map(number_of, batch["frames"][b])
                assert [key, current] == batch["indices"][b].tolist()
                assert current == 19
                offsets.add(current - key)
                labels = batch["label_maps"][b]
                assert labels.dtype == torch.uint8
                assert np.array_equal(labels.numpy(), to_train_ids(label_ids(19)))
    assert min(offsets) >= 0
    assert max(offsets) <= 9
    assert len(offsets) > 5


def test_snippets_are_streamed_up_to_the_labelled_frame(root):
    data = cityscapes(root, stage="validate", stream_chunk=8)
    shown = []
    for batch in data.val_dataloader():
        indices = batch["indices"][0].tolist()
        assert batch["starts"].tolist() == [indices[0] == 0]
        assert batch["targets"].tolist() == [[19 - indices[0]] if 19 in indices else []]
        shown += [(batch["snippets"][0], number_of(frame)) for frame in batch["frames"][0]]
        for labels in batch["label_maps"]:
            number = int(batch["snippets"][0][-6:])
            assert np.array_equal(labels.numpy(), to_train_ids(label_ids(number)))
    assert shown == [
        (f"frankfurt_000000_{labelled:06}", frame)
        for labelled in (294, 576)
        for frame in range(labelled - 19, labelled + 1)
    ]


def test_fewer_frames_before(root):
    data = cityscapes(root, stage="validate", before=4)
    frames = [number_of(frame) for batch in data.val_dataloader() for frame in batch["frames"][0]]
    assert frames == [*range(290, 295), *range(572, 577)]


def test_labels_follow_the_car_through_resize_crop_and_flip(root):
    data = cityscapes(
        root, clip=Pair(3), short_side=48, augment={"crop": [40, 80], "flip": 0.5}, batch_size=1
    )
    places = set()
    for epoch in range(8):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            assert batch["frames"].shape == (1, 2, 3, 40, 80)
            (labels,) = batch["label_maps"]
            assert labels.shape == (40, 80)
            assert set(labels.unique().tolist()) <= {0, 10, 13, 255}
            red, _, blue = batch["frames"][0, 1]
            is_car = red - blue > 0.5
            places.add((int(is_car.any(1).nonzero()[0]), int(is_car.any(0).nonzero()[0])))
            agree = (labels == 13) == is_car
            assert agree.float().mean() > 0.985  # all but the car's blurred rim
            assert int((labels == 13).sum()) == pytest.approx(144, abs=14)
    assert len(places) > 12


def test_label_maps_shrink_as_pictures_do():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 19, (90, 124), np.uint8)
    wide = labels[..., None].repeat(3, -1)[None]
    resized, _ = Resize(30)(wide)  # by a third, so that each new pixel's middle is an old pixel's
    assert nearest(labels, resized.shape[1:3]).shape == (30, 41)
    exact = cv2.resize(labels[:, :123], (41, 30), interpolation=cv2.INTER_NEAREST_EXACT)
    assert np.array_equal(exact, labels[1::3, 1:123:3])
    assert np.array_equal(nearest(labels[:, :123], (30, 41)), labels[1::3, 1:123:3])


def test_stills_are_videos_of_one_frame(root):
    for clip, frames in ((Single(), 1), (Pair(9), 2)):
        data = cityscapes(root, images="leftImg8bit", clip=clip)
        (first, _) = data.train_dataloader()
        assert first["indices"].tolist() == [[0] * frames] * 2
        assert {number_of(frame) for b in first["frames"] for frame in b} == {19}
        batches = list(data.val_dataloader())
        assert [number_of(batch["frames"][0, 0]) for batch in batches] == [294, 576]
        assert all(batch["targets"].tolist() == [[0]] for batch in batches)


def encode(path: Path, numbers: range) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=17)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        stream.options = {"crf": "10", "g": "6"}
        for n in numbers:
            frame = av.VideoFrame.from_ndarray(picture(n), format="bgr24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_a_snippet_may_be_a_video_file(root):
    folder = root / "leftImg8bit_sequence/val/frankfurt"
    for path in folder.glob("*_0005[56789]*.png"):
        path.unlink()
    encode(folder / "frankfurt_000000_000557.mp4", range(557, 587))
    encode(folder / "frankfurt_000000_000500.mp4", range(500, 530))  # of another labelled frame
    for before in (19, 7):
        data = cityscapes(root, stage="validate", before=before)
        shown = [number_of(f) for batch in data.val_dataloader() for f in batch["frames"][0]]
        assert shown == [*range(294 - before, 295), *range(576 - before, 577)]
    data = cityscapes(root, clip=Pair(5), train_split="val")
    for batch in data.train_dataloader():
        for b, name in enumerate(batch["snippets"]):
            first = int(name[-6:]) - 19
            assert [number_of(f) - first for f in batch["frames"][b]] == batch["indices"][
                b
            ].tolist()


def test_a_video_that_ends_too_early_is_named(root):
    folder = root / "leftImg8bit_sequence/val/frankfurt"
    for path in folder.iterdir():
        path.unlink()
    for labelled in LONG[2]:
        encode(folder / f"frankfurt_000000_{labelled - 19:06}.mp4", range(12))
    message = r"000275.mp4: 12 frames: expected at least 20, because frame 19 is the labelled one"
    with pytest.raises(ValueError, match=message):
        list(cityscapes(root, stage="validate").val_dataloader())


def test_missing_predecessors_are_counted(root, caplog):
    folder = root / "leftImg8bit_sequence/train/aachen"
    for n in (3, 4, 18):
        (folder / f"aachen_000001_{n:06}_leftImg8bit.png").unlink()
    (folder / "aachen_000003_000019_leftImg8bit.png").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        cityscapes(root)
    message = str(caught.value)
    assert "2 missing in" in message
    assert "of 4 listed labelled frames" in message
    assert "aachen_000001_000019 lacks 3 of the 19 frames before it" in message
    assert "aachen_000003_000019 has no picture" in message
    assert "data.on_error=skip" in message
    assert "\n" not in message
    with caplog.at_level(logging.WARNING):
        data = cityscapes(root, on_error="skip")
    assert [s.name for s in data.snippets["train"]] == [
        "aachen_000000_000019",
        "aachen_000002_000019",
    ]
    assert "left out" in caplog.text
    assert len(cityscapes(root, before=1, on_error="skip").snippets["train"]) == 2
    (folder / "aachen_000003_000019_leftImg8bit.png").touch()
    (folder / "aachen_000001_000018_leftImg8bit.png").touch()
    assert len(cityscapes(root, before=1).snippets["train"]) == 4


def test_successors_may_be_missing(root):
    folder = root / "leftImg8bit_sequence/train/aachen"
    for n in range(24, 30):
        (folder / f"aachen_000002_{n:06}_leftImg8bit.png").unlink()
    data = cityscapes(root)
    assert [len(s.pictures) for s in data.snippets["train"]] == [30, 30, 24, 30]


def test_the_plain_package_is_not_taken_for_the_sequences(root):
    (root / "leftImg8bit_sequence").rename(root / "sequences")
    with pytest.raises(FileNotFoundError, match=r"data.images=leftImg8bit trains on these stills"):
        cityscapes(root)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (label_ids(19)[:, :-2], r"label map of 32 x 62: expected 32 x 64, the size of its picture"),
        (np.where(label_ids(19) == CAR, 77, 34).astype(np.uint8), r"unknown label ids \[34, 77\]"),
        (picture(19), r"expected a PNG of labelIds, \(H, W\) uint8, found \(32, 64, 3\) uint8"),
        (label_ids(19).astype(np.uint16), r"expected a PNG of labelIds.* uint16"),
    ],
)
def test_bad_label_maps_are_one_line_out_of_a_worker(root, image, message):
    for sequence in range(4):
        path = root / f"gtFine/train/aachen/aachen_{sequence:06}_000019_gtFine_labelIds.png"
        write(path, image)
    with pytest.raises(ValueError, match=message) as caught:
        list(cityscapes(root, num_workers=1).train_dataloader())
    assert "\n" not in str(caught.value)
    assert "gtFine_labelIds.png: " in str(caught.value)


def test_samplers_with_other_targets_are_refused(root):
    data = cityscapes(root, clip=ConsistentInterval(2, 4))
    with pytest.raises(ValueError, match=r"is a target without a label map"):
        list(data.train_dataloader())


def test_pictures_of_one_snippet_have_one_size(root):
    for sequence in range(4):
        for n in range(19):
            name = f"aachen_{sequence:06}_{n:06}_leftImg8bit.png"
            write(root / "leftImg8bit_sequence/train/aachen" / name, picture(n)[:-4])
    loader = cityscapes(root, clip=Pair(19), batch_size=4).train_dataloader()
    with pytest.raises(ValueError, match=r"differ in size: \[\(28, 64\), \(32, 64\)\]"):
        list(loader)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"before": 20}, r"data.before=20: expected 0 .. 19"),
        ({"images": "rightImg8bit"}, "data.images=rightImg8bit: expected one of leftImg8bit_seq"),
        ({"val_limit": 0}, "data.val_limit=0"),
        ({"root": None, "synthetic": {"snippets": 3}}, "unknown key snippets: expected one of"),
        ({"root": None, "synthetic": {"scene": {"x": 3}}}, "unknown key x: expected one of"),
    ],
)
def test_bad_options_are_refused(root, options, message):
    with pytest.raises(ValueError, match=message):
        cityscapes(**{"root": root, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"root": "{tmp}/nowhere"}, "nowhere: expected gtFine and .* found no such folder"),
        ({"root": "{tmp}"}, "expected gtFine and leftImg8bit_sequence inside, found cityscapes"),
        ({"train_split": "test"}, r"gtFine/test: expected <city>.* found no such folder"),
    ],
)
def test_wrong_places_say_what_was_expected(root, tmp_path, options, message):
    values = {key: value.format(tmp=tmp_path) for key, value in options.items()}
    with pytest.raises(FileNotFoundError, match=message) as caught:
        cityscapes(**{"root": root, **values})
    assert "\n" not in str(caught.value)


def test_ranks_share_batches_and_snippets(root):
    def rank_data(rank: int, world_size: int) -> Cityscapes:
        data = cityscapes(root, clip=Pair(9), augment={"crop": [16, 16]}, batch_size=4)
        strategy = SimpleNamespace(root_device=torch.device("cpu"))
        data.trainer = SimpleNamespace(
            global_rank=rank, world_size=world_size, strategy=strategy, accumulate_grad_batches=1
        )
        return data

    parts = []
    for rank, world_size in ((0, 1), (0, 2), (1, 2)):
        (batch,) = rank_data(rank, world_size).train_dataloader()
        samples = zip(batch["seeds"].tolist(), batch["frames"], batch["label_maps"], strict=True)
        parts.append({seed: (frames, labels) for seed, frames, labels in samples})
    whole, first, second = parts
    assert len(first) == len(second) == 2
    for seed, (frames, labels) in {**first, **second}.items():
        assert torch.equal(frames, whole[seed][0])
        assert torch.equal(labels, whole[seed][1])
    streamed = [
        {batch["snippets"][0][-6:] for batch in rank_data(rank, 2).val_dataloader()}
        for rank in range(2)
    ]
    assert streamed == [{"000294"}, {"000576"}]


def test_samples_do_not_depend_on_workers(root):
    def batches(workers: int) -> list[dict]:
        options = {"crop": [16, 24], "flip": 0.5, "hue": 0.2}
        data = cityscapes(root, clip=Pair(9), augment=options, num_workers=workers)
        loader = data.train_dataloader()
        loader.sampler.set_epoch(1)
        return list(loader)

    for one, two in zip(batches(0), batches(2), strict=True):
        assert torch.equal(one["frames"], two["frames"])
        assert all(map(torch.equal, one["label_maps"], two["label_maps"]))


def test_any_video_can_be_streamed(root):
    class Source:
        fps, size = 17.0, SIZE

        def __len__(self) -> int:
            return 5

        def read(self, indices):
            return np.stack([picture(n)[..., ::-1] for n in indices])

    assert isinstance(Source(), VideoSource)
    data = Cityscapes(root=root)
    moved = [
        data.transfer_batch_to_device(chunk.batch, torch.device("cpu"), 0)
        for chunk in data.stream(Source(), "holiday", 3)
    ]
    assert [number_of(f) for batch in moved for f in batch["frames"][0]] == [*range(5)]


def test_embedded_settings_are_those_of_the_config():
    path = Path(__file__).parents[2] / "configs/data/cityscapes.yaml"
    scene = yaml.safe_load(path.read_text())["synthetic"]["scene"]
    data = Cityscapes(synthetic={"scene": scene})
    assert data.synthetic.scene == CITY
    assert data.synthetic == Cityscapes().synthetic


SAMPLES = ("aachen_000000_000019", "aachen_000001_000019")


def test_real_label_maps(samples):
    """Ids and classes as the dataset's own documentation pairs them, counted pixel by pixel."""
    official = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10}
    official |= {24: 11, 25: 12, 26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18}
    for name in SAMPLES:
        path = samples / f"cityscapes/gtFine/train/aachen/{name}_gtFine_labelIds.png"
        ids = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        train_ids = read_label_map(path, (1024, 2048))
        counts = np.bincount(ids.ravel(), minlength=34)
        found = np.bincount(train_ids.ravel(), minlength=256)
        assert all(found[official[n]] == counts[n] for n in official)
        assert found[255] == sum(counts[n] for n in range(34) if n not in official)
        assert found[:19].sum() > 0.8 * 2048 * 1024


def test_real_stills(samples):
    data = cityscapes(samples / "cityscapes", images="leftImg8bit", val_split="train", clip=Pair(9))
    batch = next(iter(data.train_dataloader()))
    assert batch["frames"].shape == (2, 2, 3, 1024, 2048)
    assert sorted(batch["snippets"]) == list(SAMPLES)
    path = samples / f"cityscapes/leftImg8bit/train/aachen/{batch['snippets'][0]}_leftImg8bit.png"
    image = cv2.imread(str(path))[..., ::-1].transpose(2, 0, 1)
    for frame in batch["frames"][0]:  # the still is its own key frame
        assert np.array_equal((frame * 255).round().byte().numpy(), image)
    assert [labels.shape for labels in batch["label_maps"]] == [(1024, 2048)] * 2


def test_a_real_frame_of_a_long_sequence_lacks_its_predecessors(samples, tmp_path):
    for package in ("gtFine", "leftImg8bit"):
        (tmp_path / package).symlink_to(samples / "cityscapes" / package)
    (tmp_path / "leftImg8bit_sequence").symlink_to(samples / "cityscapes/leftImg8bit")
    message = r"frankfurt_000000_000294 lacks 19 of the 19 frames before it; nothing is left"
    with pytest.raises(FileNotFoundError, match=message):
        cityscapes(tmp_path, stage="validate")
