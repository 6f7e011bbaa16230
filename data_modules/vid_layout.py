"""Where ImageNet VID keeps its things on disk, and which of the listed ones are there."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from data_modules.missing import contents, report_missing
from data_modules.vid_annotations import read_still_list, read_vid_list

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov")


class Labelled(NamedTuple):
    """A labelled frame for training."""

    snippet: str
    frame: int  # 0-based


class Snippet(NamedTuple):
    """A whole snippet for validation."""

    name: str
    length: int  # frames


@dataclass(frozen=True)
class VidLayout:
    """The folder ``ILSVRC2015``: ``Data/``, ``Annotations/`` and ``ImageSets/`` for VID and DET.

    A snippet is a folder of pictures ``Data/VID/<name>/000000.JPEG ...`` or one video file
    ``Data/VID/<name>.mp4`` (.avi, .mkv, .mov).
    """

    root: Path

    def check(self) -> None:
        """Raise FileNotFoundError unless the root looks like ImageNet VID."""
        wanted = ("Data/VID", "Annotations/VID", "ImageSets")
        if all((self.root / folder).is_dir() for folder in wanted):
            return
        expected = ", ".join(wanted)
        message = f"{self.root}: expected {expected} inside, found {contents(self.root)}"
        for inner in ("ILSVRC2015", "ILSVRC"):
            if (self.root / inner / "Data").is_dir():
                message += f"; did you mean {self.root / inner}?"
        raise FileNotFoundError(message)

    def list_path(self, name: str) -> Path:
        """Find a list by its name in ``ImageSets``, or as a path of its own."""
        sets = self.root / "ImageSets"
        places = [sets / "VID" / name, sets / "DET" / name, sets / name, Path(name)]
        for place in places:
            if place.is_file():
                return place
        raise FileNotFoundError(f"list {name}: expected a file, or a name in {sets}/VID")

    def snippet(self, name: str) -> Path | None:
        """Return the folder or file of a snippet; None where there is none."""
        folder = self.root / "Data" / "VID" / name
        if folder.is_dir():
            return folder
        files = (folder.with_name(folder.name + suffix) for suffix in VIDEO_SUFFIXES)
        return next((file for file in files if file.is_file()), None)

    def annotation(self, name: str, frame: int) -> Path:
        """Return where the XML of a snippet's frame must be."""
        return self.root / "Annotations" / "VID" / name / f"{frame:06d}.xml"

    def still(self, name: str) -> Path:
        """Return where a DET picture must be."""
        return self.root / "Data" / "DET" / f"{name}.JPEG"

    def still_annotation(self, name: str) -> Path:
        """Return where the XML of a DET picture must be."""
        return self.root / "Annotations" / "DET" / f"{name}.xml"

    def length(self, name: str) -> int:
        """Count the frames of a snippet that have an annotation, without opening a video."""
        place = self.snippet(name)
        count = _count(self.annotation(name, 0).parent, ".xml") if place else 0
        return min(count, _count(place, ".JPEG")) if place and place.is_dir() else count

    def has_frame(self, place: Path, name: str, frame: int) -> bool:
        """Whether frame and annotation are there; inside a video file only the XML can tell."""
        # Plain strings: this is asked 57,834 times at start.
        number = f"{name}/{frame:06d}"
        if not os.path.isfile(f"{self.root}/Annotations/VID/{number}.xml"):
            return False
        in_video = place.suffix in VIDEO_SUFFIXES
        return in_video or os.path.isfile(f"{self.root}/Data/VID/{number}.JPEG")


def _count(folder: Path, suffix: str) -> int:
    if not folder.is_dir():
        return 0
    with os.scandir(folder) as entries:
        return sum(entry.name.endswith(suffix) for entry in entries)


def whole_snippets(layout: VidLayout, name: str, allow_missing: bool) -> list[Snippet]:
    """Return the snippets that a list names, with as many frames as are listed and there.

    Raises:
        FileNotFoundError: Some are absent or shorter than listed, and that is not allowed.
    """
    path = layout.list_path(name)
    listed = read_vid_list(path)
    lengths = {entry.snippet: entry.length for entry in listed.entries}
    found, missing = [], []
    for snippet, length in lengths.items():
        there = layout.length(snippet)
        if there < length:
            missing.append(f"{snippet} has {there} of {length} frames" if there else snippet)
        if there:
            found.append(Snippet(snippet, min(there, length)))
    report_missing(path, layout.root, "snippets", missing, len(lengths), len(found), allow_missing)
    return found


def labelled_frames(layout: VidLayout, name: str, allow_missing: bool) -> list[Labelled]:
    """Return the training frames that a list names: its frames, or all frames of whole snippets.

    Raises:
        FileNotFoundError: Some are absent, and that is not allowed.
    """
    path = layout.list_path(name)
    listed = read_vid_list(path)
    if listed.whole:
        whole = whole_snippets(layout, name, allow_missing)
        return [Labelled(s.name, frame) for s in whole for frame in range(s.length)]
    places = {name: layout.snippet(name) for name in {entry.snippet for entry in listed.entries}}
    found: list[Labelled] = []
    missing: dict[str, None] = {}  # an ordered set
    for entry in listed.entries:
        place = places[entry.snippet]
        if place is None:
            missing[entry.snippet] = None
        elif not layout.has_frame(place, entry.snippet, entry.frame):
            missing[f"frame {entry.frame} of {entry.snippet}"] = None
        else:
            found.append(Labelled(entry.snippet, entry.frame))
    report_missing(
        path, layout.root, "snippets", list(missing), len(places), len(found), allow_missing
    )
    return found


def stills(layout: VidLayout, name: str, allow_missing: bool) -> list[str]:
    """Return the DET pictures that a list names.

    Raises:
        FileNotFoundError: Some are absent, and that is not allowed.
    """
    path = layout.list_path(name)
    listed = read_still_list(path)
    there = [layout.still(n).is_file() and layout.still_annotation(n).is_file() for n in listed]
    missing = [n for n, is_there in zip(listed, there, strict=True) if not is_there]
    found = [n for n, is_there in zip(listed, there, strict=True) if is_there]
    report_missing(path, layout.root, "stills", missing, len(listed), len(found), allow_missing)
    return found
