"""What a segment of an action clip shows the network: a picture, differences of pictures, or flow.

=========  ========  ======================================================  ==================
modality   channels  values after ``finish``                                 normalise with
=========  ========  ======================================================  ==================
rgb        3         RGB in 0..1                                             the backbone's own
rgb_diff   15        5 differences next - this of 6 frames in 0..1: -1..1    mean 0
flow       10        x0 y0 x1 y1 ...: 0..1, 0.5 is rest, 0 and 1 are -20     mean 0.5
                     and 20 pixels of the stored flow from a frame to the
                     next one
=========  ========  ======================================================  ==================
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_modules.flow_cache import DIRECTIONS, FlowCache, FlowFolder, check_count
from data_modules.flow_methods import FlowMethod, flow_method, flows
from data_modules.resize import Frames
from flowfeat.batches import VideoSource

MODALITIES = ("rgb", "rgb_diff", "flow")

Pictures = NDArray[np.uint8]
"""(N, H, W, P): 3 channels of RGB, or 2 of flow (x, y)."""


class Modality(Protocol):
    """How the pictures of a segment are found, stacked and handed to the network.

    A clip of T segments is made in this order: ``open`` the video, read what ``plan`` says, change
    all pictures by one spatial draw (resize, crop, flip), ``stack`` them; they travel as uint8.
    ``finish`` runs on batches that are float already, on any device.
    """

    @property
    def channels(self) -> int:
        """Channels of the network's input."""

    @property
    def new_length(self) -> int:
        """Differences or flows in a segment; 1 for RGB."""

    @property
    def frames_needed(self) -> int:
        """Consecutive frames of the video that a segment spans."""

    def open(self, name: str, path: Path, video: VideoSource) -> VideoSource:
        """Return what the pictures are read from.

        Args:
            name: Of the video, ``Class/video`` without an ending.
            path: Its file, or its folder of raw frames.
            video: Its frames.

        Raises:
            FileNotFoundError: Pictures that should be there are not.
            ValueError: They do not belong to this video.
        """

    def plan(self, starts: Sequence[int], length: int) -> list[int]:
        """Return the pictures of segments beginning at ``starts``, each 0 .. length - 1, in order.

        Args:
            starts: T frame numbers.
            length: Of what ``open`` returned. Where a segment reaches beyond, the last picture is
                repeated.
        """

    def stack(self, pictures: Pictures, flipped: bool = False) -> Frames:
        """Return the segments (T, H, W, S) of the pictures that ``plan`` named.

        Args:
            pictures: As they came out of the spatial augmentation.
            flipped: Whether that mirrored them left and right.
        """

    def compute(self, frames: Pictures, size: int) -> object:
        """Do for one segment what the modality costs beyond decoding, for whoever times it.

        Args:
            frames: (``frames_needed``, H, W, 3) RGB, as decoded.
            size: Side of what the network sees.
        """

    def finish(self, frames: Tensor) -> Tensor:
        """Turn stacked pictures (..., S, H, W) in 0..1 into the input (..., channels, H, W)."""


def _segments(starts: Sequence[int], length: int, each: int) -> list[int]:
    return [min(start + offset, length - 1) for start in starts for offset in range(each)]


