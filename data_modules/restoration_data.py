"""What data modules of artifact removal share: the degraded tree, windows around targets."""

import re
import shlex
from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_modules.clean_clips import CleanClip
from data_modules.degrade_codecs import Degradation
from data_modules.degrade_manifest import Recipe, check_tree
from data_modules.degrade_tree import degrade_clips, summary
from data_modules.pictures import SUFFIXES, PictureSource
from data_modules.restoration_clips import (
    Pairs,
    TrainClips,
    Window,
    WindowStreams,
    collate_restoration,
)
from data_modules.sampling import mixed_order
from data_modules.synthetic.write_once import read_stamp
from data_modules.video import open_video
from data_modules.video_data import ClipLoader, VideoDataModule
from flowfeat.batches import VideoSource


class RestorationData(VideoDataModule):
    """Degraded frames in, clean frames as the truth, at the pixels' own resolution.

    Args:
        root: The clean frames; None: the embedded set, where there is one.
        codec: ``jpeg2000``, ``h264`` or ``h265``.
        quality: FFmpeg's q for JPEG 2000 (the paper: 20 and 40), the CRF for the others.
        degraded: Folder of the degraded trees; None: beside the root, ``<root>_degraded``.
        context: Frames on both sides of a target that evaluation streams.
        val_limit: Evaluate on the first windows only; None: all.
        reader: Of ``open_video``.
        synthetic_root: Where the embedded set lies.
        options: Those of ``VideoDataModule``, but for sizes: nothing is resized.

    Raises:
        ValueError: A wrong value.
    """

    classes = ()
    leaf: str
    """Name of the config in ``configs/data``."""

    def __init__(
        self,
        root: str | Path | None = None,
        codec: str = "jpeg2000",
        quality: int = 20,
        degraded: str | Path | None = None,
        context: int = 1,
        val_limit: int | None = None,
        reader: str = "auto",
        synthetic_root: str | Path | None = None,
        **options: Any,
    ) -> None:
        for name in ("short_side", "long_side"):
            if options.get(name) is not None:
                raise ValueError(f"data.{name}: restoration keeps the pixels, expected null")
        super().__init__(**options)
        if context < 0:
            raise ValueError(f"data.context={context}: expected 0 or more")
        if val_limit is not None and val_limit < 1:
            raise ValueError(f"data.val_limit={val_limit}: expected 1 or more, or null for all")
        self.embedded = root is None
        place = root if root is not None else synthetic_root
        self.given_root = None if place is None else Path(place).expanduser()
        self.degradation = Degradation(codec, quality)
        self.given_degraded = None if degraded is None else Path(degraded).expanduser()
        self.context, self.val_limit, self.reader = context, val_limit, reader
        self.windows: dict[str, list[Window]] = {}

    @abstractmethod
    def clean_clips(self, use: str) -> list[CleanClip]:
        """Return the clips of a use, ``train`` or ``val``.

        Raises:
            FileNotFoundError, ValueError: Lists or clips are missing or wrong.
        """

    @abstractmethod
    def targets(self, length: int) -> Sequence[int]:
        """Return the frames to restore of a clip of ``length`` frames."""

    @abstractmethod
    def write_embedded(self) -> None:
        """Write the embedded set unless it is there; ValueError where there is none."""

    @abstractmethod
    def own_options(self) -> dict[str, Any]:
        """Return the options, apart from those here, that say which clips there are."""

    @property
    def root(self) -> Path:
        """Where the clean frames are; ValueError where nobody said it."""
        if self.given_root is None:
            raise ValueError(f"data.root: data={self.leaf} has no embedded set, expected a folder")
        return self.given_root

    @property
    def tree(self) -> Path:
        """Where the degraded frames are."""
        root = self.root.absolute()
        place = self.given_degraded or root.with_name(f"{root.name}_degraded")
        return place / self.degradation.name

    def prepare_data(self) -> None:
        """Write and degrade the embedded set, unless it is there or a root was given."""
        if self.embedded:
            self.degrade()

    def degrade(self, workers: int | None = None) -> str:
        """Make the degraded frames of all clips; return a line about them.

        Raises:
            FileNotFoundError, ValueError, OSError: See ``degrade_clips``.
        """
        if self.embedded:
            self.write_embedded()
        clips = {clip.name: clip for use in ("train", "val") for clip in self.clean_clips(use)}
        done = degrade_clips(
            list(clips.values()),
            self.tree,
            self.degradation,
            read_stamp(self.root),
            self.reader,
            workers,
            replace=self.embedded,
        )
        return summary(self.tree, self.degradation, done)

    def setup(self, stage: str) -> None:
        """Find the clips and see that their degraded frames are those that are wanted.

        Raises:
            FileNotFoundError: Clips or degraded frames are missing; the line says how to make them.
            ValueError: The degraded frames were made by other settings or another encoder.
        """
        if stage == "predict":
            return
        wanted = [use for use in ("train", "val") if use == "val" or stage == "fit"]
        wanted = [use for use in wanted if use not in self.windows]
        clips = {use: self.clean_clips(use) for use in wanted}
        names = [clip.name for found in clips.values() for clip in found]
        recipe = Recipe.of(self.degradation, read_stamp(self.root))
        lengths = check_tree(self.tree, recipe, names, self.command)
        for use, found in clips.items():
            windows = [
                Window(clip, lengths[clip.name], target)
                for clip in found
                for target in self.targets(lengths[clip.name])
            ]
            self.windows[use] = windows[: self.val_limit] if use == "val" else windows

    @property
    def command(self) -> str:
        """The command that makes the degraded tree."""
        given: dict[str, Any] = {"root": None if self.embedded else self.root}
        given |= {"codec": self.degradation.codec, "quality": self.degradation.quality}
        given |= {"degraded": self.given_degraded, **self.own_options()}
        given |= {"on_error": "skip"} if self.skips else {}
        words = [_word(f"data.{k}", v) for k, v in given.items() if v is not None]
        return " ".join(["flowfeat-degrade", f"data={self.leaf}", *words])

    def train_dataloader(self) -> ClipLoader:
        """Return training clips: every target once per epoch."""
        windows = self.windows["train"]
        pairs = Pairs(self.tree, self.reader, self.command)
        clips = TrainClips(pairs, windows, self.clip, self.augment, self.seed)
        order = partial(_order, self.seed, len(windows))
        return self.clip_loader(clips, order, collate_restoration)

    def val_dataloader(self) -> ClipLoader:
        """Return this rank's windows, each a short video of which the target alone is scored."""
        windows = self.windows["val"]
        streams = WindowStreams(
            Pairs(self.tree, self.reader, self.command), windows, self.context, self.seed
        )
        lengths = [len(window.around(self.context)) for window in windows]
        return self.stream_loader(streams, lengths, collate_restoration)

    def open(self, path: str | Path) -> VideoSource:
        """Open a video, a folder of pictures or a single picture, at its own resolution."""
        path = Path(path)
        if path.is_dir() or path.suffix.lower() in SUFFIXES:
            if not path.exists():
                raise FileNotFoundError(f"{path}: no such picture")
            return PictureSource(path)
        return open_video(path, self.reader)


def _order(seed: int, samples: int, epoch: int) -> NDArray[np.int64]:
    return mixed_order(seed, epoch, samples)


def _word(key: str, value: Any) -> str:
    """Write an override for a shell; what is more than a plain word is quoted for Hydra, too."""
    text = _hydra(value)
    word = f"{key}={text}"
    if text == str(value):
        return word
    return shlex.quote(word) if re.search(r'["$`\\!]', word) else f'"{word}"'


def _hydra(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{','.join(_hydra(item) for item in value)}]"
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    if re.fullmatch(r"[\w./:-]+", text):
        return text
    escaped = text.replace("'", "\\'")
    return f"'{escaped}'"
