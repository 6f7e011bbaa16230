"""Any videos with masks for some of their frames, trained and tested on ranges of their frames."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from data_modules.missing import first_names
from data_modules.resize import Frames
from data_modules.sampling import mixed_order
from data_modules.segmentation_clips import (
    LabelledVideos,
    LabelMap,
    Sample,
    TrainClips,
    VideoStreams,
    collate_segmentation,
)
from data_modules.video import open_video
from data_modules.video_data import ClipLoader, OpenVideos, VideoDataModule, read_clip
from data_modules.video_masks_layout import MaskedVideo, VideoMasksLayout, read_mask
from flowfeat.heads.segmentation import IGNORED

BINARY = ("background", "object")

Range = Sequence[int | None]
"""First frame and end (not itself in it) of a part of a video; null for its own ends."""


class Part(NamedTuple):
    """Consecutive frames of a video, which are numbered from 0 in batches."""

    video: MaskedVideo
    first: int
    end: int

    @property
    def name(self) -> str:
        """The name of the video, with the range unless it is all of it."""
        whole = (self.first, self.end) == (0, self.video.length)
        return self.video.name if whole else f"{self.video.name}[{self.first}:{self.end}]"

    @property
    def labelled(self) -> list[int]:
        """Frames that have a mask, counted from the first of the part."""
        return [n - self.first for n in self.video.masks if self.first <= n < self.end]


class MaskedParts(LabelledVideos):
    """Parts of videos, as they lie on disk."""

    def __init__(
        self, parts: Sequence[Part], reader: str, classes: int | None, void: int | None
    ) -> None:
        self.parts = list(parts)
        self.videos = OpenVideos(partial(open_video, reader=reader))
        self.classes, self.void = classes, void

    def name(self, video: int) -> str:
        return self.parts[video].name

    def length(self, video: int) -> int:
        return self.parts[video].end - self.parts[video].first

    def read(self, video: int, indices: Sequence[int]) -> Frames:
        part = self.parts[video]
        return read_clip(self.videos(part.video.path), [part.first + index for index in indices])

    def labelled(self, video: int) -> Sequence[int]:
        return self.parts[video].labelled

    def label_map(self, video: int, frame: int, size: tuple[int, int]) -> LabelMap:
        part = self.parts[video]
        return read_mask(part.video.masks[part.first + frame], size, self.classes, self.void)


class VideoMasks(VideoDataModule):
    """Videos with masks for any of their frames, in the layout of ``VideoMasksLayout``.

    Training clips end on frames with a mask and stay inside the training range; validation and
    test stream the test range. Both ranges hold for every video of theirs, in frames from 0 on,
    the end not in it.

    Args:
        root: The folder with ``frames`` and ``masks``.
        frames: The folder of videos, or the only video, below the root.
        masks: The folder with a folder of PNGs for each video, or that of the only one.
        classes: Names of the mask values 0, 1, ...; None: 0 is background, all others are object.
        void: Mask value that is ignored (255 in many datasets); None: there is none.
        train_videos: Names of the videos to train on; None: all.
        test_videos: Names of the videos to validate and test on; None: all.
        train_frames: Their range, such as [0, 40]; None: all frames; [40, null]: to the end.
        test_frames: The range of the test videos.
        first_number: Number of the first frame of a video file, in the names of its masks.
        reader: Of ``open_video``.
        options: Those of ``VideoDataModule``.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        frames: str = VideoMasksLayout.frames,
        masks: str = VideoMasksLayout.masks,
        classes: Sequence[str] | None = None,
        void: int | None = None,
        train_videos: Sequence[str] | None = None,
        test_videos: Sequence[str] | None = None,
        train_frames: Range | None = None,
        test_frames: Range | None = None,
        first_number: int = 0,
        reader: str = "auto",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if root is None:
            raise ValueError("data.root: data=video_masks has no embedded set, expected a folder")
        if classes is not None and not 2 <= len(set(classes)) == len(classes) <= IGNORED:
            raise ValueError(f"data.classes={list(classes)}: expected 2 .. {IGNORED} names")
        if void is not None and not 0 < void <= 255:
            raise ValueError(f"data.void={void}: expected 1 .. 255, or null")
        self.reader = reader
        self.layout = VideoMasksLayout(Path(root).expanduser(), frames, masks, first_number, reader)
        self.classes = BINARY if classes is None else tuple(classes)
        self.values = None if classes is None else len(classes)
        self.void = void
        self.chosen = {"train": train_videos, "test": test_videos}
        self.ranges = {
            use: _checked(found, f"data.{use}_frames")
            for use, found in (("train", train_frames), ("test", test_frames))
        }
        self.parts: dict[str, list[Part]] = {}

    def setup(self, stage: str) -> None:
        """Find the videos, their masks, and the parts to train and to test on.

        Raises:
            FileNotFoundError: The folders, all masks, or the frames of some are missing.
            ValueError: Unknown videos, a range outside a video or without a mask, or frames that
                would be both trained and tested on.
        """
        if stage == "predict" or "train" in self.parts or (self.parts and stage != "fit"):
            return
        videos = self.layout.videos(self.skips)
        uses = ("train", "test") if stage == "fit" else ("test",)
        parts = {use: self._parts(use, videos) for use in uses}
        for one in parts.get("train", ()):
            for other in parts["test"]:
                both = max(one.first, other.first), min(one.end, other.end)
                if one.video == other.video and both[0] < both[1]:
                    raise ValueError(
                        f"data.train_frames, data.test_frames: {one.video.name} would be trained "
                        f"and tested on frames {both[0]} .. {both[1] - 1}, expected ranges apart "
                        "(or other videos: data.train_videos, data.test_videos)"
                    )
        self.parts = parts

    def _parts(self, use: str, videos: Sequence[MaskedVideo]) -> list[Part]:
        """Return the parts of the chosen videos that have a mask."""
        known = {video.name: video for video in videos}
        wanted = self.chosen[use]
        strange = [name for name in wanted or () if name not in known]
        if strange:
            raise ValueError(
                f"data.{use}_videos: no video {strange[0]} with masks in {self.layout.root}, "
                f"expected some of {first_names(list(known))}"
            )
        first, end = self.ranges[use]
        parts = []
        for video in videos if wanted is None else [known[name] for name in wanted]:
            if max(first + 1, end or 0) > video.length:
                raise ValueError(
                    f"data.{use}_frames={[first, end]}: outside of {video.path}, which has frames "
                    f"0 .. {video.length - 1}"
                )
            parts.append(Part(video, first, video.length if end is None else end))
        labelled = [part for part in parts if part.labelled]
        if not labelled:
            raise ValueError(
                f"data.{use}_frames={[first, end]}: none of these frames of "
                f"{first_names([part.video.name for part in parts])} has a mask in "
                f"{self.layout.root / self.layout.masks}"
            )
        return labelled

    def _videos(self, use: str) -> MaskedParts:
        return MaskedParts(self.parts[use], self.layout.reader, self.values, self.void)

    def train_dataloader(self) -> ClipLoader:
        """Return training clips: every frame with a mask once per epoch."""
        samples = [
            Sample(number, frame)
            for number, part in enumerate(self.parts["train"])
            for frame in part.labelled
        ]
        clips = TrainClips(
            videos=self._videos("train"),
            samples=samples,
            clip=self.clip,
            resize=self.resize,
            augment=self.augment,
            seed=self.seed,
        )
        return self.clip_loader(
            clips, partial(mixed_order, self.seed, labelled=len(samples)), collate_segmentation
        )

    def val_dataloader(self) -> ClipLoader:
        """Return this rank's test parts in order, ``stream_chunk`` frames at a time."""
        videos = self._videos("test")
        streams = VideoStreams(videos, self.resize, self.seed)
        lengths = [videos.length(number) for number in range(len(videos.parts))]
        return self.stream_loader(streams, lengths, collate_segmentation)


def _checked(found: Range | None, key: str) -> tuple[int, int | None]:
    """Return the first frame and the end of a range.

    Raises:
        ValueError: It is none.
    """
    if found is None:
        return 0, None
    first, end = found if len(found) == 2 else (-1, None)
    first = 0 if first is None else first
    if first < 0 or (end is not None and end <= first):
        raise ValueError(
            f"{key}={list(found)}: expected [first, end] with 0 <= first < end, null for an end"
        )
    return first, end