def _merge(pictures: Pictures, each: int) -> Pictures:
    """Put ``each`` pictures after one another along the channels: (T, H, W, each * P)."""
    count, height, width, planes = pictures.shape
    if count % each:
        raise ValueError(f"{count} pictures: expected {each} for every segment")
    parted = pictures.reshape(count // each, each, height, width, planes)
    return np.ascontiguousarray(parted.transpose(0, 2, 3, 1, 4)).reshape(
        count // each, height, width, each * planes
    )


@dataclass(frozen=True)
class Rgb:
    """The frames themselves."""

    channels = 3
    new_length = 1
    frames_needed = 1

    def open(self, name: str, path: Path, video: VideoSource) -> VideoSource:
        return video

    def plan(self, starts: Sequence[int], length: int) -> list[int]:
        return _segments(starts, length, 1)

    def stack(self, pictures: Pictures, flipped: bool = False) -> Frames:
        return pictures

    def compute(self, frames: Pictures, size: int) -> object:
        return frames

    def finish(self, frames: Tensor) -> Tensor:
        return frames


@dataclass(frozen=True)
class RgbDiff:
    """Differences of consecutive frames, next - this, as in TSN: 5 of 6 frames by default.

    Raises:
        ValueError: ``new_length`` below 1.
    """

    new_length: int = 5

    def __post_init__(self) -> None:
        _check_length(self.new_length)

    @property
    def channels(self) -> int:
        return 3 * self.new_length

    @property
    def frames_needed(self) -> int:
        return self.new_length + 1

    def open(self, name: str, path: Path, video: VideoSource) -> VideoSource:
        return video

    def plan(self, starts: Sequence[int], length: int) -> list[int]:
        return _segments(starts, length, self.frames_needed)

    def stack(self, pictures: Pictures, flipped: bool = False) -> Frames:
        return _merge(pictures, self.frames_needed)

    def compute(self, frames: Pictures, size: int) -> object:
        stacked = torch.from_numpy(self.stack(frames[:, :size, :size])).permute(0, 3, 1, 2)
        return self.finish(stacked.float())

    def finish(self, frames: Tensor) -> Tensor:
        # Subtracted here, and not in the loader: differences do not fit into uint8.
        return frames[..., 3:, :, :] - frames[..., :-3, :, :]


@dataclass(frozen=True)
class StackedFlow:
    """Flow of consecutive frames, x and y interleaved: 5 flows by default.

    It is looked for next to the raw frames, then in ``root``, then computed into ``cache``.

    Args:
        new_length: Flows in a segment.
        root: A tree ``Class/video/{flow_x,flow_y}_00001.jpg`` of precomputed flow.
        cache: Where flow is kept that is not there.
        method: What computes it.

    Raises:
        ValueError: ``new_length`` below 1.
        FileNotFoundError: No such ``root``.
    """

    new_length: int = 5
    root: Path | None = None
    cache: FlowCache | None = None
    method: FlowMethod = "dis"

    def __post_init__(self) -> None:
        _check_length(self.new_length)
        if self.root is not None and not self.root.is_dir():
            raise FileNotFoundError(f"data.flow_root={self.root}: no such folder")

    @property
    def channels(self) -> int:
        return 2 * self.new_length

    @property
    def frames_needed(self) -> int:
        return self.new_length + 1

    def open(self, name: str, path: Path, video: VideoSource) -> VideoSource:
        # Joined as text: names may hold dots, which Path.with_suffix would cut off.
        places = [path] if self.root is None else [path, self.root / name]
        for folder in places:
            if FlowFolder.lies_in(folder):
                return check_count(FlowFolder(folder, video.fps), len(video), path)
        if self.cache is None:
            raise FileNotFoundError(
                f"{path}: no precomputed flow, expected {DIRECTIONS[0]}_00001.jpg ... in "
                f"{' or '.join(map(str, places))} (data.flow_cache=<folder> computes it)"
            )
        return self.cache.open(name, path, video)

    def plan(self, starts: Sequence[int], length: int) -> list[int]:
        return _segments(starts, length, self.new_length)

    def stack(self, pictures: Pictures, flipped: bool = False) -> Frames:
        if flipped:
            pictures = pictures.copy()
            pictures[..., 0] = 255 - pictures[..., 0]  # what went right goes left in a mirror
        return _merge(pictures, self.new_length)

    def compute(self, frames: Pictures, size: int) -> object:
        return list(flows(frames, self.method, "medium"))

    def finish(self, frames: Tensor) -> Tensor:
        return frames


def _check_length(new_length: int) -> None:
    if new_length < 1:
        raise ValueError(f"data.new_length={new_length}: expected 1 or more")


def choose_modality(
    name: str,
    new_length: int | None = None,
    flow_root: str | Path | None = None,
    flow_cache: str | Path | None = None,
    method: str = "dis",
) -> Modality:
    """Build a modality from a config's values.

    Args:
        name: One of ``MODALITIES``.
        new_length: None for the modality's own: 1, or 5.
        flow_root: Of :class:`StackedFlow`.
        flow_cache: Folder of the :class:`FlowCache`; None computes no flow. Flow of another method
            than DIS lies beside it, in ``<flow_cache>_<method>``.
        method: What computes flow, ``dis`` or ``tvl1``.

    Raises:
        ValueError: An unknown name, or a length that the modality cannot have.
        FileNotFoundError: No such ``flow_root``.
    """
    if name not in MODALITIES:
        raise ValueError(f"data.modality={name!r}: expected one of {', '.join(MODALITIES)}")
    if name == "rgb":
        if new_length not in (None, 1):
            raise ValueError(f"data.new_length={new_length}: expected 1 for modality rgb")
        return Rgb()
    computed_by = flow_method(method)
    length = 5 if new_length is None else new_length
    if name == "rgb_diff":
        return RgbDiff(length)
    root = None if flow_root is None else Path(flow_root).expanduser()
    cache = None
    if flow_cache is not None:
        folder = Path(flow_cache).expanduser()
        if computed_by != "dis":
            folder = folder.with_name(f"{folder.name}_{computed_by}")
        cache = FlowCache(folder, method=computed_by)
    return StackedFlow(length, root, cache, computed_by)
