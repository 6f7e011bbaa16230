"""What data modules share: batches, open videos, one-line errors, streams and identical resumes."""

import multiprocessing
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import Dataset

from data_modules.sampling import draws, mixed_order
from data_modules.video_data import (
    HOST_KEYS,
    Clip,
    ClipLoader,
    OpenVideos,
    VideoDataModule,
    collate,
    read_clip,
)
from flowfeat.batches import VideoSource
from flowfeat.cli import one_line


class Ramp:
    """A video whose frame n is filled with n."""

    fps = 25.0

    def __init__(self, length: int = 11, size: tuple[int, int] = (12, 16)) -> None:
        self.length, self.size = length, size
        self.asked: list[list[int]] = []

    def __len__(self) -> int:
        return self.length

    def read(self, indices):
        self.asked.append(list(indices))
        frames = np.zeros((len(indices), *self.size, 3), np.uint8)
        return frames + np.array(indices, np.uint8)[:, None, None, None]


class Numbers(Dataset[Clip]):
    """Clips that carry their sample's seed; sample 13 is broken where wanted."""

    def __init__(self, broken: bool = False) -> None:
        self.broken = broken

    def __getitem__(self, key):
        if self.broken and key[1] == 13:
            raise ValueError("a/b.xml: box: of zero size")
        frames = np.full((2, 4, 6, 3), 51, np.uint8)
        return Clip(frames, (1.0, 1.0), [0, 1], [1], draws(3, *key).seed, f"s{key[1]}")


class NumbersData(VideoDataModule):
    classes = ("thing",)

    def train_dataloader(self) -> ClipLoader:
        return self.clip_loader(Numbers(), partial(mixed_order, self.seed, labelled=40), collate)

    def val_dataloader(self) -> ClipLoader:
        raise NotImplementedError


def test_streams_are_video_sources():
    assert isinstance(Ramp(), VideoSource)


def test_collate_fills_the_table_of_batch_keys():
    small = Clip(np.full((2, 4, 6, 3), 1, np.uint8), (0.5, 0.25), [3, 7], [1], 2**63 - 1, "a")
    large = Clip(np.full((2, 5, 5, 3), 2, np.uint8), (1.0, 1.0), [0, 1], [1], 4, "b")
    batch = collate([small, large])
    assert batch["frames"].shape == (2, 2, 3, 5, 6)
    assert batch["sizes"].tolist() == [[4, 6], [5, 5]]
    assert batch["scales"].tolist() == [[0.5, 0.25], [1, 1]]
    assert batch["indices"].tolist() == [[3, 7], [0, 1]]
    assert batch["starts"].tolist() == [False, True]
    assert batch["seeds"].tolist() == [2**63 - 1, 4]
    assert batch["snippets"] == ["a", "b"]


def test_frames_of_a_clip_are_read_once_and_come_in_order():
    source = Ramp()
    frames = read_clip(source, [5, 2, 5, 0])
    assert frames[:, 0, 0, 0].tolist() == [5, 2, 5, 0]
    assert source.asked == [[0, 2, 5]]


def test_open_videos_close_the_longest_unused():
    opened: list[Path] = []

    def open_video(path: Path) -> VideoSource:
        opened.append(path)
        return Ramp()

    videos = OpenVideos(open_video, most=2)
    for name in ("a", "b", "a", "c", "a", "b"):
        videos(Path(name))
    assert [path.name for path in opened] == ["a", "b", "c", "b"]
    reader, writer = multiprocessing.Pipe()

    def child() -> None:
        videos(Path("a"))
        writer.send(len(opened))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    assert reader.recv() == 5  # a fork shares no reader with its parent
    process.join()


@pytest.mark.parametrize("workers", [0, 1])
def test_loader_gives_floats_and_errors_of_one_line(workers):
    loader = ClipLoader(
        Numbers(broken=True),
        batch_size=2,
        sampler=[(0, 1), (0, 2), (0, 12), (0, 13)],
        collate_fn=collate,
        num_workers=workers,
    )
    batches = iter(loader)
    frames = next(batches)["frames"]
    assert frames.dtype == torch.float32
    torch.testing.assert_close(frames, torch.full((2, 2, 3, 4, 6), 0.2))
    with pytest.raises(ValueError, match="box") as caught:
        next(batches)
    assert str(caught.value) == "a/b.xml: box: of zero size"


