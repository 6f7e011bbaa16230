"""Reads a folder of pictures, in natural order of their names, as a video."""

import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from data_modules.video.indices import gathered, plan
from data_modules.video.probe import DEFAULT_FPS

PICTURES = frozenset((".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".webp", ".tif", ".tiff"))


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sort key under which ``frame_9`` comes before ``frame_10``."""
    pieces = re.split(r"(\d+)", name)
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in pieces] + [(-2, name)]


class FolderSource:
    """Pictures of one size in a folder, by the contract of ``VideoSource``.

    Raises:
        FileNotFoundError: No such folder.
        ValueError: A folder without pictures, or (when read) a picture of another size.
    """

    reader = "folder"

    def __init__(self, path: Path, fps: float | None = None) -> None:
        if not path.is_dir():
            raise FileNotFoundError(f"{path}: no such folder of frames")
        names = (entry.name for entry in path.iterdir())
        self._names = sorted(
            (n for n in names if not n.startswith(".") and Path(n).suffix.lower() in PICTURES),
            key=natural_key,
        )
        if not self._names:
            raise ValueError(f"{path}: a folder without pictures ({', '.join(sorted(PICTURES))})")
        self.path = path
        self.stream: int | None = None
        self.holes = np.empty(0, np.int64)  # a broken picture is refused when it is read
        self.reason = f"a folder of {len(self._names)} pictures"
        self.fps = fps or DEFAULT_FPS
        height, width = read_picture(path / self._names[0]).shape[:2]
        self.size = (height, width)

    def __len__(self) -> int:
        return len(self._names)

    @property
    def times(self) -> NDArray[np.float64]:
        return np.arange(len(self)) / self.fps

    def read(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        order = plan(indices, len(self), self.path)
        pictures = np.empty((len(order.frames), *self.size, 3), dtype=np.uint8)
        for place, frame in enumerate(order.frames):
            picture = read_picture(self.path / self._names[frame])
            if picture.shape[:2] != self.size:
                raise ValueError(
                    f"{self.path / self._names[frame]}: a frame of {picture.shape[:2]} pixels"
                    f" (height, width) in a folder that begins with {self.size}"
                )
            pictures[place] = picture
        return gathered(pictures, order)


def read_picture(path: Path) -> NDArray[np.uint8]:
    """Read one picture as (H, W, 3) RGB; ValueError where it cannot be read, or was cut short."""
    content = path.read_bytes() if path.is_file() else b""
    if content.startswith(b"\xff\xd8") and b"\xff\xd9" not in content:  # a JPEG without its end
        raise ValueError(f"{path}: cut short")  # OpenCV fills it with grey
    picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
    if picture is None:
        raise ValueError(f"{path}: not a picture that can be read")
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), dtype=np.uint8)
