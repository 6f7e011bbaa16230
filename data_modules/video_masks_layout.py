"""Where videos and the masks of their frames lie on disk, and which mask belongs to which frame."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_modules.missing import contents, report_missing
from data_modules.segmentation_clips import LabelMap
from data_modules.video import natural_key, open_video
from data_modules.video.folder_source import PICTURES
from flowfeat.heads.segmentation import IGNORED

_MODES = {"P": "palette", "L": "grey", "1": "black and white"}
_NUMBER = re.compile(r"(\d+)\D*$")


class MaskedVideo(NamedTuple):
    """A video and the masks of some of its frames."""

    name: str
    path: Path  # a video file or a folder of frames
    length: int
    masks: Mapping[int, Path]  # by frame, ascending


@dataclass(frozen=True)
class VideoMasksLayout:
    """A folder of videos, and beside it one with a folder of masks per video, as DAVIS has them.

    ``<frames>/<video>/*.jpg`` or ``<frames>/<video>.<mp4, ...>``, and ``<masks>/<video>/*.png``.
    For one video ``frames`` may also be its own folder of pictures or its file, and ``masks`` the
    folder of its PNGs. A video without a folder of masks is passed over.

    A mask may be there for any of the frames. It belongs to the frame of the same name, else to
    the one of the same number (the last digits of the name); in a video file frame j has number
    ``first_number + j``.
    """

    root: Path
    frames: str = "JPEGImages/480p"
    masks: str = "Annotations/480p"
    first_number: int = 0
    reader: str = "auto"

    def videos(self, allow_missing: bool = False) -> list[MaskedVideo]:
        """Return the videos that have masks, by name.

        Args:
            allow_missing: Leave out masks that have no frame.

        Raises:
            FileNotFoundError: There are no such folders or no masks, or masks without a frame.
            ValueError: Names that do not say which frame a mask belongs to.
        """
        frames, masks = self.root / self.frames, self.root / self.masks
        if not frames.exists() or not masks.is_dir():
            raise FileNotFoundError(
                f"{self.root}: expected {self.frames} (data.frames) and {self.masks} (data.masks) "
                f"inside, found {contents(self.root)}"
            )
        places = _places(frames, masks)
        found, strange, count = [], [], 0
        for name, path, folder in places:
            numbered = _masks(folder)
            count += len(numbered)
            if path is None:
                strange += [f"{folder.name}/{mask.name}" for mask in numbered]
                continue
            video, without = self._video(name, path, numbered)
            strange += without
            if video.masks:
                found.append(video)
        if not count:
            raise FileNotFoundError(
                f"{masks}: expected <video>/<frame>.png, or the PNGs themselves where data.frames "
                f"is one video, found {contents(masks)}"
            )
        used = count - len(strange)
        report_missing(masks, frames, "frames of masks", strange, count, used, allow_missing)
        return found

    def _video(self, name: str, path: Path, masks: Sequence[Path]) -> tuple[MaskedVideo, list[str]]:
        """Match masks with frames; also return the masks that have none."""
        if path.is_dir():
            names = picture_names(path)
            length, frame_of = len(names), _frames_by_name(path, names, masks)
        else:
            length = len(open_video(path, self.reader))
            frame_of = {number + self.first_number: number for number in range(length)}
        keys = [mask.stem if mask.stem in frame_of else number_of(mask.stem) for mask in masks]
        found: dict[int, Path] = {}
        without = []
        for mask, key in zip(masks, keys, strict=True):
            frame = None if key is None else frame_of.get(key)
            if frame is None:
                without.append(f"{name}/{mask.name}")
            elif frame in found:
                raise ValueError(
                    f"{mask}: belongs to the same frame as {found[frame].name}, expected one mask"
                )
            else:
                found[frame] = mask
        return MaskedVideo(name, path, length, dict(sorted(found.items()))), without


def _places(frames: Path, masks: Path) -> list[tuple[str, Path | None, Path]]:
    """Return name, video (None: there is none) and folder of masks of every video."""
    if frames.is_file() or picture_names(frames):
        return [(frames.stem if frames.is_file() else frames.name, frames, masks)]
    videos: dict[str, list[Path]] = {}
    for path in frames.iterdir():
        if not path.name.startswith("."):
            videos.setdefault(path.name if path.is_dir() else path.stem, []).append(path)
    found: list[tuple[str, Path | None, Path]] = []
    for folder in sorted(masks.iterdir(), key=lambda path: natural_key(path.name)):
        if not folder.is_dir() or folder.name.startswith("."):
            continue
        paths = sorted(videos.get(folder.name, []))
        if len(paths) > 1:
            listed = ", ".join(path.name for path in paths)
            raise ValueError(f"{frames}: expected one video {folder.name}, found {listed}")
        found.append((folder.name, paths[0] if paths else None, folder))
    return found


def picture_names(folder: Path) -> list[str]:
    """Return the names of the pictures in a folder, in the order of ``FolderSource``."""
    names = (path.name for path in folder.iterdir() if not path.name.startswith("."))
    return sorted((n for n in names if Path(n).suffix.lower() in PICTURES), key=natural_key)


def _masks(folder: Path) -> list[Path]:
    """Return the PNGs of a folder; ValueError where other pictures lie among them."""
    paths = [folder / name for name in picture_names(folder)]
    for path in paths:
        if path.suffix.lower() != ".png":
            raise ValueError(f"{path}: expected masks as PNG, because others may change the values")
    return paths


def _frames_by_name(
    folder: Path, names: Sequence[str], masks: Sequence[Path]
) -> dict[str | int, int]:
    """Number the pictures of a folder by their names if a mask has one of these, else by number."""
    stems: list[str | int] = [Path(name).stem for name in names]
    keys = stems
    if not {mask.stem for mask in masks} & set(stems):
        numbers = [(number_of(Path(name).stem), name) for name in names]
        keys = [name if number is None else number for number, name in numbers]
    frame_of: dict[str | int, int] = {}
    for frame, key in enumerate(keys):
        if key in frame_of:
            raise ValueError(
                f"{folder / names[frame]}: expected one frame {key}, "
                f"{names[frame_of[key]]} is another"
            )
        frame_of[key] = frame
    return frame_of


def number_of(stem: str) -> int | None:
    """Return the number that the last digits of a name are, if any."""
    match = _NUMBER.search(stem)
    return None if match is None else int(match[1])


def read_mask(
    path: Path, size: tuple[int, int], classes: int | None = None, void: int | None = None
) -> LabelMap:
    """Read a mask as a label map.

    Args:
        path: A PNG of one channel: grey, or a palette, whose indices count, not its colours.
        size: Height and width of the frame in pixels.
        classes: How many there are: values are 0 .. classes - 1. None: 0 is background (0), every
            other value is object (1).
        void: Value of pixels that are ignored, if any.

    Raises:
        ValueError: No such picture, of another size, or with unknown values.
    """
    values = _values(path)
    if values.shape != size:
        raise ValueError(
            f"{path}: mask of {values.shape[0]} x {values.shape[1]}: "
            f"expected {size[0]} x {size[1]}, the size of its frame"
        )
    labels = np.minimum(values, 1) if classes is None else values.copy()
    known = np.ones(values.shape, bool) if classes is None else values < classes
    if void is not None:
        labels[values == void] = IGNORED
        known |= values == void
    if not known.all():
        unknown = np.unique(values[~known]).tolist()
        ignored = "" if void is None else f", or data.void={void}"
        raise ValueError(
            f"{path}: unknown values {unknown}: expected 0 .. {int(classes or 0) - 1}, "
            f"by data.classes{ignored}"
        )
    return labels


def _values(path: Path) -> NDArray[np.uint8]:
    """Read the raw values (H, W); of a palette the indices, which OpenCV would not give."""
    try:
        with Image.open(path) as picture:
            mode, values = picture.mode, np.asarray(picture).astype(np.uint8)
    except (OSError, SyntaxError) as error:  # Pillow's word for a broken PNG
        raise ValueError(f"{path}: not a mask that can be read ({error})") from error
    if mode not in _MODES:
        expected = ", ".join(_MODES.values())
        raise ValueError(f"{path}: expected a mask of one channel ({expected}), found {mode}")
    return values
