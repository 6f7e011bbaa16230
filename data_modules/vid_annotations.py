"""The text files of ImageNet VID: its classes, its lists, and its XML annotations as boxes."""

import logging
import math
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from data_modules.text_lines import read_lines

logger = logging.getLogger(__name__)

OFFICIAL = (
    "n02691156 airplane,n02419796 antelope,n02131653 bear,n02834778 bicycle,n01503061 bird,"
    "n02924116 bus,n02958343 car,n02402425 cattle,n02084071 dog,n02121808 domestic_cat,"
    "n02503517 elephant,n02118333 fox,n02510455 giant_panda,n02342885 hamster,n02374451 horse,"
    "n02129165 lion,n01674464 lizard,n02484322 monkey,n03790512 motorcycle,n02324045 rabbit,"
    "n02509815 red_panda,n02411705 sheep,n01726692 snake,n02355227 squirrel,n02129604 tiger,"
    "n04468005 train,n01662784 turtle,n04530566 watercraft,n02062744 whale,n02391049 zebra"
)
"""The 30 classes in the order of ``map_vid.txt``, as ``WordNet id`` and ``name``."""


class ClassMap(NamedTuple):
    """Label ``n`` is ``wnids[n]``, read ``names[n]``."""

    wnids: tuple[str, ...]
    names: tuple[str, ...]


def official_classes() -> ClassMap:
    """Return the 30 official classes."""
    wnids, names = zip(*(entry.split() for entry in OFFICIAL.split(",")), strict=True)
    return ClassMap(wnids, names)


def read_class_map(path: Path) -> ClassMap:
    """Read lines ``<WordNet id> <index from 1> <name>``; labels follow the index."""
    rows = []
    for number, line in enumerate(read_lines(path), 1):
        words = line.split(maxsplit=2)
        if not words:
            continue
        if len(words) != 3 or not words[1].isdigit():
            raise ValueError(f"{path}:{number}: expected '<WordNet id> <index> <name>': {line!r}")
        rows.append((int(words[1]), words[0], words[2].strip()))
    rows.sort()
    if [row[0] for row in rows] != list(range(1, len(rows) + 1)) or not rows:
        raise ValueError(f"{path}: expected the indices 1 .. n, each once")
    return ClassMap(tuple(row[1] for row in rows), tuple(row[2] for row in rows))


class Entry(NamedTuple):
    """One line of a list."""

    snippet: str
    frame: int  # 0-based; 0 in lists of whole snippets
    length: int  # frames of the snippet, as the list has it
    line: int  # where in the file, from 1


class VidList(NamedTuple):
    """A list file: labelled frames, or whole snippets."""

    entries: tuple[Entry, ...]
    whole: bool


def read_vid_list(path: Path) -> VidList:
    """Read a list of ImageNet VID, of either official form.

    ``VID_train_15frames.txt`` holds ``<snippet> 1 <frame, 0-based> <length>``,
    ``VID_val_videos.txt`` holds ``<snippet> <global id of its first frame, 1-based> 0 <length>``.
    A list whose third column is always 0 and that names no snippet twice is one of whole snippets.
    """
    entries = []
    for number, line in enumerate(read_lines(path), 1):
        words = line.split()
        if not words:
            continue
        if len(words) != 4 or not all(word.isdigit() for word in words[1:]):
            expected = "'<snippet> 1 <frame> <length>' or '<snippet> <global id> 0 <length>'"
            raise ValueError(f"{path}:{number}: expected {expected}, found {line!r}")
        snippet, frame, length = words[0], int(words[2]), int(words[3])
        if frame >= length:
            raise ValueError(
                f"{path}:{number}: frame {frame} of {snippet}: expected 0 .. {length - 1}"
            )
        entries.append(Entry(snippet, frame, length, number))
    if not entries:
        raise ValueError(f"{path}: expected at least one line, found none")
    once = len({entry.snippet for entry in entries}) == len(entries)
    return VidList(tuple(entries), once and not any(entry.frame for entry in entries))


def read_still_list(path: Path) -> tuple[str, ...]:
    """Read a list of DET pictures: ``<picture>`` or ``<picture> <number>`` per line."""
    names = tuple(line.split()[0] for line in read_lines(path) if line.strip())
    if not names:
        raise ValueError(f"{path}: expected at least one line, found none")
    return names


