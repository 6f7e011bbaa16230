"""Write the embedded action set in the layout of HMDB-51: other names, one list per class."""

import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_modules.action_lists import SPLITS, Listed, read_ucf_lists
from data_modules.synthetic.actions_scenes import ACTIONS
from data_modules.synthetic.actions_writer import (
    LISTS,
    VIDEOS,
    WRITER_VERSION,
    ActionsSettings,
    write_ucf101,
)
from data_modules.synthetic.scenes import GENERATOR_VERSION
from data_modules.synthetic.write_once import write_once

HMDB_VIDEOS, HMDB_LISTS = "hmdb51", "testTrainMulti_7030_splits"

_VERSION = 1  # counts changes of the layout


def hmdb_class(name: str) -> str:
    """Turn ``DiscFastRight`` into ``disc_fast_right``."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


HMDB_ACTIONS = tuple(sorted(map(hmdb_class, ACTIONS)))
"""The classes in the order of their labels: by the alphabet."""


def write_hmdb51(root: Path, settings: ActionsSettings) -> bool:
    """Write the set into ``root`` unless these settings made it already.

    Layout: ``hmdb51/<class>/<film>_<class>_f_cm_np1_fr_goo_<n>.avi`` and
    ``testTrainMulti_7030_splits/<class>_test_split{1,2,3}.txt`` with lines that end in a blank.
    Films have names with brackets, as some have in the real set. Everything else is as in
    ``write_ucf101``: a group is a film.

    Returns:
        Whether it was written now (else it was there).

    Raises:
        ValueError: ``root`` holds other files.
    """
    parts: dict[str, Any] = {
        "dataset": "hmdb51",
        "versions": [GENERATOR_VERSION, WRITER_VERSION, _VERSION],
        "actions": asdict(settings),
    }
    return write_once(Path(root), parts, lambda folder: _write(folder, settings))


def _write(root: Path, settings: ActionsSettings) -> None:
    ucf = root / "ucf"
    write_ucf101(ucf, settings)
    (root / HMDB_LISTS).mkdir()
    for split in SPLITS:
        lists = read_ucf_lists(ucf / LISTS, split)
        lines: dict[str, list[str]] = {name: [] for name in HMDB_ACTIONS}
        for code, videos in ((1, lists.train), (2, lists.test)):
            for video in videos:
                name = hmdb_class(lists.classes[video.action])
                lines[name].append(f"{_file(video, name)} {code} \n")
        for name, found in lines.items():
            path = root / HMDB_LISTS / f"{name}_test_split{split}.txt"
            path.write_text("".join(sorted(found)))
    for video in (*lists.train, *lists.test):
        name = hmdb_class(lists.classes[video.action])
        place = root / HMDB_VIDEOS / name / _file(video, name)
        place.parent.mkdir(parents=True, exist_ok=True)
        (ucf / VIDEOS / f"{video.name}.avi").rename(place)
    shutil.rmtree(ucf)


def _file(video: Listed, name: str) -> str:
    number = video.name.rpartition("_c")[2]
    return f"Film_[{video.group}]!_{name}_f_cm_np1_fr_goo_{int(number)}.avi"
