"""Windows of a video of any length, in seconds, and their segments as testing prepares them.

Seconds, so that the interval between segments means the same at every frame rate.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from flowfeat import cli
from flowfeat.batches import RecognitionBatch, VideoSource
from flowfeat.prediction import Picture

TICKS = 1000  # per second: the clock in which a sampler chooses the segments of a window
AT_ONCE = 4  # segments whose pictures are in memory in their own size
CHUNK = 8  # frames shown at a time
PACE = 1.5  # OFF learns the motion of one interval (section 4.2.3): by so much it may differ


class SegmentSampler(Protocol):
    """Chooses the segments that are tested."""

    def testing(self, length: int) -> list[int]:
        """Return beta positions, ascending, each 0 .. length - 1."""


class SegmentModality(Protocol):
    """What a segment is made of."""

    @property
    def frames_needed(self) -> int:
        """Consecutive frames that a segment spans."""

    def open(self, name: str, path: Path, video: VideoSource) -> VideoSource:
        """Return what the pictures are read from."""

    def plan(self, starts: Sequence[int], length: int) -> list[int]:
        """Return the pictures of segments beginning at ``starts``."""


class ActionVideoData(Protocol):
    """What recognising actions in a video needs of a data module."""

    sampler: SegmentSampler
    modality: SegmentModality

    def open(self, path: Path) -> VideoSource:
        """Open a video file or a folder of frames."""

    def prepare(self, pictures: Picture, indices: Sequence[int], name: str) -> Any:
        """Turn pictures (N, H, W, P) into a RecognitionBatch with B = 1, as in testing."""

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Lightning's hook."""


class Window(NamedTuple):
    """A part of a video, in seconds."""

    number: int
    start: float
    end: float
    shown: tuple[float, float]  # when a viewer sees its classes: no other window's centre is nearer


def sliding_windows(seconds: float, window: float, stride: float, least: float) -> list[Window]:
    """Cut a video into windows; the last one ends with it and may be shorter.

    Args:
        seconds: Length of the video, above 0.
        window: Length of a window, above 0.
        stride: From the start of a window to that of the next one, above 0. Above ``window``, the
            time between two windows is not looked at.
        least: A rest of fewer seconds is not worth another window.
    """
    lead = max(window - stride, 0.0) / 2  # half of what two windows share
    found: list[Window] = []
    start = 0.0
    while not found or start < seconds - least:
        last = start + window >= seconds - least
        end = seconds if last else start + window
        begin = start + lead if found else 0.0
        shown = (begin, end if last else min(start + stride + lead, end))
        found.append(Window(len(found), start, end, shown))
        if last:
            break
        start = len(found) * stride
    return found


def segment_frames(
    window: Window, times: Sequence[float], fps: float, length: int, spanned: int
) -> list[int]:
    """Return the frames at which a window's segments begin: the one seen at each time, ascending.

    Where the video ends before, or has fewer frames than that, the last of them is repeated, as in
    clips that are shorter than beta: no two are nearer than the others.

    Args:
        window: The window; only the video's own end cuts a segment off.
        times: Of the segments, in seconds from the window's start.
        fps: Frames per second of the video, its average rate.
        length: Frames of the video.
        spanned: Frames that a segment spans.
    """
    last = max(0, length - spanned)
    # A frame is seen until the next one; a rounding error must not bring back the one before.
    seen = {math.floor((window.start + time) * fps + 1e-6) for time in times}
    found = sorted(frame for frame in seen if frame <= last) or [last]
    return found + [found[-1]] * (len(times) - len(found))


def window_of(step: float, sampler: SegmentSampler) -> float:
    """Return the seconds of a window whose segments begin ``step`` seconds apart."""
    return len(sampler.testing(1)) * max(1, round(step * TICKS)) / TICKS


def off_pace(found: float | None, trained: float, window: float) -> str | None:
    """Say that segments lie further apart than in training, or nearer, by more than ``PACE``.

    Args:
        found: Seconds between the segments of a window; None where it has one alone.
        trained: Seconds between those of training clips.
        window: Seconds of the window that would keep them.
    """
    if found is None or trained / PACE <= found <= trained * PACE:
        return None
    return (
        f"segments begin {found:.3f} s apart, in training {trained:.3f} s: motion between them is "
        f"another than what was learnt; window={window:.3g} keeps the training's step"
    )


class ActionWindows:
    """The windows of one video, and its frames in order for those who watch; nothing is kept.

    Args:
        path: A video file, or a folder of frames.
        data: Prepares segments as in testing.
        window: Seconds.
        stride: Seconds.
        device: Where the network is.

    Raises:
        FileNotFoundError, ValueError: The video cannot be opened, or has no flow.
    """

    def __init__(
        self, path: Path, data: ActionVideoData, window: float, stride: float, device: torch.device
    ) -> None:
        self.path = path
        self.name = path.name if path.is_dir() else path.stem
        self.source = data.open(path)
        # Of its own, so that neither reader throws the other back: both mostly go on.
        self._pictures = data.modality.open(self.name, path, data.open(path))
        self.shown = 0  # frames
        self._data, self._device = data, device
        length, fps = len(self.source), self.source.fps
        self.windows = sliding_windows(length / fps, window, stride, 0.5 / fps)
        ticks = data.sampler.testing(max(1, round(window * TICKS)))
        self._times = [tick / TICKS for tick in ticks]

    def segments(self, window: Window) -> list[int]:
        """Return the frames at which the beta segments of a window begin."""
        fps, spanned = self.source.fps, self._data.modality.frames_needed
        return segment_frames(window, self._times, fps, len(self.source), spanned)

    @property
    def step(self) -> float | None:
        """Mean seconds between segments of the first window; None where it has one alone."""
        frames = sorted(set(self.segments(self.windows[0])))
        if len(frames) < 2:
            return None
        return (frames[-1] - frames[0]) / (len(frames) - 1) / self.source.fps

    def batch(self, starts: Sequence[int]) -> RecognitionBatch:
        """Read the segments of a window as one clip, on the device."""
        batches = []
        for first in range(0, len(starts), AT_ONCE):  # full size costs more than the network's
            some = list(starts[first : first + AT_ONCE])
            with self._reading():
                wanted = self._data.modality.plan(some, len(self._pictures))
                pictures = self._pictures.read(wanted)
            batches.append(self._data.prepare(pictures, some, self.name))
        batch: RecognitionBatch = batches[0]
        batch["frames"] = torch.cat([part["frames"] for part in batches], dim=1)
        batch["indices"] = torch.tensor([list(starts)])
        batch["targets"] = torch.arange(len(starts))[None]
        new = torch.diff(batch["indices"], prepend=torch.tensor([[-1]])) > 0
        batch["repeats"] = ~new
        moved: RecognitionBatch = self._data.transfer_batch_to_device(batch, self._device, 0)
        return moved

    def show(self, stop: int) -> Iterator[Picture]:
        """Yield the frames (H, W, 3) from where it stands to ``stop``, as decoded."""
        while self.shown < stop:
            with self._reading():
                chunk = self.source.read(range(self.shown, min(self.shown + CHUNK, stop)))
            for picture in chunk:
                self.shown += 1
                yield picture

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, OSError, IndexError) as error:
            raise ValueError(
                f"{self.path}: broken after {self.shown} of {len(self.source)} frames, "
                f"nothing was written ({cli.one_line(error)})"
            ) from error
