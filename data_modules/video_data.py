"""What every video data module shares: clips that become batches, their loaders, and streams."""

import os
import re
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from traceback import clear_frames
from typing import Any

import cv2
import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data_modules.augment import Augment
from data_modules.clips import Single
from data_modules.options import check_least
from data_modules.replacing import (
    ReadBatch,
    Replacing,
    Unreadable,
    checked_on_error,
    collate_with_errors,
)
from data_modules.resize import Frames, Resize, pad_clips
from data_modules.sampling import EpochSampler, Order, assign_snippets, share
from data_modules.video import open_video
from flowfeat.batches import ClipSampler, StreamChunk, VideoBatch, VideoSource

HOST_KEYS = ("indices", "targets", "starts", "seeds", "sizes", "scales")
"""Batch keys that stay on the CPU: they steer the program, and reading them must not wait."""

OpenVideo = Callable[[Path], VideoSource]
StreamKey = tuple[int, int, int]
"""Snippet number, first frame, end of a chunk of a stream."""


@dataclass
class Clip:
    """One sample before it is stacked; frames are uint8, since they travel between processes."""

    frames: Frames  # (T, H, W, 3)
    scale: tuple[float, float]  # sx, sy
    indices: list[int]  # T
    targets: list[int]  # S
    seed: int
    snippet: str


def collate(clips: Sequence[Clip]) -> VideoBatch:
    """Stack clips; the frames are uint8 until ``ClipLoader`` hands them out."""
    frames, sizes = pad_clips([clip.frames for clip in clips])
    return VideoBatch(
        frames=frames,
        sizes=sizes,
        scales=torch.tensor([clip.scale for clip in clips], dtype=torch.float32),
        indices=torch.tensor([clip.indices for clip in clips], dtype=torch.int64),
        targets=torch.tensor([clip.targets for clip in clips], dtype=torch.int64),
        starts=torch.tensor([clip.indices[0] == 0 for clip in clips]),
        seeds=torch.tensor([clip.seed for clip in clips], dtype=torch.int64),
        snippets=[clip.snippet for clip in clips],
    )


class OpenVideos:
    """The videos that this process has open, at most ``most``, the longest unused closed first.

    Readers hold threads and file positions, so a worker process opens its own.
    """

    def __init__(self, open_video: OpenVideo, most: int = 8) -> None:
        self.open_video = open_video
        self.most = most
        self._process = os.getpid()
        self._videos: OrderedDict[Path, VideoSource] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_videos": OrderedDict()}

    def __call__(self, path: Path) -> VideoSource:
        """Return the video at ``path``, opened now or before."""
        if self._process != os.getpid():
            self._process, self._videos = os.getpid(), OrderedDict()
        if path not in self._videos:
            self._videos[path] = self.open_video(path)
        self._videos.move_to_end(path)
        while len(self._videos) > self.most:
            self._videos.popitem(last=False)
        return self._videos[path]


def read_clip(source: VideoSource, indices: Sequence[int]) -> Frames:
    """Read frames in any order, each of them once even where it stands in the clip twice."""
    unique, positions = np.unique(np.asarray(indices), return_inverse=True)
    frames: NDArray[np.uint8] = source.read(unique.tolist())
    return (
        frames
        if len(unique) == len(indices) and (np.diff(indices) > 0).all()
        else frames[positions]
    )


def _quiet_worker(number: int) -> None:
    cv2.setNumThreads(0)  # workers are the parallelism


def to_float(frames: Tensor) -> Tensor:
    """Turn uint8 frames into float32 in [0, 1], on their device; float frames stay as they are."""
    return frames.float().div_(255) if frames.dtype == torch.uint8 else frames


