"""Reads the official split lists of UCF-101 and HMDB-51, and holds groups out for validation."""

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from data_modules.missing import contents, first_names
from data_modules.text_lines import read_lines

SPLITS = (1, 2, 3)

_UCF_GROUP = re.compile(r"v_.+_(g\d+)_c\d+")
_HMDB_CODES = {"0": None, "1": "train", "2": "test"}

log = logging.getLogger(__name__)


class Listed(NamedTuple):
    """A video that a list names."""

    name: str  # Class/video, without the ending
    action: int  # 0 .. classes - 1
    group: str | None  # videos of one group show the same people and place; None: not known


class ActionLists(NamedTuple):
    """One official split."""

    classes: tuple[str, ...]
    train: list[Listed]
    test: list[Listed]
    train_path: Path  # the list file, or the folder of list files
    test_path: Path


def read_ucf_lists(folder: Path, split: int) -> ActionLists:
    """Read ``classInd.txt``, ``trainlist0X.txt`` and ``testlist0X.txt``, with any line ends.

    The class of a video is its folder: ``HandstandPushups/v_HandStandPushups_g01_c01.avi`` has
    two spellings. Training lists also have its number, from 1; test lists may have none.

    Raises:
        FileNotFoundError: A list is not there.
        ValueError: A line that is not understood, or a class that is not in the index.
    """
    classes = read_ucf_classes(folder)
    train, test = (folder / f"{name}list{split:02}.txt" for name in ("train", "test"))
    lists = ActionLists(classes, _ucf_list(train, classes), _ucf_list(test, classes), train, test)
    _warn_of_leaks(lists)
    return lists


def read_ucf_classes(folder: Path) -> tuple[str, ...]:
    """Return the classes of ``classInd.txt``, whose numbers begin at 1.

    Raises:
        FileNotFoundError: No such file.
        ValueError: A line that is not the next number and a new class.
    """
    path = folder / "classInd.txt"
    names: list[str] = []
    for number, line in _lines(path):
        index, _, name = line.partition(" ")
        name = name.strip()
        if index != str(len(names) + 1) or not name or name in names:
            raise ValueError(
                f"{path}: line {number}: expected '{len(names) + 1} <new class>', found {line!r}"
            )
        names.append(name)
    if not names:
        raise ValueError(f"{path}: expected lines '<number from 1> <class>', found none")
    return tuple(names)


def _ucf_list(path: Path, classes: tuple[str, ...]) -> list[Listed]:
    known = {name: action for action, name in enumerate(classes)}
    found: list[Listed] = []
    for number, line in _lines(path):
        video, _, label = line.partition(" ")
        place, _, file = video.partition("/")
        if not file or "/" in file:
            raise ValueError(
                f"{path}: line {number}: expected '<class>/<video>.avi', found {line!r}"
            )
        if place not in known:
            raise ValueError(
                f"{path}: line {number}: class {place!r} is not in classInd.txt "
                f"({len(classes)} classes: {first_names(list(classes))})"
            )
        if label.strip() not in ("", str(known[place] + 1)):
            raise ValueError(
                f"{path}: line {number}: expected {known[place] + 1}, the number of {place} in "
                f"classInd.txt, found {label.strip()!r}"
            )
        stem = _stem(file)
        match = _UCF_GROUP.fullmatch(stem)
        # The number alone, although groups of two classes are unrelated: in the embedded set they
        # show the same place, and holding out g09 of all classes is as good.
        group = match[1] if match else None
        found.append(Listed(f"{place}/{stem}", known[place], group))
    return _checked(path, found)


def read_hmdb_lists(folder: Path, split: int) -> ActionLists:
    """Read ``<class>_test_split{1,2,3}.txt``; there is no index, so classes go by the alphabet.

    Lines are ``<video>.avi <code> `` with code 1 for training, 2 for testing and 0 for neither.
    The group of a video is the film that it was cut from, the first part of its name.

    Raises:
        FileNotFoundError: There are no lists.
        ValueError: A line that is not understood.
    """
    classes = read_hmdb_classes(folder, split)
    parts: dict[str, list[Listed]] = {"train": [], "test": []}
    for action, name in enumerate(classes):
        path = folder / f"{name}{_ending(split)}"
        for number, line in _lines(path):
            video, _, code = line.rpartition(" ")
            if not video or code not in _HMDB_CODES:
                raise ValueError(
                    f"{path}: line {number}: expected '<video>.avi <0, 1 or 2>', found {line!r}"
                )
            part, stem = _HMDB_CODES[code], _stem(video.strip())
            if part:
                parts[part].append(Listed(f"{name}/{stem}", action, _film(stem, name)))
    train, test = (_checked(folder, parts[name]) for name in ("train", "test"))
    lists = ActionLists(classes, train, test, folder, folder)
    _warn_of_leaks(lists)
    return lists


