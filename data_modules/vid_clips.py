"""Clips of ImageNet VID and stills of DET with their boxes, drawn for training or in order."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from data_modules.augment import Augment
from data_modules.resize import Frames, Resize
from data_modules.sampling import draws
from data_modules.vid_annotations import (
    Annotations,
    ClassMap,
    Objects,
)
from data_modules.vid_layout import (
    Labelled,
    Snippet,
    VidLayout,
)
from data_modules.video import open_video
from data_modules.video_data import (
    Clip,
    OpenVideos,
    StreamKey,
    collate,
    read_clip,
)
from flowfeat.batches import ClipSampler, DetectionBatch, VideoSource


@dataclass
class DetectionClip(Clip):
    """A clip with the objects of its target steps, boxes in network pixels."""

    objects: list[Objects]  # S


def collate_detection(clips: Sequence[DetectionClip]) -> DetectionBatch:
    """Stack clips; per-target lists run over the targets of one clip, then over the clips."""
    objects = [found for clip in clips for found in clip.objects]
    return DetectionBatch(
        **collate(clips),
        boxes=[torch.from_numpy(found.boxes) for found in objects],
        labels=[torch.from_numpy(found.labels) for found in objects],
        tracks=[torch.from_numpy(found.tracks) for found in objects],
    )


def _open_snippet(place: Path, reader: str) -> VideoSource:
    """Open a folder or file; ValueError where a folder lacks frames, which would shift the rest."""
    source = open_video(place, reader=reader)
    if place.is_dir():
        last = max((path.name for path in place.glob("*.JPEG")), default="none")
        if last != f"{len(source) - 1:06d}.JPEG":
            raise ValueError(
                f"{place}: {len(source)} frames: expected 000000.JPEG .. "
                f"{len(source) - 1:06d}.JPEG without gaps, the last one is {last}"
            )
    return source


class Snippets:
    """Frames and objects of snippets, as they lie on disk."""

    def __init__(self, layout: VidLayout, classes: ClassMap, reader: str) -> None:
        self.layout = layout
        self.annotations = Annotations(classes)
        self.videos = OpenVideos(partial(_open_snippet, reader=reader))
        self._places: dict[str, Path] = {}

    def open(self, name: str) -> VideoSource:
        """Return a snippet's video."""
        place = self._places.get(name) or self.layout.snippet(name)
        if place is None:
            raise FileNotFoundError(f"{self.layout.root}: snippet {name} is no longer there")
        self._places[name] = place
        return self.videos(place)

    def read(self, name: str, indices: Sequence[int]) -> Frames:
        """Return frames (T, H, W, 3) in the order asked for."""
        source = self.open(name)
        if max(indices) >= len(source):
            raise ValueError(
                f"{self._places[name]}: frame {max(indices)} is listed: "
                f"expected 0 .. {len(source) - 1}"
            )
        return read_clip(source, indices)

    def objects(self, name: str, frame: int, size: tuple[int, int]) -> Objects:
        """Return the objects of a frame with ``size`` (height, width), in pixels of that frame."""
        return self.annotations.read(self.layout.annotation(name, frame), size)


@dataclass
class TrainClips(Dataset[DetectionClip]):
    """Takes (epoch, sample id): labelled frames come first, then the stills."""

    snippets: Snippets
    labelled: list[Labelled]
    stills: list[str]
    clip: ClipSampler
    resize: Resize
    augment: Augment
    seed: int

    def __post_init__(self) -> None:
        self._still_annotations = Annotations(self.snippets.annotations.classes, skip_unknown=True)

    def __getitem__(self, key: tuple[int, int]) -> DetectionClip:
        epoch, sample = key
        chance = draws(self.seed, epoch, sample)
        if sample < len(self.labelled):
            name, frame = self.labelled[sample]
            length = len(self.snippets.open(name))
            if frame >= length:
                self.snippets.read(name, [frame])  # says what is wrong
            indices, targets = self.clip(length, frame, chance.clip)
            frames = self.snippets.read(name, indices)
            objects = [
                self.snippets.objects(name, indices[target], _size(frames)) for target in targets
            ]
        else:
            # A still is a video of one frame: every sampler then repeats it, so i = k for a pair.
            name = self.stills[sample - len(self.labelled)]
            indices, targets = self.clip(1, 0, chance.clip)
            picture = _read_still(self.snippets.layout.still(name))
            frames = np.repeat(picture[None], len(indices), 0)
            path = self.snippets.layout.still_annotation(name)
            found = self._still_annotations.read(path, _size(frames), strict=False)
            objects = [found] * len(targets)
        frames, scale = self.resize(frames)
        objects = [_scaled(found, scale) for found in objects]
        frames, objects = _augmented(self.augment, frames, objects, chance.augment)
        return DetectionClip(frames, scale, indices, targets, chance.seed, name, objects)


@dataclass
class SnippetStreams(Dataset[DetectionClip]):
    """Takes (snippet number, first frame, end): a chunk of a whole snippet, every step a target."""

    snippets: Snippets
    whole: list[Snippet]
    resize: Resize
    seed: int

    def __getitem__(self, key: StreamKey) -> DetectionClip:
        number, start, stop = key
        name, indices = self.whole[number].name, list(range(start, stop))
        frames = self.snippets.read(name, indices)
        objects = [self.snippets.objects(name, frame, _size(frames)) for frame in indices]
        frames, scale = self.resize(frames)
        objects = [_scaled(found, scale) for found in objects]
        seed = draws(self.seed, 0, number).seed
        return DetectionClip(frames, scale, indices, list(range(len(indices))), seed, name, objects)


def _size(frames: Frames) -> tuple[int, int]:
    return frames.shape[1], frames.shape[2]


def _read_still(path: Path) -> Frames:
    # The boxes were drawn on the stored pixels: the reference ignores the orientation flag as well.
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if picture is None:
        raise ValueError(f"{path}: expected a JPEG picture")
    return np.ascontiguousarray(picture[..., ::-1], np.uint8)


def _scaled(objects: Objects, scale: tuple[float, float]) -> Objects:
    return objects._replace(boxes=objects.boxes * np.array([*scale, *scale], np.float32))


def _augmented(
    augment: Augment, frames: Frames, objects: list[Objects], seed: int
) -> tuple[Frames, list[Objects]]:
    """Draw once for all frames and the boxes of all targets."""
    owner = np.repeat(np.arange(len(objects)), [len(found.boxes) for found in objects])
    drawn = augment(frames, np.concatenate([found.boxes for found in objects]), seed)
    labels = np.concatenate([found.labels for found in objects])[drawn.kept]
    tracks = np.concatenate([found.tracks for found in objects])[drawn.kept]
    rows = [owner[drawn.kept] == target for target in range(len(objects))]
    return drawn.frames, [Objects(drawn.boxes[r], labels[r], tracks[r]) for r in rows]
