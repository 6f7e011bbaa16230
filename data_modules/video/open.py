"""Opens a video file or a folder of frames with a reader that is exact on it, the cheaper one."""

from pathlib import Path
from typing import Protocol, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from data_modules.video.access import Access, decord_leads
from data_modules.video.decord_source import DecordSource, decord_distrust, decord_missing
from data_modules.video.folder_source import FolderSource
from data_modules.video.probe import VideoIndex, probe
from data_modules.video.pyav_source import PyavSource
from flowfeat.batches import VideoSource

READERS = ("auto", "decord", "pyav", "folder")


@runtime_checkable
class Source(VideoSource, Protocol):
    """A ``VideoSource`` that says how it reads. Picklable; opened anew in every process."""

    reader: str  # "decord", "pyav" or "folder"
    stream: int | None  # index of the chosen stream in its container; None for folders
    reason: str  # one line: why this reader
    holes: NDArray[np.int64]  # frames known not to decode, ascending; a neighbour is shown instead

    @property
    def times(self) -> NDArray[np.float64]:
        """Seconds (N,) at which the frames are shown, ascending from 0; may be uneven."""


def open_video(
    path: str | Path, reader: str = "auto", fps: float | None = None, access: Access = "near"
) -> Source:
    """Open a video for frame-exact random access.

    Frame i is the i-th entry of the sorted presentation times, whether it decodes or not: damage
    moves no later frame. The stream is always the container's default video stream, else its first
    one, never the largest. ``auto`` takes the folder reader for folders, and for files PyAV, or
    decord where it is both exact and known to cost less; see ``video.access``.

    Args:
        path: A video file, or a folder of pictures.
        reader: One of ``READERS``. ``decord`` fails where decord would return wrong frames.
        fps: Frames per second; by default the file's average rate, 25 for folders.
        access: How the frames will be asked for; ``auto`` goes by it.

    Raises:
        FileNotFoundError: No such file or folder.
        ValueError: Unknown reader or access, wrong fps, not a video, no frame in it, an empty
            folder, or ``decord`` for a file that it reads wrongly.
    """
    path = Path(path)
    if reader not in READERS:
        raise ValueError(f"reader {reader!r}: expected one of {', '.join(READERS)}")
    if access not in get_args(Access):
        raise ValueError(f"access {access!r}: expected one of {', '.join(get_args(Access))}")
    if fps is not None and not 0 < fps < float("inf"):
        raise ValueError(f"fps {fps}: expected a positive number")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such video file or folder of frames")
    if reader == "folder" or (reader == "auto" and path.is_dir()):
        return FolderSource(path, fps)
    if path.is_dir():
        raise ValueError(f"{path}: a folder, which reader {reader!r} cannot read (use folder)")
    index = probe(path)
    if reader == "pyav":
        return PyavSource(index, "asked for", fps)
    if reader == "auto" and not decord_leads(access, index.codec):
        return PyavSource(index, f"costs less than decord for {access} frames", fps)
    obstacle = _decord_obstacle(index)
    if not obstacle:
        return DecordSource(index, f"decord is exact here: {index.codec}, closed key frames", fps)
    if reader == "decord":
        raise ValueError(f"{path}: decord cannot read this file exactly: {obstacle}")
    return PyavSource(index, obstacle, fps)


def decord_obstacle(path: str | Path) -> str:
    """Say why decord cannot read a video file exactly here; "" where it can.

    Raises:
        FileNotFoundError, ValueError: No such file, or not a video.
    """
    return _decord_obstacle(probe(Path(path)))


def _decord_obstacle(index: VideoIndex) -> str:
    return decord_distrust(index) or decord_missing()
