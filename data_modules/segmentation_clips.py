"""Clips with label maps, drawn for training or in order, from any videos with labelled frames."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from data_modules.augment import Augment
from data_modules.resize import Frames, Resize
from data_modules.sampling import draws
from data_modules.video_data import Clip, StreamKey, collate
from flowfeat.batches import ClipSampler, SegmentationBatch

LabelMap = NDArray[np.uint8]
"""(H, W), 0 .. number of classes - 1, or 255: ignored."""

_NO_BOXES = np.zeros((0, 4), np.float32)


class LabelledVideos(ABC):
    """Numbered videos of which some frames have a label map."""

    @abstractmethod
    def name(self, video: int) -> str:
        """Return the name that batches carry."""

    @abstractmethod
    def length(self, video: int) -> int:
        """Return the number of frames."""

    @abstractmethod
    def read(self, video: int, indices: Sequence[int]) -> Frames:
        """Return frames (T, H, W, 3) in the order asked for."""

    @abstractmethod
    def labelled(self, video: int) -> Sequence[int]:
        """Return the frames that have a label map, ascending."""

    @abstractmethod
    def label_map(self, video: int, frame: int, size: tuple[int, int]) -> LabelMap:
        """Return the label map of a labelled frame of ``size`` (height, width)."""


class Sample(NamedTuple):
    """A labelled frame for training."""

    video: int
    frame: int


@dataclass
class SegmentationClip(Clip):
    """A clip with the label maps of its target steps."""

    label_maps: list[LabelMap]  # S


def collate_segmentation(clips: Sequence[SegmentationClip]) -> SegmentationBatch:
    """Stack clips; label maps run over the targets of one clip, then over the clips."""
    label_maps = [torch.from_numpy(found) for clip in clips for found in clip.label_maps]
    return SegmentationBatch(**collate(clips), label_maps=label_maps)


@dataclass
class TrainClips(Dataset[SegmentationClip]):
    """Takes (epoch, sample id); label maps are resized and cut as the frames are."""

    videos: LabelledVideos
    samples: Sequence[Sample]
    clip: ClipSampler
    resize: Resize
    augment: Augment
    seed: int

    def __getitem__(self, key: tuple[int, int]) -> SegmentationClip:
        epoch, number = key
        video, labelled = self.samples[number]
        chance = draws(self.seed, epoch, number)
        indices, targets = self.clip(self.videos.length(video), labelled, chance.clip)
        wrong = {indices[target] for target in targets}.difference(self.videos.labelled(video))
        if wrong:
            raise ValueError(
                f"clip: frame {min(wrong)} of {self.videos.name(video)} is a target without a "
                "label map: expected a sampler whose targets are labelled frames (pair, single)"
            )
        frames = self.videos.read(video, indices)
        size = (frames.shape[1], frames.shape[2])
        maps = [self.videos.label_map(video, indices[target], size) for target in targets]
        frames, scale = self.resize(frames)
        resized = (frames.shape[1], frames.shape[2])
        masks = np.stack([nearest(labels, resized) for labels in maps])
        drawn = self.augment(frames, _NO_BOXES, chance.augment, masks)
        name = self.videos.name(video)
        label_maps = list(drawn.masks)
        return SegmentationClip(
            drawn.frames, scale, indices, targets, chance.seed, name, label_maps
        )


@dataclass
class VideoStreams(Dataset[SegmentationClip]):
    """Takes (video, first frame, end): a chunk; its targets are its labelled frames, if any.

    The label maps keep their own resolution: that is where predictions are scored.
    """

    videos: LabelledVideos
    resize: Resize
    seed: int

    def __getitem__(self, key: StreamKey) -> SegmentationClip:
        video, start, stop = key
        indices = list(range(start, stop))
        frames = self.videos.read(video, indices)
        size = (frames.shape[1], frames.shape[2])
        labelled = [frame for frame in self.videos.labelled(video) if start <= frame < stop]
        maps = [self.videos.label_map(video, frame, size) for frame in labelled]
        frames, scale = self.resize(frames)
        targets = [frame - start for frame in labelled]
        seed = draws(self.seed, 0, video).seed
        return SegmentationClip(
            frames, scale, indices, targets, seed, self.videos.name(video), maps
        )


def nearest(labels: LabelMap, size: tuple[int, int]) -> LabelMap:
    """Resize a label map to (height, width) without making up labels, aligned as frames are."""
    if labels.shape == size:
        return labels
    resized = cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(resized, np.uint8)
