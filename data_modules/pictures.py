"""Pictures that are exactly 8-bit RGB: read strictly, one by one or as a video, and written as PNG.

Restoration compares pixels, so nothing is converted on the way: a grey or 16-bit picture, which
other readers would turn into 8-bit RGB without a word, is refused here.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from cv2.utils import logging
from numpy.typing import NDArray
from PIL import Image

from data_modules.resize import Frames
from data_modules.video import natural_key
from data_modules.video.folder_source import PICTURES
from data_modules.video.indices import gathered, plan
from data_modules.video.probe import DEFAULT_FPS

_JPEG2000 = {".jp2", ".j2k"}
SUFFIXES = PICTURES | _JPEG2000

Picture = NDArray[np.uint8]
"""(H, W, 3) RGB."""

_ONE_AT_A_TIME = threading.Lock()


def read_picture(path: Path) -> Picture:
    """Read one picture.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not a whole picture of 8 bits and three colours.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such picture")
    suffix = path.suffix.lower()
    picture = _jpeg(path) if suffix in (".jpg", ".jpeg") else _stored(path, suffix in _JPEG2000)
    if picture is None:
        raise ValueError(f"{path}: not a picture that can be read, or cut short")
    channels = 1 if picture.ndim == 2 else picture.shape[2]
    if picture.dtype != np.uint8 or channels != 3:
        kind = {1: "grey", 3: "RGB", 4: "RGB with alpha"}.get(channels, f"{channels} channels")
        raise ValueError(
            f"{path}: expected an 8-bit RGB picture, found {8 * picture.itemsize}-bit {kind}"
        )
    return picture


def _jpeg(path: Path) -> Picture | None:
    try:
        with Image.open(path) as image:  # OpenCV fills a JPEG that was cut short with grey
            return np.asarray(image)
    except OSError:
        return None


def _stored(path: Path, loud: bool) -> Picture | None:
    with _quiet() if loud else nullcontext():
        stored: NDArray[Any] | None = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if stored is None or stored.ndim == 2 or stored.shape[2] != 3:
        return stored
    return np.ascontiguousarray(stored[..., ::-1])


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep OpenCV from telling what is wrong in lines of its own; we say it in one."""
    with _ONE_AT_A_TIME:  # the level is the process's
        level = logging.getLogLevel()
        logging.setLogLevel(logging.LOG_LEVEL_SILENT)
        try:
            yield
        finally:
            logging.setLogLevel(level)


def read_pictures(folder: Path, names: Sequence[str]) -> Frames:
    """Read pictures of one size, in the order given.

    Raises:
        FileNotFoundError: One is missing.
        ValueError: One cannot be read or has another size than the first.
    """
    pictures = [read_picture(folder / name) for name in names]
    for name, picture in zip(names, pictures, strict=True):
        if picture.shape != pictures[0].shape:
            raise ValueError(
                f"{folder / name}: {_size(picture)} pixels: expected {_size(pictures[0])}, "
                f"the size of {names[0]}"
            )
    return np.stack(pictures)


def _size(picture: Picture) -> str:
    return f"{picture.shape[1]}x{picture.shape[0]}"


def picture_names(folder: Path) -> tuple[str, ...]:
    """Return the names of the pictures in a folder, in natural order; () where there are none."""
    names = (entry.name for entry in folder.iterdir())
    pictures = (n for n in names if not n.startswith(".") and Path(n).suffix.lower() in SUFFIXES)
    return tuple(sorted(pictures, key=natural_key))


def write_png(path: Path, picture: Picture) -> None:
    """Write one picture (H, W, 3) RGB; OSError where it cannot be."""
    done, data = cv2.imencode(".png", picture[..., ::-1])
    if not done:
        raise OSError(f"{path}: PNG encoding failed")
    path.write_bytes(data.tobytes())


class PictureSource:
    """A folder of pictures, or one picture, by the contract of ``VideoSource``.

    Raises:
        ValueError: A folder without pictures, or a picture that cannot be read.
    """

    reader = "pictures"

    def __init__(self, path: Path) -> None:
        self.path = path if path.is_dir() else path.parent
        self.names = picture_names(path) if path.is_dir() else (path.name,)
        if not self.names:
            raise ValueError(f"{path}: a folder without pictures ({', '.join(sorted(SUFFIXES))})")
        self.fps = DEFAULT_FPS
        height, width = read_picture(self.path / self.names[0]).shape[:2]
        self.size = (height, width)

    def __len__(self) -> int:
        return len(self.names)

    def read(self, indices: Sequence[int]) -> Frames:
        order = plan(indices, len(self), self.path)
        if not order.frames:
            return np.empty((0, *self.size, 3), np.uint8)
        pictures = read_pictures(self.path, [self.names[frame] for frame in order.frames])
        if pictures.shape[1:3] != self.size:
            raise ValueError(
                f"{self.path / self.names[order.frames[0]]}: {_size(pictures[0])} pixels: "
                f"expected {self.size[1]}x{self.size[0]}, the size of {self.names[0]}"
            )
        return gathered(pictures, order)
