"""Where Vimeo-90K keeps its septuplets, and which of them the official lists name."""

import re
from dataclasses import dataclass
from pathlib import Path

from data_modules.clean_clips import CleanClip
from data_modules.missing import contents, report_missing
from data_modules.text_lines import read_lines

FRAMES = tuple(f"im{number}.png" for number in range(1, 8))
SCORED = 3
"""The frame that is scored: ``im4.png``."""

_NAME = re.compile(r"\d+/\d+")


@dataclass(frozen=True)
class Septuplets:
    """The folder with ``sequences/00001/0001/im1.png .. im7.png`` and the lists.

    A list has one ``00001/0001`` per line; blank lines are skipped. Folders that no list names are
    ignored: the data set has 91,701, the lists 72,436.
    """

    root: Path

    def check(self) -> None:
        """Raise FileNotFoundError unless the root looks like Vimeo-90K."""
        if not (self.root / "sequences").is_dir():
            raise FileNotFoundError(
                f"{self.root}: expected sequences inside, found {contents(self.root)}"
            )

    def names(self, file: str) -> list[str]:
        """Return the septuplets that a list names, each once, in its order.

        Raises:
            FileNotFoundError: No such list.
            ValueError: A line that names no septuplet, or none at all.
        """
        path = self.root / file
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such list, found {contents(self.root)}")
        names: dict[str, None] = {}
        for number, line in enumerate(read_lines(path), start=1):
            if not line.strip():
                continue
            if not _NAME.fullmatch(line.strip()):
                raise ValueError(f"{path}: line {number}: expected 00001/0001, found {line!r}")
            names[line.strip()] = None
        if not names:
            raise ValueError(f"{path}: an empty list: expected lines like 00001/0001")
        return list(names)

    def clips(self, file: str, allow_missing: bool) -> list[CleanClip]:
        """Return the septuplets of a list.

        Whether a septuplet is whole is seen when it is read: looking for half a million files at
        every start would take minutes on shared storage.

        Raises:
            FileNotFoundError: The list or septuplets are missing.
            ValueError: See ``names``.
        """
        self.check()
        names = self.names(file)
        sequences = self.root / "sequences"
        there = {
            f"{folder}/{entry.name}"
            for folder in {name.partition("/")[0] for name in names}
            if (sequences / folder).is_dir()
            for entry in (sequences / folder).iterdir()
        }
        missing = [name for name in names if name not in there]
        found = [CleanClip(name, sequences / name, FRAMES) for name in names if name in there]
        report_missing(
            self.root / file,
            sequences,
            "septuplets",
            missing,
            len(names),
            len(found),
            allow_missing,
        )
        return found
