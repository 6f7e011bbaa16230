"""What data modules deliver: batches, streams and video sources, with shapes and units.

Batch keys (the data modules make them, the tasks read them):

===========  =====================  ==========================================================
key          shape, type            meaning
===========  =====================  ==========================================================
frames       (B, T, 3, H, W) f32    RGB in [0, 1], padded right and bottom with 0; other
                                    modalities of recognition have C channels instead of 3
sizes        (B, 2) i64             height, width of the picture inside the padding
scales       (B, 2) f32             (sx, sy): network pixels per pixel of the original picture
indices      (B, T) i64             frame numbers inside their snippet
targets      (B, S) i64             the labelled steps of each clip, values 0 .. T - 1
starts       (B,) bool              step 0 is the first frame of its video (streams)
seeds        (B,) i64               seed of every later draw for this sample
snippets     B strings              names of the snippets
boxes        B * S of (N, 4) f32    detection: xyxy, half-open, network pixels
labels       B * S of (N,) i64      detection: 0 .. num_classes - 1, no background
tracks       B * S of (N,) i64      detection: track ids, -1 where unknown
label_maps   B * S of (H, W) u8     segmentation: 0 .. num_classes - 1, 255 is ignored; at network
                                    resolution in training, at the label's own in evaluation
actions      (B,) i64               recognition: the class of each clip
repeats      (B, T) bool            recognition: the step repeats the last frame of a clip that was
                                    too short, and counts for nothing
clean        B * S of (3, H, W) f32 restoration: the frame as it was, RGB in [0, 1]
===========  =====================  ==========================================================

Entry ``b * S + s`` of a per-target list belongs to target ``s`` of clip ``b``. Flow is ``(dx, dy)``
in pixels of its own grid, from the current frame to the key frame.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypedDict, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class VideoBatch(TypedDict):
    """What every data module delivers; see the table above."""

    frames: Tensor  # (B, T, 3, H, W)
    sizes: Tensor  # (B, 2)
    scales: Tensor  # (B, 2)
    indices: Tensor  # (B, T)
    targets: Tensor  # (B, S)
    starts: Tensor  # (B,)
    seeds: Tensor  # (B,)
    snippets: list[str]


class DetectionBatch(VideoBatch):
    """A batch with boxes for every target step."""

    boxes: list[Tensor]  # B * S of (N, 4)
    labels: list[Tensor]  # B * S of (N,)
    tracks: list[Tensor]  # B * S of (N,)


class SegmentationBatch(VideoBatch):
    """A batch with a label map for every target step; streams may have steps without a label."""

    label_maps: list[Tensor]  # B * S of (H, W) u8


class RecognitionBatch(VideoBatch):
    """A batch of clips with one action each; every step is a target."""

    actions: Tensor  # (B,)
    repeats: Tensor  # (B, T)


class RestorationBatch(VideoBatch):
    """Degraded frames with the clean picture of every target step."""

    clean: list[Tensor]  # B * S of (3, H, W)


class ClipSampler(Protocol):
    """Chooses the frames of a training clip around a labelled frame."""

    def __call__(
        self, length: int, labelled: int, rng: np.random.Generator
    ) -> tuple[list[int], list[int]]:
        """Return T frame indices, each 0 .. length - 1, and the target steps among them."""


@runtime_checkable
class VideoSource(Protocol):
    """Frame-exact random access to one video file or folder of frames."""

    fps: float
    size: tuple[int, int]  # height, width, after rotation

    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Return frames (T, H, W, 3) RGB uint8; IndexError outside 0 .. len - 1."""


class StreamChunk(NamedTuple):
    """Consecutive frames of one video, ready for the network, with the pictures they came from."""

    batch: VideoBatch  # B = 1, T frames; starts says whether step 0 opens the video
    pictures: NDArray[np.uint8]  # (T, H0, W0, 3) RGB, as decoded


@runtime_checkable
class MeasuredData(Protocol):
    """A data module that knows figures of its training set which predicting needs."""

    def measured(self) -> dict[str, float | None]:
        """Return what checkpoints keep, by name, after ``setup("fit")``; None: it has none."""


class SegmentCost(Protocol):
    """What a segment of an action clip is made of: RGB, differences, flow."""

    @property
    def channels(self) -> int:
        """Of the network's input."""


@runtime_checkable
class SegmentData(Protocol):
    """A data module of recognition, whose input may have to be computed from frames."""

    modality: SegmentCost  # of its segments
    flow: SegmentCost  # flow as it would compute it

    def segment_seconds(self, modality: Any, video: "VideoSource | None" = None) -> float:
        """Return what a segment of a modality costs beyond decoding and resizing."""


class VideoData(Protocol):
    """What entry points need of a data module beside Lightning's own hooks."""

    classes: tuple[str, ...]

    def stream(self, source: VideoSource, name: str, chunk: int) -> Iterator[StreamChunk]:
        """Yield a whole video in order, ``chunk`` frames at a time, as evaluation prepares them.

        Frames are uint8, a quarter of the bytes, until ``transfer_batch_to_device`` moves them.
        """
