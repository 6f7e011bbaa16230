"""Where Cityscapes keeps its things on disk, and which frames belong to a labelled one."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from data_modules.missing import contents, report_missing

SEQUENCE, STILLS = "leftImg8bit_sequence", "leftImg8bit"
PACKAGES = (SEQUENCE, STILLS)

BEFORE, AFTER = 19, 10
"""Frames of a snippet before and after its labelled one, which is the 20th of 30."""

_LABEL = re.compile(r"(?P<city>.+)_(?P<sequence>\d{6})_(?P<frame>\d{6})_gtFine_labelIds\.png")
_VIDEO = re.compile(r"(?P<city>.+)_(?P<sequence>\d{6})_(?P<first>\d{6})\.mp4")


class Snippet(NamedTuple):
    """A labelled frame and the frames around it."""

    name: str  # <city>_<sequence>_<frame>, of the labelled frame
    label: Path  # its labelIds
    images: Path  # the folder of its pictures, or its video file
    pictures: tuple[str, ...]  # names in the folder, in order; () for a video file
    offset: int  # of the snippet's first frame in the video file
    labelled: int  # the labelled frame, counted from the snippet's first


class LabelName(NamedTuple):
    """What the name of a label file says."""

    path: Path
    city: str
    sequence: str
    frame: int

    def picture(self, frame: int) -> str:
        """Return the file name of a frame of the same sequence."""
        return f"{self.city}_{self.sequence}_{frame:06}_leftImg8bit.png"

    @property
    def name(self) -> str:
        """The name of the snippet."""
        return f"{self.city}_{self.sequence}_{self.frame:06}"


@dataclass(frozen=True)
class CityscapesLayout:
    """The folder with ``gtFine`` and ``leftImg8bit_sequence`` or ``leftImg8bit``.

    Labels are ``gtFine/<split>/<city>/<city>_<sequence>_<frame>_gtFine_labelIds.png``, pictures
    ``<package>/<split>/<city>/<city>_<sequence>_<frame>_leftImg8bit.png``, with 6 digits each.
    Which frames belong to a snippet follows from the labelled frame's number n alone: n - 19 ..
    n + 10. (n is 000019 in most cities, but a few have one very long sequence.)

    Of ``leftImg8bit_sequence`` a snippet may also be one video file, by a convention of this
    project: ``<city>_<sequence>_<first>.mp4``, whose picture j is frame first + j, at most 30.
    """

    root: Path
    package: str = SEQUENCE

    def __post_init__(self) -> None:
        if self.package not in PACKAGES:
            raise ValueError(f"data.images={self.package}: expected one of {', '.join(PACKAGES)}")

    def check(self) -> None:
        """Raise FileNotFoundError unless the root looks like Cityscapes with this package."""
        if all((self.root / folder).is_dir() for folder in ("gtFine", self.package)):
            return
        message = (
            f"{self.root}: expected gtFine and {self.package} inside, found {contents(self.root)}"
        )
        if self.package == SEQUENCE and (self.root / STILLS).is_dir():
            message += (
                f"; {STILLS} holds the labelled frames alone, without the {BEFORE} before them: "
                f"data.images={STILLS} trains on these stills"
            )
        raise FileNotFoundError(message)

    def labels(self, split: str) -> list[LabelName]:
        """Return the labelled frames of a split, by name.

        Raises:
            FileNotFoundError: There are none.
        """
        folder = self.root / "gtFine" / split
        paths = sorted(folder.glob("*/*_gtFine_labelIds.png"))
        matches = [(path, _LABEL.fullmatch(path.name)) for path in paths]
        found = [
            LabelName(path, match["city"], match["sequence"], int(match["frame"]))
            for path, match in matches
            if match
        ]
        if not found:
            raise FileNotFoundError(
                f"{folder}: expected <city>/<city>_<sequence>_<frame>_gtFine_labelIds.png, "
                f"found {contents(folder)}"
            )
        return found


def labelled_snippets(
    layout: CityscapesLayout, split: str, before: int = BEFORE, allow_missing: bool = False
) -> list[Snippet]:
    """Return the snippets of a split, as far as all frames up to the labelled one are there.

    Args:
        layout: Where.
        split: train, val or test.
        before: Frames that a snippet has before its labelled one, up to 19; 0 for stills.
        allow_missing: Leave out labelled frames whose predecessors are missing.

    Raises:
        FileNotFoundError: Some have no picture or lack predecessors, and that is not allowed.
    """
    labels = layout.labels(split)
    before = 0 if layout.package == STILLS else before
    places: dict[str, _City] = {}
    found, missing = [], []
    for label in labels:
        folder = layout.root / layout.package / split / label.path.parent.name
        city = places.setdefault(folder.name, _City(folder))
        snippet = city.snippet(label, before, 0 if layout.package == STILLS else AFTER)
        if isinstance(snippet, Snippet):
            found.append(snippet)
        else:
            missing.append(snippet)
    folder = layout.root / "gtFine" / split
    place = layout.root / layout.package / split
    counts = (len(labels), len(found))
    report_missing(folder, place, "labelled frames", missing, *counts, allow_missing)
    return found


class _City:
    """The pictures and videos of one city, listed once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names = set(os.listdir(folder)) if folder.is_dir() else set()
        self.videos: dict[str, list[int]] = {}  # sequence: first frames
        for match in filter(None, map(_VIDEO.fullmatch, self.names)):
            self.videos.setdefault(match["sequence"], []).append(int(match["first"]))

    def snippet(self, label: LabelName, before: int, after: int) -> Snippet | str:
        """Return the snippet of a labelled frame, or what it lacks."""
        first = label.frame - before
        for start in sorted(self.videos.get(label.sequence, []), reverse=True):
            if start <= first and label.frame - start < BEFORE + 1 + AFTER:
                video = self.folder / f"{label.city}_{label.sequence}_{start:06}.mp4"
                return Snippet(label.name, label.path, video, (), first - start, before)
        lacking = sum(label.picture(n) not in self.names for n in range(first, label.frame))
        if label.picture(label.frame) not in self.names:
            return f"{label.name} has no picture"
        if lacking:
            return f"{label.name} lacks {lacking} of the {before} frames before it"
        last = label.frame
        while last < label.frame + after and label.picture(last + 1) in self.names:
            last += 1
        pictures = tuple(map(label.picture, range(first, last + 1)))
        return Snippet(label.name, label.path, self.folder, pictures, 0, before)
