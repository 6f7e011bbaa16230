"""What UCF-101 and HMDB-51 share: one split of videos with an action each, trained and tested."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from data_modules.action_augment import CornerCrops
from data_modules.action_clips import (
    ActionVideos,
    RecognitionClip,
    TestClips,
    TrainClips,
    collate_crops,
    collate_recognition,
    opener,
    read_pictures,
)
from data_modules.action_layout import (
    RAW_FRAME,
    ActionVideo,
    RawFrames,
    find_folder,
    find_videos,
)
from data_modules.action_lists import SPLITS, ActionLists, hold_out
from data_modules.action_pace import mean_step
from data_modules.action_sampling import action_sampler
from data_modules.clips import ConsistentInterval
from data_modules.modalities import Modality, choose_modality
from data_modules.modality_cost import opening, time_segment
from data_modules.sampling import assign_snippets, mixed_order
from data_modules.video_data import ClipLoader, OpenVideo, VideoDataModule
from flowfeat.batches import ClipSampler, RecognitionBatch, StreamChunk, VideoSource

CROPS = (1, 10)


class ActionLoader(ClipLoader):
    """A loader that hands out what the network sees: float frames, finished by the modality."""

    def __init__(self, *args: Any, modality: Modality, **options: Any) -> None:
        super().__init__(*args, **options)
        self.modality = modality

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # any iterator serves
        for batch in super().__iter__():
            if not self.for_gpu:
                batch["frames"] = self.modality.finish(batch["frames"])
            yield batch


class ActionData(VideoDataModule):
    """An action dataset in its official layout, or the embedded set in the same layout.

    Training clips are drawn from the official training list less whole groups that are held out
    for validation; the test is the official test list. A test batch holds B whole videos, with
    ten crops 10 B entries; no rank sees a video twice.

    Args:
        root: The folder that holds the videos and the lists; None: the embedded set, written when
            it is needed.
        split: 1, 2 or 3 of the official splits.
        videos: Folder of the videos or raw frames, in the root; None: by its usual names.
        lists: Folder of the lists, in the root; None: by its usual name.
        val_share: Share of each class's training videos that is held out, up to 0.5; 0: train on
            all of them and validate on the test list.
        clip: Samples whole videos: ``clips.ConsistentInterval`` (None: with its own numbers) or
            ``clips.Segments``.
        modality: rgb, rgb_diff or flow.
        new_length: Differences or flows in a segment; None: the modality's own.
        flow_root: Precomputed flow, see ``modalities.StackedFlow``.
        flow_cache: Where flow is kept that had to be computed; None computes none.
        flow_method: What computes it: dis, or tvl1 as in the papers.
        crop: Side in pixels of what the network sees.
        short_side: To which test pictures are resized before they are cropped.
        crops: Of a test video: 1, the centre, or 10, corners and centre plain and mirrored.
        augment: Options of ``action_augment.CornerCrops``.
        test_batch_size: Whole videos per validation and test batch, on each rank.
        reader: Of ``open_video``.
        synthetic_root: Where the embedded set lies.
        synthetic: Its settings.
        options: Those of ``VideoDataModule``.

    Raises:
        ValueError: A number out of range, an unknown key, or a sampler of another kind.
    """

    video_folders: Sequence[str]
    """Usual names of the folder of the videos."""
    list_folders: Sequence[str]
    """Usual names of the folder of the lists."""

    def __init__(
        self,
        *,
        root: str | Path | None = None,
        split: int = 1,
        videos: str | Path | None = None,
        lists: str | Path | None = None,
        val_share: float = 0.1,
        clip: ClipSampler | None = None,
        modality: str = "rgb",
        new_length: int | None = None,
        flow_root: str | Path | None = None,
        flow_cache: str | Path | None = None,
        flow_method: str = "dis",
        crop: int = 224,
        short_side: int = 256,
        crops: int = 1,
        augment: Mapping[str, Any] | None = None,
        test_batch_size: int = 1,
        reader: str = "auto",
        synthetic_root: str | Path,
        synthetic: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        sampler = action_sampler(ConsistentInterval() if clip is None else clip)
        super().__init__(clip=sampler, short_side=short_side, **options)
        self.sampler = sampler
        if split not in SPLITS:
            raise ValueError(f"data.split={split}: expected one of 1, 2, 3")
        if not 0 <= val_share <= 0.5:
            raise ValueError(f"data.val_share={val_share}: expected 0 .. 0.5")
        if crops not in CROPS:
            raise ValueError(f"data.crops={crops}: expected 1 or 10")
        if not 1 <= crop <= short_side:
            raise ValueError(f"data.crop={crop}: expected 1 .. data.short_side={short_side}")
        if test_batch_size < 1:
            raise ValueError(f"data.test_batch_size={test_batch_size}: expected 1 or more")
        self.embedded = root is None
        self.root = Path(synthetic_root if root is None else root).expanduser()
        self.split, self.val_share = split, val_share
        self._videos, self._lists = videos, lists
        self.modality = choose_modality(modality, new_length, flow_root, flow_cache, flow_method)
        self.flow = choose_modality("flow", method=flow_method)  # beside which RGB is fast
        self.crop, self.crops, self.test_batch_size = crop, crops, test_batch_size
        self.corner_crops = CornerCrops.from_mapping(augment)
        self.reader = reader
        self.open_video: OpenVideo = opener(reader)
        self.synthetic = dict(synthetic or {})
        self.parts: dict[str, list[ActionVideo]] = {}
        self._official: ActionLists | None = None

    @abstractmethod
    def read_lists(self, folder: Path) -> ActionLists:
        """Read the lists of the split."""

    @abstractmethod
    def read_classes(self, folder: Path) -> tuple[str, ...]:
        """Return the classes, by label, from the lists alone."""

    @abstractmethod
    def write_embedded(self) -> None:
        """Write the embedded set into the root, unless it is there."""

    @property
    @abstractmethod
    def embedded_classes(self) -> tuple[str, ...]:
        """Classes of the embedded set, which may not be written yet."""

    @property
    def classes(self) -> tuple[str, ...]:  # type: ignore[override]  # read only
        """Names of the actions, by label."""
        return self.embedded_classes if self.embedded else self.read_classes(self.list_folder)

    @property
    def list_folder(self) -> Path:
        """Where the lists lie; FileNotFoundError where they do not."""
        return find_folder(self.root, self.list_folders, self._lists, "lists", self.video_folders)

    @property
    def video_folder(self) -> Path:
        """Where the videos lie; FileNotFoundError where they do not."""
        return find_folder(
            self.root, self.video_folders, self._videos, "videos", self.video_folders
        )

    def prepare_data(self) -> None:
        """Write the embedded set, unless it is there or a root was given."""
        if self.embedded:
            self.write_embedded()

    def setup(self, stage: str) -> None:
        """Read the lists and find out which of their videos can be used.

        Raises:
            FileNotFoundError: The root, a list, or listed videos are missing or broken.
            ValueError: A list that is not understood, or no group to hold out.
        """
        wanted = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}.get(stage, ())
        if all(part in self.parts for part in wanted):
            return
        if self._official is None:  # once: it may have something to say
            self._official = self.read_lists(self.list_folder)
        lists = self._official
        parts = {"test": (lists.test, lists.test_path), "train": (lists.train, lists.train_path)}
        if self.val_share:  # what is held out does not depend on what is there
            train, val = hold_out(*parts["train"], share=self.val_share)
            parts |= {"train": (train, lists.train_path), "val": (val, lists.train_path)}
        else:
            parts["val"] = parts["test"]
        for part in wanted:
            listed, path = parts[part]
            self.parts[part] = find_videos(
                listed, self.video_folder, path, lists.classes, self.skips
            )

    def measured(self) -> dict[str, float | None]:
        """Return ``step_seconds``: the mean time from one segment to the next in training."""
        return {"step_seconds": mean_step(self._source("train"), self.sampler)}

    def segment_seconds(self, modality: Modality, video: VideoSource | None = None) -> float:
        """Return what a segment of a modality costs beyond decoding; see ``time_segment``.

        Args:
            modality: This module's own, or its ``flow``.
            video: On whose first frames it is timed; None: on the first of a list that is read.
        """
        if modality.frames_needed == 1:  # nothing to compute, nor to read
            return 0.0
        if video is None:
            video = self.open_video(next(iter(self.parts.values()))[0].path)
        return time_segment(modality, opening(video, modality), self.crop)

    def train_dataloader(self) -> ClipLoader:
        """Return training clips: every video once per epoch."""
        clips = TrainClips(
            videos=self._source("train"),
            clip=self.sampler,
            crops=self.corner_crops,
            size=self.crop,
            seed=self.seed,
        )
        order = partial(_order, self.seed, len(self.parts["train"]))
        return self.clip_loader(clips, order, collate_recognition)

    def val_dataloader(self) -> ClipLoader:
        """Return this rank's validation videos, cropped at the centre."""
        return self._whole_videos("val", 1)

    def test_dataloader(self) -> ClipLoader:
        """Return this rank's videos of the official test list, with ``crops`` crops."""
        return self._whole_videos("test", self.crops)

    def _source(self, part: str) -> ActionVideos:
        return ActionVideos(self.parts[part], self.modality, self.open_video)

    def _whole(self, videos: ActionVideos, crops: int) -> TestClips:
        return TestClips(videos, self.sampler, self.resize, self.crop, crops, self.seed)

    def _whole_videos(self, part: str, crops: int) -> ClipLoader:
        rank, ranks = self.ranks
        videos = self._source(part)
        return self.loader(
            self._whole(videos, crops),
            batch_size=self.test_batch_size,
            sampler=assign_snippets([1] * len(videos.videos), ranks)[rank],
            collate_fn=collate_crops,
        )

    def loader(self, dataset: Dataset[Any], **options: Any) -> ActionLoader:
        return ActionLoader(dataset, modality=self.modality, **self._loading(), **options)

    def prepare(self, pictures: NDArray[np.uint8], indices: Sequence[int], name: str) -> Any:
        """Turn pictures of one video into a batch of one clip, exactly as in testing.

        Args:
            pictures: (N, H, W, P), those that ``modality.plan(indices, ...)`` names.
            indices: T frame numbers at which the segments begin.
            name: Of the video.

        Returns:
            A RecognitionBatch with B = 1 (one centre crop), T steps and action -1; its frames are
            uint8 until ``transfer_batch_to_device`` has moved and finished them.
        """
        stacked, scale = self._whole(self._no_videos, 1).prepare(pictures)
        clips = [RecognitionClip(s, scale, list(indices), 0, name, -1) for s in stacked]
        batch: RecognitionBatch = collate_recognition(clips)
        return batch

    @property
    def _no_videos(self) -> ActionVideos:
        return ActionVideos((), self.modality, self.open_video)

    def open(self, path: str | Path) -> VideoSource:
        """Open any video or folder of frames; of raw frames, without the flow that lies there."""
        path = Path(path)
        return RawFrames(path) if (path / f"{RAW_FRAME}00001.jpg").is_file() else super().open(path)

    def stream(self, source: VideoSource, name: str, chunk: int) -> Iterator[StreamChunk]:
        """Yield a video of any kind in chunks; step t is the segment that begins at frame t."""
        if chunk < 1:
            raise ValueError(f"chunk={chunk}: expected 1 or more frames")
        for start in range(0, len(source), chunk):
            indices = list(range(start, min(start + chunk, len(source))))
            pictures = read_pictures(self.modality, name, Path(name), source, indices)
            batch = self.prepare(pictures, indices, name)
            batch["starts"] = torch.tensor([start == 0])
            single = self.modality.frames_needed == 1  # then these are the pictures themselves
            yield StreamChunk(batch, pictures if single else source.read(indices))

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Move a batch, and finish frames that come from the loader of a GPU."""
        unfinished = batch["frames"].dtype == torch.uint8
        moved = super().transfer_batch_to_device(batch, device, dataloader_idx)
        if unfinished:
            moved["frames"] = self.modality.finish(moved["frames"])
        return moved


def _order(seed: int, videos: int, epoch: int) -> NDArray[np.int64]:
    return mixed_order(seed, epoch, videos)