class Failing(Dataset[Clip]):
    """Raises what it was given."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __getitem__(self, key):
        raise self.error


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PermissionError(13, "Permission denied", "a/b.flo"), "a/b.flo: permission denied"),
        (IsADirectoryError(21, "Is a directory", "a/b.flo"), "a/b.flo: is a directory"),
        (OSError(28, "No space left on device", "cache"), "cache: no space left on the device"),
        (OSError("FFmpeg 7 failed: silently"), "FFmpeg 7 failed: silently"),
        (FileNotFoundError("a/b.png: no such picture"), "a/b.png: no such picture"),
    ],
)
def test_what_the_system_refuses_is_one_line_out_of_a_worker_too(error, line, workers):
    loader = ClipLoader(Failing(error), batch_size=1, sampler=[(0, 0)], num_workers=workers)
    with pytest.raises(type(error)) as caught:
        next(iter(loader))
    assert one_line(caught.value) == line


def test_stream_covers_a_video_in_order():
    data = NumbersData(short_side=6)
    chunks = list(data.stream(Ramp(11), "holiday", 4))
    assert [chunk.batch["indices"].tolist() for chunk in chunks] == [
        [[0, 1, 2, 3]],
        [[4, 5, 6, 7]],
        [[8, 9, 10]],
    ]
    assert [chunk.batch["starts"].tolist() for chunk in chunks] == [[True], [False], [False]]
    for chunk in chunks:
        assert chunk.pictures.shape[1:] == (12, 16, 3)
        assert chunk.batch["frames"].shape[2:] == (3, 6, 8)
        assert chunk.batch["frames"].dtype == torch.uint8  # on its way to a device
        moved = data.transfer_batch_to_device(chunk.batch, torch.device("cpu"), 0)
        values = moved["frames"][0, :, 1, 3, 4] * 255
        torch.testing.assert_close(values, chunk.batch["indices"][0].float())
        assert chunk.batch["scales"].tolist() == [[0.5, 0.5]]
        assert chunk.batch["targets"].tolist() == [list(range(len(chunk.pictures)))]
        assert chunk.batch["snippets"] == ["holiday"]


def test_frames_for_a_gpu_become_floats_after_the_transfer():
    options = {"batch_size": 2, "sampler": [(0, 1), (0, 2)], "collate_fn": collate}
    (batch,) = ClipLoader(Numbers(), for_gpu=True, **options)
    assert batch["frames"].dtype == torch.uint8
    (floats,) = ClipLoader(Numbers(), **options)
    moved = NumbersData().transfer_batch_to_device(batch, torch.device("cpu"), 0)
    assert torch.equal(moved["frames"], floats["frames"])


def test_steering_keys_stay_on_the_host():
    batch = dict(collate([Numbers()[(0, 0)]]))
    moved = NumbersData().transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert {key for key in moved if torch.is_tensor(moved[key]) and not moved[key].is_meta} == set(
        HOST_KEYS
    )
    assert moved["frames"].dtype == torch.float32


class Witness(pl.LightningModule):
    """Writes down the seeds it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[int]] = []

    def training_step(self, batch, index):
        self.seen.append(batch["seeds"].tolist())
        return self.weight * 0

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("stop", [3, 4, 6, 8])  # in mid-epoch and at the ends of epochs of 4
def test_a_resumed_run_sees_what_the_whole_run_would_have_seen(tmp_path, stop, workers):
    options = {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
    }

    def run(resume: Path | None = None) -> list[list[int]]:
        # Checkpoints made while training goes on, as they are when a run is killed.
        save = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=stop, save_top_k=-1)
        trainer, module = pl.Trainer(max_steps=10, callbacks=[save], **options), Witness()
        data = NumbersData(batch_size=10, num_workers=workers, seed=2)
        trainer.fit(module, data, ckpt_path=resume, weights_only=resume is not None)
        return module.seen

    whole = run()
    assert len(whole) == 10
    assert run(tmp_path / f"step={stop}.ckpt") == whole[stop:]
    assert len({seed for batch in whole for seed in batch}) == 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "data.batch_size=0"),
        ({"num_workers": -1}, "data.num_workers=-1"),
        ({"seed": -1}, "data.seed=-1"),
        ({"stream_chunk": 0}, "data.stream_chunk=0"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        NumbersData(**options)
