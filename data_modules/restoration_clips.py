"""Degraded clips with the clean frames of their targets, drawn for training or in order."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from data_modules.augment import Augment
from data_modules.clean_clips import CleanClip, CleanFrames, read_degraded
from data_modules.resize import Frames
from data_modules.sampling import draws
from data_modules.video_data import Clip, StreamKey, collate, to_float
from flowfeat.batches import ClipSampler, RestorationBatch

_NO_BOXES = np.zeros((0, 4), np.float32)


class Window(NamedTuple):
    """A frame to be restored, in its clip."""

    clip: CleanClip
    length: int  # frames of the clip
    target: int

    def around(self, context: int) -> range:
        """Return the frames up to ``context`` frames away, as far as the clip goes."""
        first, last = self.target - context, self.target + context
        return range(max(first, 0), min(last, self.length - 1) + 1)


@dataclass
class RestorationClip(Clip):
    """A clip of degraded frames with the clean ones of its target steps."""

    clean: Frames  # (S, H, W, 3)


def collate_restoration(clips: Sequence[RestorationClip]) -> RestorationBatch:
    """Stack clips; clean frames run over the targets of one clip, then over the clips."""
    clean = [
        to_float(torch.from_numpy(frame).permute(2, 0, 1).contiguous())
        for clip in clips
        for frame in clip.clean
    ]
    return RestorationBatch(**collate(clips), clean=clean)


class Pairs:
    """Reads degraded frames and their clean ones.

    Args:
        tree: The degraded frames.
        reader: Of ``open_video``.
        command: Makes the degraded frames.
    """

    def __init__(self, tree: Path, reader: str, command: str) -> None:
        self.tree, self.command = tree, command
        self.source = CleanFrames(reader)

    def read(
        self, clip: CleanClip, indices: Sequence[int], targets: Sequence[int]
    ) -> tuple[Frames, Frames]:
        """Return the degraded frames (T, H, W, 3) and the clean ones of the targets (S, H, W, 3).

        Raises:
            FileNotFoundError, ValueError: A frame is missing, cannot be read, or has another size.
        """
        try:
            frames = read_degraded(self.tree, clip, indices)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}: {self.command} makes that clip anew") from error
        if not targets:
            return frames, np.zeros((0, *frames.shape[1:]), np.uint8)
        clean = self.source.read(clip, [indices[target] for target in targets])
        if clean.shape[1:] != frames.shape[1:]:
            raise ValueError(
                f"{self.tree / clip.name}: degraded frames of {frames.shape[1:3]} pixels (height, "
                f"width): expected {clean.shape[1:3]}, as in {clip.path}"
            )
        return frames, clean


@dataclass
class TrainClips(Dataset[RestorationClip]):
    """Takes (epoch, sample id); degraded and clean frames are cut and mirrored alike."""

    pairs: Pairs
    windows: Sequence[Window]
    clip: ClipSampler
    augment: Augment
    seed: int

    def __getitem__(self, key: tuple[int, int]) -> RestorationClip:
        epoch, number = key
        window = self.windows[number]
        chance = draws(self.seed, epoch, number)
        indices, targets = self.clip(window.length, window.target, chance.clip)
        frames, clean = self.pairs.read(window.clip, indices, targets)
        both = self.augment(np.concatenate([frames, clean]), _NO_BOXES, chance.augment).frames
        frames, clean = both[: len(indices)], both[len(indices) :]
        name = window.clip.name
        return RestorationClip(frames, (1.0, 1.0), indices, targets, chance.seed, name, clean)


@dataclass
class WindowStreams(Dataset[RestorationClip]):
    """Takes (window, first frame, end), counted from the window's own first: a part of a stream.

    A window is a video of its own, of which one frame is scored.
    """

    pairs: Pairs
    windows: Sequence[Window]
    context: int
    seed: int

    def __getitem__(self, key: StreamKey) -> RestorationClip:
        number, start, stop = key
        window = self.windows[number]
        frames = window.around(self.context)[start:stop]
        targets = [step for step, frame in enumerate(frames) if frame == window.target]
        degraded, clean = self.pairs.read(window.clip, frames, targets)
        seed = draws(self.seed, 0, number).seed
        name = f"{window.clip.name}:{window.target}"
        indices = list(range(start, stop))
        return RestorationClip(degraded, (1.0, 1.0), indices, targets, seed, name, clean)