class ClipLoader(DataLoader[Any]):
    """A loader whose batches have float frames, whose errors are one line, and that can resume.

    Workers send uint8, a quarter of the bytes: shared memory is small in containers. For a GPU the
    frames stay uint8 until ``VideoDataModule.transfer_batch_to_device`` has moved them. The trainer
    keeps ``state_dict`` in its checkpoints.
    """

    def __init__(
        self,
        *args: Any,
        for_gpu: bool = False,
        unreadable: Unreadable | None = None,
        **options: Any,
    ) -> None:
        options |= {"pin_memory": for_gpu, "worker_init_fn": _quiet_worker}
        super().__init__(*args, **options)
        self.for_gpu = for_gpu
        self.unreadable = Unreadable() if unreadable is None else unreadable
        self._seen = (-1, 0)  # epoch, its global batches so far

    # A generator: the trainer calls iter() first and tells the sampler its epoch afterwards.
    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # any iterator serves
        epoch, start = -1, 0
        if isinstance(self.sampler, EpochSampler):
            epoch, start = self.sampler.epoch, self.sampler.start
        try:
            for number, batch in enumerate(super().__iter__(), start + 1):
                self._seen = (epoch, number)
                if isinstance(batch, ReadBatch):
                    self.unreadable.add(batch.errors)
                    batch = batch.batch
                if not self.for_gpu and "frames" in batch:
                    batch["frames"] = to_float(batch["frames"])
                yield batch
        except (ValueError, OSError) as error:
            if not str(error).startswith("Caught"):
                raise
            clear_frames(error.__traceback__)  # they hold the workers, which would end 5 s late
            raise _plain(error) from None

    def state_dict(self) -> dict[str, int]:
        """Return how far the epoch is."""
        return {"epoch": self._seen[0], "batches": self._seen[1]}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Leave out what the checkpoint's run has seen of its epoch."""
        if isinstance(self.sampler, EpochSampler):
            self.sampler.resume(state_dict["epoch"], state_dict["batches"])


def _plain(error: Exception) -> Exception:
    """Return a worker's error, which carries its traceback as text, with its message alone."""
    last = str(error).strip().splitlines()[-1]
    message = last.partition(": ")[2] or last
    system = _SYSTEM.fullmatch(message)
    if system is None or not isinstance(error, OSError):
        return type(error)(message)
    return OSError(int(system[1]), system[2], system[3])  # becomes the child of that number


_SYSTEM = re.compile(r"\[Errno (\d+)\] (.+?): '(.+)'")
"""What the system's own errors say: the number, the reason and the file."""


class ClipDataModule(pl.LightningDataModule, ABC):
    """Loaders whose samples are drawn by (epoch, sample id) and shared out over the processes.

    The trainer must run with ``use_distributed_sampler=False``.

    Args:
        batch_size: Samples per step over all processes together.
        num_workers: Processes that decode, per loader; 0 decodes in the main process.
        seed: Of every draw, 0 or more.
        on_error: ``raise`` ends the run where something is missing or cannot be read; ``skip``
            leaves out what is missing at the start, and draws another training sample for one that
            cannot be read later on.
    """

    def __init__(
        self, batch_size: int, num_workers: int, seed: int, on_error: str = "raise"
    ) -> None:
        super().__init__()
        self.skips = checked_on_error(on_error)
        self.unreadable = Unreadable()
        check_least(batch_size=(batch_size, 1), num_workers=(num_workers, 0), seed=(seed, 0))
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        # Nothing is padded to equal shares, so a rank may have none.
        self.allow_zero_length_dataloader_with_multiple_devices = True

    @abstractmethod
    def train_dataloader(self) -> ClipLoader:
        """Return the loader of training samples."""

    @abstractmethod
    def val_dataloader(self) -> ClipLoader:
        """Return the loader of what is validated on."""

    def teardown(self, stage: str) -> None:
        """List what could not be read."""
        self.unreadable.report()

    def test_dataloader(self) -> ClipLoader:
        """Return the loader of validation: these datasets publish no test labels."""
        return self.val_dataloader()

    @property
    def ranks(self) -> tuple[int, int]:
        """This process's rank, and how many there are."""
        trainer = self.trainer
        return (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)

    @property
    def accumulated(self) -> int:
        """Global batches in one step of the trainer's optimiser."""
        trainer = self.trainer
        return 1 if trainer is None else int(trainer.accumulate_grad_batches)

    @property
    def _for_gpu(self) -> bool:
        trainer = self.trainer
        return trainer is not None and trainer.strategy.root_device.type == "cuda"

    def loader(self, dataset: Dataset[Any], **options: Any) -> ClipLoader:
        """Return a loader with this module's workers, for its trainer's device."""
        return ClipLoader(dataset, **self._loading(), **options)

    def _loading(self) -> dict[str, Any]:
        """Return what all loaders of this module share."""
        return {
            "num_workers": self.num_workers,
            "for_gpu": self._for_gpu,
            "unreadable": self.unreadable,
        }

    def clip_loader(
        self,
        dataset: Dataset[Any],
        order: Order,
        collate: Callable[[Any], Any] | None = None,
        pools: Sequence[range] | None = None,
    ) -> ClipLoader:
        """Return a loader whose dataset takes (epoch, sample id), in the order given.

        Args:
            dataset: The samples.
            order: Of their ids.
            collate: Stacks them.
            pools: Ids that may stand for one another; None: all of them.
        """
        rank, world_size = self.ranks
        if self.skips:
            all_ids = [range(len(order(0)))]
            dataset = Replacing(dataset, all_ids if pools is None else pools, self.seed)
            collate = collate_with_errors(collate)
        return self.loader(
            dataset,
            batch_size=share(self.batch_size, world_size),
            sampler=EpochSampler(order, self.batch_size, rank, world_size, self.accumulated),
            drop_last=True,
            collate_fn=collate,
            persistent_workers=self.num_workers > 0,
        )