class Objects(NamedTuple):
    """The objects of one picture."""

    boxes: NDArray[np.float32]  # (N, 4) xyxy, half-open
    labels: NDArray[np.int64]  # (N,) 0 .. num_classes - 1
    tracks: NDArray[np.int64]  # (N,) -1 where unknown


class Annotations:
    """Reads XML files as they are asked for, and keeps what it has read.

    Args:
        classes: Known classes.
        skip_unknown: Leave objects of other classes out (DET has 200 classes) in place of an error.
    """

    def __init__(self, classes: ClassMap, skip_unknown: bool = False) -> None:
        self.classes = classes
        self.skip_unknown = skip_unknown
        self._labels = {wnid: label for label, wnid in enumerate(classes.wnids)}
        self._known: dict[Path, tuple[Objects, tuple[int, int]]] = {}
        self._warned: set[Path] = set()

    def read(self, path: Path, size: tuple[int, int], strict: bool = True) -> Objects:
        """Return a picture's objects in pixels of the picture.

        The XML's coordinates are pixels that belong to the object, both ends included; the boxes
        are half-open, so ``x2 = xmax + 1``. Boxes are clipped to the picture, as in the reference.

        Args:
            path: An XML file.
            size: Height and width of the picture itself.
            strict: The XML must give the same size (its boxes would be wrong otherwise).
        """
        if path not in self._known:
            self._known[path] = self._parse(path)
        objects, (height, width) = self._known[path]
        if strict and height and width and (height, width) != size:
            raise ValueError(
                f"{path}: annotated at {width}x{height}, the picture has {size[1]}x{size[0]} pixels"
            )
        clipped = _clip(path, objects, size)
        # Real annotations often end one pixel late, where a count was taken for an index.
        overhang = np.abs(clipped.boxes - objects.boxes).max(initial=0)
        if overhang > 1 and path not in self._warned:
            self._warned.add(path)
            logger.warning("%s: a box overhangs the picture by %g pixels: clipped", path, overhang)
        return clipped

    def _parse(self, path: Path) -> tuple[Objects, tuple[int, int]]:
        try:
            root = ElementTree.parse(path).getroot()
        except ElementTree.ParseError as error:
            raise ValueError(f"{path}: expected an XML annotation: {error}") from error
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{path}: the annotation of a listed frame is missing"
            ) from error
        boxes, labels, tracks = [], [], []
        for item in root.iter("object"):
            texts = {child.tag: child.text for child in item.iter()}  # far quicker than paths
            name = (texts.get("name") or "").strip()
            if name not in self._labels:
                if self.skip_unknown:
                    continue
                raise ValueError(
                    f"{path}: unknown class {name!r}: expected one of the "
                    f"{len(self._labels)} classes {self.classes.wnids[0]} "
                    f"({self.classes.names[0]}) .. {self.classes.wnids[-1]}"
                )
            x1, y1, x2, y2 = (
                _number(path, key, texts.get(key)) for key in ("xmin", "ymin", "xmax", "ymax")
            )
            if x2 < x1 or y2 < y1:
                raise ValueError(
                    f"{path}: box of zero size ({x1:g}, {y1:g}) .. ({x2:g}, {y2:g}): "
                    "expected xmin <= xmax and ymin <= ymax"
                )
            boxes.append((x1, y1, x2 + 1, y2 + 1))
            labels.append(self._labels[name])
            tracks.append(int(_number(path, "trackid", texts.get("trackid", "-1"))))
        height, width = (
            int(_number(path, side, root.findtext(f"size/{side}", "0")))
            for side in ("height", "width")
        )
        objects = Objects(
            np.array(boxes, np.float32).reshape(-1, 4),
            np.array(labels, np.int64),
            np.array(tracks, np.int64),
        )
        return objects, (height, width)


def _number(path: Path, key: str, text: str | None) -> float:
    try:
        value = float(text or "nan")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{path}: {key}: expected a number, found {text!r}")
    return value


def _clip(path: Path, objects: Objects, size: tuple[int, int]) -> Objects:
    """Clip boxes to the picture; ValueError where nothing is left of one."""
    height, width = size
    boxes = objects.boxes
    clipped = boxes.clip(0, np.array([width, height, width, height], np.float32))
    empty = (clipped[:, 2:] <= clipped[:, :2]).any(1)
    if empty.any():
        box = ", ".join(f"{value:g}" for value in boxes[empty][0])
        raise ValueError(f"{path}: box ({box}) lies outside the picture of {width}x{height} pixels")
    return Objects(clipped, objects.labels, objects.tracks)
