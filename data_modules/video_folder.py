"""Any folder of clean videos for artifact removal, split by video, cut into windows."""

import hashlib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from data_modules.clean_clips import CleanClip
from data_modules.missing import contents
from data_modules.pictures import picture_names
from data_modules.restoration_data import RestorationData

VIDEOS = frozenset(
    (
        *(".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg"),
        *(".ts", ".m2ts", ".wmv", ".flv", ".y4m", ".ogv", ".3gp"),
    )
)
"""Endings of files that are taken for videos; others are taken where a pattern names them."""

ALL = "**/*"


class VideoFolder(RestorationData):
    """Clean videos and folders of pictures, of any sizes, somewhere below a root.

    Every video is compressed whole, so that codecs with prediction between frames do what they do
    in real videos. Whole videos go to training or to the test: those that ``test`` names, or else
    a share of them, the first by the hash of their names.

    Args:
        root: The folder; there is no embedded set.
        videos: Patterns below the root (``video/*.mp4``): files, or folders of pictures.
        exclude: Patterns of names to leave out.
        test: Patterns of names to test on; None: by ``test_share``.
        test_share: Share of the videos to test on, above 0 and below 1; at least one.
        stride: Frames from target to target; the first is in the middle of the first stretch.
        options: Those of ``RestorationData``.
    """

    leaf = "video_folder"

    def __init__(
        self,
        root: str | Path | None = None,
        videos: Sequence[str] = (ALL,),
        exclude: Sequence[str] = (),
        test: Sequence[str] | None = None,
        test_share: float = 0.2,
        stride: int = 7,
        **options: Any,
    ) -> None:
        super().__init__(root=root, **options)
        if not 0 < test_share < 1:
            raise ValueError(f"data.test_share={test_share}: expected above 0 and below 1")
        if stride < 1:
            raise ValueError(f"data.stride={stride}: expected 1 or more")
        for pattern in videos:
            if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
                raise ValueError(f"data.videos: {pattern}: expected a pattern below data.root")
        self.videos, self.exclude = tuple(videos), tuple(exclude)
        self.test, self.test_share = None if test is None else tuple(test), test_share
        self.stride = stride

    def write_embedded(self) -> None:
        raise ValueError("data.root: data=video_folder has no embedded set, expected a folder")

    def clean_clips(self, use: str) -> list[CleanClip]:
        """Return the videos of a use, by name.

        Raises:
            FileNotFoundError: No such folder, or nothing that a pattern names.
            ValueError: Videos inside one another, or too few to split.
        """
        clips = self._all()
        tests = self._tests(list(clips))
        return [clip for name, clip in clips.items() if (name in tests) == (use == "val")]

    def targets(self, length: int) -> Sequence[int]:
        return range(min(self.stride // 2, length - 1), length, self.stride)

    def own_options(self) -> dict[str, Any]:
        given = {"videos": self.videos if self.videos != (ALL,) else (), "exclude": self.exclude}
        return {name: list(patterns) for name, patterns in given.items() if patterns}

    def _all(self) -> dict[str, CleanClip]:
        root = self.root
        if not root.is_dir():
            raise FileNotFoundError(f"{root}: no such folder of videos")
        clips: dict[str, CleanClip] = {}
        for pattern in self.videos:
            found = [clip for path in root.glob(pattern) if (clip := self._clip(path, pattern))]
            if not found:
                raise FileNotFoundError(
                    f"{root}: no video and no folder of pictures matches {pattern}, "
                    f"found {contents(root)}"
                )
            clips |= {clip.name: clip for clip in found if not _matches(clip.name, self.exclude)}
        for name in clips:
            inside = next((p for p in map(str, Path(name).parents) if p in clips), None)
            if inside is not None:
                raise ValueError(
                    f"{root}: {name} lies in {inside}: expected one of them (data.exclude)"
                )
        return dict(sorted(clips.items()))

    def _clip(self, path: Path, pattern: str) -> CleanClip | None:
        """Return the clip at a path; None where there is none."""
        name = path.relative_to(self.root).as_posix()
        if any(part.startswith(".") for part in Path(name).parts):
            return None
        if path.is_dir():
            pictures = picture_names(path)
            return CleanClip(name, path, pictures) if pictures else None
        named = path.is_file() and Path(pattern).suffix == path.suffix
        return CleanClip(name, path) if named or path.suffix.lower() in VIDEOS else None

    def _tests(self, names: Sequence[str]) -> set[str]:
        """Return the names of the test videos, which are neither none nor all."""
        if self.test is not None:
            tests = {name for name in names if _matches(name, self.test)}
            wish = f"data.test={list(self.test)}"
        else:
            by_hash = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
            tests = set(by_hash[: max(1, round(self.test_share * len(names)))])
            wish = f"data.test_share={self.test_share}"
        if not 0 < len(tests) < len(names):
            raise ValueError(
                f"{self.root}: {wish} makes {len(tests)} of {len(names)} videos tests: "
                "expected some for the test and some for training"
            )
        return tests


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