class VideoDataModule(ClipDataModule):
    """Loaders for clips (training) and for whole videos as chunks, B = 1 (all other stages).

    Args:
        clip: Chooses a training clip's frames; belongs to the method. None: the frame alone.
        batch_size: Clips per step over all processes together.
        num_workers: Processes that decode, per loader; 0 decodes in the main process.
        seed: Of every draw, 0 or more.
        short_side: Pixels of the shorter side (None: as it is).
        long_side: The longer side's limit in pixels (None: no limit).
        augment: Options of ``augment.Augment``.
        stream_chunk: Frames per batch of a stream.
        on_error: What to do where something cannot be read: ``raise`` or ``skip``.
    """

    classes: tuple[str, ...]
    reader = "auto"
    """Of ``open_video``: what decodes videos."""

    def __init__(
        self,
        *,
        clip: ClipSampler | None = None,
        batch_size: int = 8,
        num_workers: int = 2,
        seed: int = 0,
        short_side: int | None = None,
        long_side: int | None = None,
        augment: Mapping[str, Any] | None = None,
        stream_chunk: int = 8,
        on_error: str = "raise",
    ) -> None:
        super().__init__(batch_size, num_workers, seed, on_error)
        check_least(stream_chunk=(stream_chunk, 1))
        self.clip: ClipSampler = Single() if clip is None else clip
        self.resize = Resize(short_side, long_side)
        self.augment = Augment.from_mapping(augment)
        self.stream_chunk = stream_chunk

    def stream_loader(
        self, dataset: Dataset[Any], lengths: Sequence[int], collate: Callable[[Any], Any]
    ) -> ClipLoader:
        """Return a loader whose dataset takes ``StreamKey``s: this rank's snippets, one by one."""
        rank, world_size = self.ranks
        keys: list[StreamKey] = [
            (snippet, start, min(start + self.stream_chunk, lengths[snippet]))
            for snippet in assign_snippets(lengths, world_size)[rank]
            for start in range(0, lengths[snippet], self.stream_chunk)
        ]
        return self.loader(dataset, batch_size=1, sampler=keys, collate_fn=collate)

    def open(self, path: str | Path) -> VideoSource:
        """Open any video file or folder of frames, whatever the dataset's own files are."""
        # `reader` says what decodes the dataset's files: pictures in a folder are not decoded.
        return open_video(path, "folder" if Path(path).is_dir() else self.reader)

    def stream(self, source: VideoSource, name: str, chunk: int) -> Iterator[StreamChunk]:
        """Yield a video of any kind in chunks; see ``batches.VideoData``."""
        if chunk < 1:
            raise ValueError(f"chunk={chunk}: expected 1 or more frames")
        for start in range(0, len(source), chunk):
            indices = list(range(start, min(start + chunk, len(source))))
            pictures = source.read(indices)
            frames, scale = self.resize(pictures)
            steps = list(range(len(indices)))
            batch = collate([Clip(frames, scale, indices, steps, 0, name)])
            yield StreamChunk(batch, pictures)

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Move a batch, except for the keys that steer the program."""
        stay = {key: batch[key] for key in HOST_KEYS}
        rest = {key: value for key, value in batch.items() if key not in HOST_KEYS}
        moved = super().transfer_batch_to_device(rest, device, dataloader_idx)
        return {**moved, **stay, "frames": to_float(moved["frames"])}