def read_hmdb_classes(folder: Path, split: int) -> tuple[str, ...]:
    """Return the classes that a split has a list of, by the alphabet.

    Raises:
        FileNotFoundError: There are no lists.
    """
    ending = _ending(split)
    names = sorted(path.name.removesuffix(ending) for path in folder.glob(f"*{ending}"))
    if not names:
        raise FileNotFoundError(f"{folder}: expected <class>{ending}, found {contents(folder)}")
    return tuple(names)


def strange_folders(videos: Path, classes: Sequence[str]) -> list[str]:
    """Return the folders of videos that no class is named after, by the alphabet."""
    folders = {entry.name for entry in videos.iterdir() if entry.is_dir()}
    return sorted(folders - set(classes))


def warn_of_folders(videos: Path, path: Path, classes: Sequence[str]) -> None:
    """Name the folders of videos that the lists leave out."""
    strange = strange_folders(videos, classes)
    if strange:
        _say_once(
            f"{videos}: {len(strange)} folders are no class of {path} and are left out: "
            f"{first_names(strange)}"
        )


def _ending(split: int) -> str:
    return f"_test_split{split}.txt"


def _film(stem: str, name: str) -> str | None:
    """Return the film of ``<film>_<class>_<body>_<camera>_np<n>_<view>_<quality>_<number>``."""
    tail = rf"_{re.escape(name)}_[a-z]_[a-z]{{2}}_np\d+_[a-z]{{2}}_[a-z]{{3}}_\d+"
    match = re.fullmatch(f"(.+){tail}", stem)
    return match[1] if match else None


def _stem(file: str) -> str:
    return Path(file).stem if file.lower().endswith((".avi", ".mp4", ".mkv", ".mov")) else file


def _lines(path: Path) -> list[tuple[int, str]]:
    """Return the lines that are not blank, with their numbers from 1."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such list, found {contents(path.parent)}")
    lines = read_lines(path)
    return [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]


def _checked(path: Path, found: list[Listed]) -> list[Listed]:
    twice = [name for name, count in Counter(v.name for v in found).items() if count > 1]
    if twice:
        raise ValueError(
            f"{path}: {len(twice)} videos are listed twice: {first_names(twice)}; expected once"
        )
    return found


def _warn_of_leaks(lists: ActionLists) -> None:
    """Say where training and test videos of one class were cut from the same film."""
    train = {(video.action, video.group or video.name) for video in lists.train}
    shared = sorted(
        {v.group or v.name for v in lists.test if (v.action, v.group or v.name) in train}
    )
    if shared:
        _say_once(
            f"{lists.test_path}: {len(shared)} groups are in the training and in the test list "
            f"({first_names(shared)}): the test score is not about unseen scenes"
        )


@cache
def _say_once(line: str) -> None:
    """Warn, once in a process: its stages read the same lists."""
    log.warning(line)


def hold_out(
    videos: Sequence[Listed], path: Path, share: float
) -> tuple[list[Listed], list[Listed]]:
    """Split off whole groups until about ``share`` of every class is held out.

    The order of the groups comes from a hash of their names: the same videos are held out whatever
    the seed of a run. A class never gives more than half of its videos; one that consists of a
    single group gives none.

    Args:
        videos: The official training list.
        path: The list, for messages.
        share: Of each class, above 0 and up to 0.5.

    Returns:
        The videos to train on and those held out, in the order of the list.

    Raises:
        ValueError: Groups are not known, or no group can be spared.
    """
    unknown = [video.name for video in videos if video.group is None]
    if unknown:
        raise ValueError(
            f"{path}: {first_names(unknown)}: expected names that tell the group, such as "
            "v_Class_g01_c01, to hold groups out; data.val_share=0 validates on the test list"
        )
    held = _held_groups(videos, share)
    if not held:
        raise ValueError(
            f"{path}: no class has a group to spare for validation; data.val_share=0 validates "
            "on the test list"
        )
    kept = [video for video in videos if video.group not in held]
    return kept, [video for video in videos if video.group in held]


def _held_groups(videos: Sequence[Listed], share: float) -> set[str]:
    groups: dict[str, Counter[int]] = {}
    for video in videos:
        groups.setdefault(str(video.group), Counter())[video.action] += 1
    total = Counter(video.action for video in videos)
    order = sorted(groups, key=lambda group: hashlib.sha256(group.encode()).digest())
    chosen: set[str] = set()
    held: Counter[int] = Counter()
    # A film may serve many classes: first those that no class gives too much of, then any.
    for most, enough in ((1.5 * share, share), (0.5, 0.0)):
        for action in sorted(total):
            for group in order:
                if held[action] > 0 and held[action] >= enough * total[action]:
                    break
                counts = groups[group]
                if action not in counts or group in chosen:
                    continue
                if all(held[a] + n <= most * total[a] for a, n in counts.items()):
                    chosen.add(group)
                    held += counts
    return chosen
