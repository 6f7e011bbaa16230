"""Where the videos and lists of an action dataset lie on disk, and which videos can be used."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import av

from data_modules.action_lists import Listed
from data_modules.missing import contents, first_names, report_missing
from data_modules.video.folder_source import FolderSource, read_picture
from data_modules.video.stamped import (
    first_video_stream,
    open_container,
    stamped_frames,
    video_stream,
    whole_packets,
)
from flowfeat.progress import tracked

VIDEO_SUFFIXES = (".avi", ".mp4", ".mkv", ".mov")
RAW_FRAME = "img_"
"""Raw frames are ``<class>/<video>/img_00001.jpg``, counted from 1."""

_THREADS = 8
_PATIENCE = 1000  # videos that are looked at without a progress bar

log = logging.getLogger(__name__)


class ActionVideo(NamedTuple):
    """A video that is there."""

    name: str  # Class/video, without the ending
    path: Path  # a file, or a folder of raw frames
    action: int


class RawFrames(FolderSource):
    """Numbered pictures ``<prefix>00001.jpg`` of a folder that may hold other kinds as well.

    Raises:
        FileNotFoundError: No such folder.
        ValueError: No such pictures, or a number between the first and the last is missing.
    """

    def __init__(self, path: Path, prefix: str = RAW_FRAME, fps: float | None = None) -> None:
        super().__init__(path, fps)
        self._names = [name for name in self._names if _number(name, prefix) is not None]
        numbers = [_number(name, prefix) for name in self._names]
        if not numbers:
            raise ValueError(f"{path}: expected {prefix}00001.jpg ..., found {contents(path)}")
        for wanted, number in enumerate(numbers, start=1):
            if number != wanted:
                raise ValueError(
                    f"{path}: {prefix}{wanted:05}.jpg: expected pictures numbered from 1 without "
                    f"gaps, found {self._names[wanted - 1]} in its place"
                )
        self.size = read_picture(path / self._names[0]).shape[:2]
        self.reason = f"a folder of {len(numbers)} raw frames"


def _number(name: str, prefix: str) -> int | None:
    digits = name.removeprefix(prefix).rpartition(".")[0]
    return int(digits) if name.startswith(prefix) and digits.isdecimal() else None


def find_folder(
    root: Path, names: Sequence[str], given: str | Path | None, key: str, videos: Sequence[str]
) -> Path:
    """Return the folder of the videos or of the lists.

    Args:
        root: What ``DATA_ROOT`` says: the folder that holds both, or the folder of the videos.
        names: By which it usually goes.
        given: What the config says instead, relative to the root.
        key: The config's key.
        videos: Names by which a root is known as the folder of the videos itself.

    Raises:
        FileNotFoundError: There is none.
    """
    places = [root / name for name in names]
    if root.name in videos:  # then the lists lie beside it
        places += [root.parent / name for name in (root.name, *names) if name in names]
    if given is not None:
        places = [root / Path(given).expanduser()]
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        wanted = " or ".join(names) if given is None else str(given)
        raise FileNotFoundError(
            f"{root}: expected {wanted} inside (data.{key}= names another folder), "
            f"found {contents(root)}"
        )
    return found


def find_videos(
    listed: Sequence[Listed],
    folder: Path,
    path: Path,
    classes: Sequence[str],
    allow_missing: bool,
) -> list[ActionVideo]:
    """Return the listed videos that are there and show at least one frame, in order.

    Args:
        listed: By the lists.
        folder: Of the videos: ``<class>/<video>.avi`` or ``<class>/<video>/img_00001.jpg``.
        path: The list, for messages.
        classes: All of them.
        allow_missing: Go on without videos that are absent or broken, and say which.

    Raises:
        FileNotFoundError: Some cannot be used and that is not allowed, or none is left.
    """
    places = [_place(folder, video.name) for video in listed]
    there = [place for place in places if place is not None]
    with ThreadPoolExecutor(_THREADS) as threads:
        looked = threads.map(defect, there)
        if len(there) >= _PATIENCE:
            looked = tracked(looked, "looking", len(there), "videos")
        broken = {place: why for place, why in zip(there, looked, strict=True) if why}
    absent = [v.name for v, place in zip(listed, places, strict=True) if place is None]
    found = [
        ActionVideo(video.name, place, video.action)
        for video, place in zip(listed, places, strict=True)
        if place is not None and place not in broken
    ]
    lacking = [f"{place.relative_to(folder)} ({why})" for place, why in broken.items()] + absent
    report_missing(path, folder, "videos", lacking, len(listed), len(found), allow_missing)
    for place, why in broken.items():
        log.warning("%s: left out: %s", place, why)
    empty = {video.action for video in listed} - {video.action for video in found}
    if empty:
        names = [classes[action] for action in sorted(empty)]
        log.warning("%s: no video of %d classes is left: %s", path, len(names), first_names(names))
    return found


def _place(folder: Path, name: str) -> Path | None:
    # Joined as text: names may hold dots, brackets and blanks, which globbing would read.
    for suffix in VIDEO_SUFFIXES:
        file = folder / f"{name}{suffix}"
        if file.is_file():
            return file
    frames = folder / name
    return frames if frames.is_dir() else None


def defect(path: Path) -> str:
    """Say why no frame of a video can be shown; "" where the first one can.

    Only the beginning is read: a whole dataset takes seconds. What is broken further on is
    reported by the reader, which repeats the frame before it.
    """
    if path.is_dir():
        first = path / f"{RAW_FRAME}00001.jpg"
        return "" if first.is_file() else f"no {first.name} inside"
    try:
        with open_container(path) as container:
            stream = first_video_stream(container)
            if stream is None:
                return "no video stream"
            stream = video_stream(container, stream.index)
            frames = stamped_frames(whole_packets(container, stream), stream, 0)
            return "" if next(frames, None) is not None else "no frame in it"
    except av.FFmpegError as error:
        return f"not a video that can be read: {error.strerror}"
