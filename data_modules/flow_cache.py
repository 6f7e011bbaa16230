"""Flow of a video as JPEGs in dense_flow's format: read where it is, else computed once and kept.

``flow_x_00001.jpg`` and ``flow_y_00001.jpg`` hold the flow from frame 0 to frame 1, in pixels of
the video's own size: -20 .. 20 become 0 .. 255, rest is 128, and everything beyond is clipped.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from data_modules.action_layout import RawFrames
from data_modules.flow_methods import FlowMethod, flows, settings_of
from data_modules.missing import contents
from data_modules.synthetic.write_once import write_once
from flowfeat.batches import VideoSource
from flowfeat.flow.opencv_flow import Preset

DIRECTIONS = ("flow_x", "flow_y")

MANIFEST = "flow_cache.json"
"""File in the root of every cache: the settings that all its flow was computed with."""

_VERSION = 2  # counts changes of what a video gives
_CHUNK = 32  # frames in memory while a video's flow is computed


class FlowFolder:
    """Precomputed flow of one video: a source of pictures (T, H, W, 2), x and y.

    Raises:
        FileNotFoundError: No such folder.
        ValueError: No flow in it, a gap in its numbers, or not as much of x as of y.
    """

    def __init__(self, path: Path, fps: float = 25.0) -> None:
        self.path = path
        self.fps = fps
        self._planes = [RawFrames(path, f"{name}_", fps) for name in DIRECTIONS]
        across, down = self._planes
        if len(across) != len(down) or across.size != down.size:
            raise ValueError(
                f"{path}: {len(across)} pictures flow_x of {across.size} pixels (height, width) "
                f"and {len(down)} flow_y of {down.size}, expected the same"
            )
        self.size = across.size

    @staticmethod
    def lies_in(folder: Path) -> bool:
        """Say whether a folder holds flow."""
        return (folder / f"{DIRECTIONS[0]}_00001.jpg").is_file()

    def __len__(self) -> int:
        return len(self._planes[0])

    def read(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Return flow (T, H, W, 2) as it is stored, from frames ``indices`` to the next ones."""
        # The reader gives three equal channels of a grey picture.
        return np.stack([plane.read(indices)[..., 0] for plane in self._planes], axis=-1)


def check_count(flow: FlowFolder, frames: int, video: Path) -> FlowFolder:
    """Return the flow if it can belong to a video of so many frames.

    Raises:
        ValueError: Its number of pictures is neither ``frames - 1`` nor ``frames``, as of tools
            that repeat the last one.
    """
    if len(flow) not in (frames - 1, frames):
        raise ValueError(
            f"{flow.path}: {len(flow)} pictures of flow, expected {frames - 1} (or {frames}) for "
            f"the {frames} frames of {video}"
        )
    return flow


@dataclass(frozen=True)
class FlowCache:
    """A folder with the flow of every video that was asked for.

    A video appears when all of its flow is there: a run that was cut off goes on where it was, and
    processes that compute the same video at once do not disturb each other. A video that was
    replaced since is computed anew.

    Args:
        root: Holds ``Class/video/{flow_x,flow_y}_00001.jpg`` ... and the manifest.
        preset: OpenCV's settings of DIS, from fast to good.
        bound: Pixels that become 0 and 255.
        quality: Of the JPEGs, 0 .. 100.
        method: What computes it.

    Raises:
        ValueError: A setting outside its range.
    """

    root: Path
    preset: Preset = "medium"
    bound: float = 20.0
    quality: int = 95
    method: FlowMethod = "dis"

    def __post_init__(self) -> None:
        if self.preset not in get_args(Preset):
            known = ", ".join(get_args(Preset))
            raise ValueError(f"flow cache: preset={self.preset!r}: expected one of {known}")
        if not (0 < self.bound < 1000 and 0 <= self.quality <= 100):
            raise ValueError(
                "flow cache: expected 0 < bound < 1000 and quality 0 .. 100, found "
                f"{self.bound} and {self.quality}"
            )

    @property
    def settings(self) -> dict[str, Any]:
        """What the flow of a video depends on, beside the video."""
        method = settings_of(self.method, self.preset)
        return {**method, "version": _VERSION, "bound": self.bound, "quality": self.quality}

    def open(self, name: str, path: Path, video: VideoSource) -> FlowFolder:
        """Return the flow of a video, computed now or before.

        Args:
            name: Its place in the cache, ``Class/video``.
            path: Its file, or its folder of raw frames.
            video: Its frames.

        Raises:
            ValueError: A cache made with other settings, a folder of something else, or a video of
                a single frame.
        """
        if len(video) < 2:
            raise ValueError(f"{path}: expected 2 frames or more for flow, found {len(video)}")
        self._claim()
        folder = self.root / name
        identity = {
            "frames": len(video),
            "size": list(video.size),
            "bytes": _bytes(path),
        }
        write_once(
            folder, {**self.settings, "video": identity}, lambda place: self._write(place, video)
        )
        return check_count(FlowFolder(folder, video.fps), len(video), path)

    def _claim(self) -> None:
        """See that the folder is a cache of these settings, or make it one."""
        manifest = self.root / MANIFEST
        self.root.mkdir(parents=True, exist_ok=True)
        # In this order: a video never appears before the manifest.
        others = [entry.name for entry in self.root.iterdir() if not entry.name.startswith(".")]
        if not manifest.is_file():
            if others and MANIFEST not in others:
                raise ValueError(
                    f"{self.root}: expected a flow cache (with {MANIFEST}) or an empty folder, "
                    f"found {contents(self.root)}"
                )
            handle, partial = tempfile.mkstemp(prefix=f".{MANIFEST}.", dir=self.root)
            with os.fdopen(handle, "w") as file:
                json.dump(self.settings, file, indent=1, sort_keys=True)
            os.replace(partial, manifest)
        try:
            found = json.loads(manifest.read_text())
        except ValueError as error:  # no JSON, or no text at all
            raise ValueError(f"{manifest}: expected JSON ({error})") from error
        if found != self.settings:
            raise ValueError(
                f"{manifest}: made with {found}, expected {self.settings}; choose another folder"
            )

    def _write(self, folder: Path, video: VideoSource) -> None:
        for number, flow in enumerate(flows(_frames(video), self.method, self.preset), start=1):
            for direction, plane in zip(DIRECTIONS, np.moveaxis(flow, -1, 0), strict=True):
                grey = np.ascontiguousarray(quantise(plane, self.bound))
                done, data = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, self.quality])
                path = folder / f"{direction}_{number:05}.jpg"
                if not done:
                    raise OSError(f"{path}: JPEG encoding failed")
                path.write_bytes(data.tobytes())


def _frames(video: VideoSource) -> Iterator[NDArray[np.uint8]]:
    for start in range(0, len(video), _CHUNK):
        yield from video.read(range(start, min(start + _CHUNK, len(video))))


def _bytes(path: Path) -> int | None:
    """Count the bytes of a video: its file, or all files in its folder of frames."""
    if path.is_dir():
        with os.scandir(path) as entries:
            return sum(entry.stat().st_size for entry in entries if entry.is_file())
    return path.stat().st_size if path.is_file() else None


def quantise(flow: NDArray[np.float32], bound: float) -> NDArray[np.uint8]:
    """Turn pixels into 0 .. 255 as dense_flow does: ``round(255 (v + bound) / (2 bound))``."""
    scaled = (np.clip(flow, -bound, bound) + bound) * (255 / (2 * bound))
    return np.asarray(np.rint(scaled), np.uint8)
