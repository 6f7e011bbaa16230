"""Clips of whole videos with one action each, as training and testing see them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from data_modules.action_augment import CornerCrops, cut, evaluation_crops
from data_modules.action_layout import ActionVideo, RawFrames
from data_modules.action_sampling import ActionSampler, positions, repeats
from data_modules.modalities import Modality
from data_modules.resize import Resize
from data_modules.sampling import draws
from data_modules.video import open_video
from data_modules.video_data import OpenVideo, read_clip
from flowfeat.batches import RecognitionBatch, VideoSource


@dataclass
class RecognitionClip:
    """One sample before it is stacked."""

    frames: NDArray[np.uint8]  # (T, H, W, S), stacked by the modality
    scale: tuple[float, float]  # sx, sy
    indices: list[int]  # T
    seed: int
    snippet: str
    action: int


def collate_recognition(clips: Sequence[RecognitionClip]) -> RecognitionBatch:
    """Stack clips of one size; every clip is a stream of its own, and every step a target.

    The frames (B, T, S, H, W) are uint8, until ``ActionLoader`` hands them out.
    """
    stacked = np.stack([clip.frames.transpose(0, 3, 1, 2) for clip in clips])
    steps = list(range(len(clips[0].indices)))
    return RecognitionBatch(
        frames=torch.from_numpy(stacked),
        sizes=torch.tensor([clip.frames.shape[1:3] for clip in clips], dtype=torch.int64),
        scales=torch.tensor([clip.scale for clip in clips], dtype=torch.float32),
        indices=torch.tensor([clip.indices for clip in clips], dtype=torch.int64),
        targets=torch.tensor([steps] * len(clips), dtype=torch.int64),
        starts=torch.ones(len(clips), dtype=torch.bool),
        seeds=torch.tensor([clip.seed for clip in clips], dtype=torch.int64),
        snippets=[clip.snippet for clip in clips],
        actions=torch.tensor([clip.action for clip in clips], dtype=torch.int64),
        repeats=torch.tensor([repeats(clip.indices) for clip in clips]),
    )


def collate_crops(videos: Sequence[Sequence[RecognitionClip]]) -> RecognitionBatch:
    """Stack all crops of some test videos; those of one video share its name and stand together."""
    return collate_recognition([clip for crops in videos for clip in crops])


def open_action(path: Path, reader: str = "auto") -> VideoSource:
    """Open a video file or a folder of raw frames, which may hold pictures of flow as well."""
    return RawFrames(path) if path.is_dir() else open_video(path, reader=reader)


class Segments(NamedTuple):
    """Pictures of the segments of a clip, before any change."""

    pictures: NDArray[np.uint8]  # (N, H, W, P), as ``Modality.plan`` orders them
    indices: list[int]  # T, where the segments begin


class ActionVideos:
    """The videos of a list, read as the segments of a modality; nothing decoded is kept.

    Args:
        videos: In the order of their numbers.
        modality: What the network sees.
        open_video: Opens a file or a folder of raw frames.
    """

    def __init__(
        self, videos: Sequence[ActionVideo], modality: Modality, open_video: OpenVideo
    ) -> None:
        self.videos = list(videos)
        self.modality = modality
        self.open_video = open_video

    def read(self, number: int, sample: Callable[[int], list[int]]) -> Segments:
        """Read the segments that ``sample`` chooses among a video's positions."""
        video = self.videos[number]
        # Opened anew: an epoch comes to a video once, and open readers hold memory.
        source = self.open_video(video.path)
        indices = sample(positions(len(source), self.modality.frames_needed))
        return Segments(
            read_pictures(self.modality, video.name, video.path, source, indices), indices
        )


def read_pictures(
    modality: Modality, name: str, path: Path, video: VideoSource, starts: Sequence[int]
) -> NDArray[np.uint8]:
    """Read what the segments beginning at ``starts`` need, (N, H, W, P)."""
    opened = modality.open(name, path, video)
    return read_clip(opened, modality.plan(starts, len(opened)))


@dataclass
class TrainClips(Dataset[RecognitionClip]):
    """Takes (epoch, sample id); one draw of frames and one crop for the whole clip."""

    videos: ActionVideos
    clip: ActionSampler
    crops: CornerCrops
    size: int
    seed: int

    def __getitem__(self, key: tuple[int, int]) -> RecognitionClip:
        epoch, number = key
        chance = draws(self.seed, epoch, number)
        pictures, indices = self.videos.read(
            number, lambda length: self.clip(length, 0, chance.clip)[0]
        )
        crop = self.crops.draw(pictures.shape[1], pictures.shape[2], chance.augment)
        ready = self.videos.modality.stack(cut(pictures, crop, self.size), crop.flipped)
        scale = (self.size / crop.width, self.size / crop.height)
        video = self.videos.videos[number]
        return RecognitionClip(ready, scale, indices, chance.seed, video.name, video.action)


@dataclass
class TestClips(Dataset[list[RecognitionClip]]):
    """Takes the number of a video and gives its crops, all of the same frames."""

    videos: ActionVideos
    clip: ActionSampler
    resize: Resize
    size: int
    count: int
    seed: int

    __test__ = False  # for pytest, which would take the name for a test

    def __getitem__(self, number: int) -> list[RecognitionClip]:
        pictures, indices = self.videos.read(number, self.clip.testing)
        video, seed = self.videos.videos[number], draws(self.seed, 0, number).seed
        frames, scale = self.prepare(pictures)
        return [
            RecognitionClip(stacked, scale, indices, seed, video.name, video.action)
            for stacked in frames
        ]

    def prepare(
        self, pictures: NDArray[np.uint8]
    ) -> tuple[list[NDArray[np.uint8]], tuple[float, float]]:
        """Resize pictures (N, H, W, P), and stack the segments (T, size, size, S) of every crop."""
        resized, scale = self.resize(pictures)
        crops = evaluation_crops(resized.shape[1], resized.shape[2], self.size, self.count)
        stack = self.videos.modality.stack
        return [stack(cut(resized, crop, self.size), crop.flipped) for crop in crops], scale


def opener(reader: str) -> OpenVideo:
    """Return ``open_action`` with a reader; picklable."""
    return partial(open_action, reader=reader)
