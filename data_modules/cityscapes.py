"""Cityscapes: pairs that end on the labelled 20th frame, and the snippets up to it in order."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_modules.cityscapes_labels import CLASSES, LabelMap, read_label_map
from data_modules.cityscapes_layout import (
    BEFORE,
    SEQUENCE,
    CityscapesLayout,
    Snippet,
    labelled_snippets,
)
from data_modules.resize import Frames
from data_modules.sampling import mixed_order
from data_modules.segmentation_clips import (
    LabelledVideos,
    Sample,
    TrainClips,
    VideoStreams,
    collate_segmentation,
)
from data_modules.synthetic.cityscapes_writer import embedded_settings, write_cityscapes
from data_modules.video import open_video
from data_modules.video.folder_source import read_picture
from data_modules.video_data import ClipLoader, OpenVideos, VideoDataModule, read_clip
from flowfeat.batches import VideoSource


class CitySnippets(LabelledVideos):
    """Frames and label maps of snippets, as they lie on disk."""

    def __init__(self, snippets: Sequence[Snippet], reader: str) -> None:
        self.snippets = list(snippets)
        self.videos = OpenVideos(partial(open_video, reader=reader))

    def name(self, video: int) -> str:
        return self.snippets[video].name

    def length(self, video: int) -> int:
        snippet = self.snippets[video]
        return len(snippet.pictures) or len(self._open(snippet)) - snippet.offset

    def read(self, video: int, indices: Sequence[int]) -> Frames:
        snippet = self.snippets[video]
        if not snippet.pictures:
            return read_clip(self._open(snippet), [snippet.offset + index for index in indices])
        found = {index: read_picture(snippet.images / snippet.pictures[index]) for index in indices}
        shapes = {picture.shape[:2] for picture in found.values()}
        if len(shapes) > 1:
            raise ValueError(
                f"{snippet.images}: pictures of {snippet.name} differ in size: {sorted(shapes)}"
            )
        return np.stack([found[index] for index in indices])

    def _open(self, snippet: Snippet) -> VideoSource:
        """Return the video of a snippet; ValueError where it ends before the labelled frame."""
        source = self.videos(snippet.images)
        place = snippet.offset + snippet.labelled
        if len(source) <= place:
            raise ValueError(
                f"{snippet.images}: {len(source)} frames: expected at least {place + 1}, because "
                f"frame {place} is the labelled one of {snippet.name}"
            )
        return source

    def labelled(self, video: int) -> Sequence[int]:
        return (self.snippets[video].labelled,)

    def label_map(self, video: int, frame: int, size: tuple[int, int]) -> LabelMap:
        return read_label_map(self.snippets[video].label, size)


class Cityscapes(VideoDataModule):
    """Cityscapes in its official layout, or the embedded set in the same layout.

    Only the 20th frame of a snippet is labelled. Training clips end there; validation streams each
    snippet from its first frame up to it. Of ``leftImg8bit`` a snippet is the picture itself.

    Args:
        root: The folder with ``gtFine``; None: the embedded set, written when it is needed.
        images: ``leftImg8bit_sequence`` or ``leftImg8bit``, the package that holds the pictures.
        train_split: Split to train on.
        val_split: Split to validate and test on.
        before: Frames of a snippet before its labelled one, 0 .. 19.
        val_limit: Stream the first snippets only; None: all.
        reader: Of ``open_video``.
        synthetic_root: Where the embedded set lies.
        synthetic: Its settings, see ``synthetic.cityscapes_writer.CityscapesSettings``.
        options: Those of ``VideoDataModule``.
    """

    classes = CLASSES

    def __init__(
        self,
        root: str | Path | None = None,
        images: str = SEQUENCE,
        train_split: str = "train",
        val_split: str = "val",
        before: int = BEFORE,
        val_limit: int | None = None,
        reader: str = "auto",
        synthetic_root: str | Path = "data/synthetic/cityscapes",
        synthetic: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if not 0 <= before <= BEFORE:
            raise ValueError(f"data.before={before}: expected 0 .. {BEFORE}")
        if val_limit is not None and val_limit < 1:
            raise ValueError(f"data.val_limit={val_limit}: expected 1 or more, or null for all")
        self.embedded = root is None
        place = Path(synthetic_root if root is None else root).expanduser()
        self.layout = CityscapesLayout(place, images)
        self.splits = {"train": train_split, "val": val_split}
        self.before, self.val_limit = before, val_limit
        self.reader = reader
        self.synthetic = embedded_settings(synthetic)
        self.snippets: dict[str, list[Snippet]] = {}

    def prepare_data(self) -> None:
        """Write the embedded set, unless it is there or a root was given."""
        if self.embedded:
            write_cityscapes(self.layout.root, self.synthetic)

    def setup(self, stage: str) -> None:
        """Find the labelled frames and the frames before them.

        Raises:
            FileNotFoundError: The root, a split, pictures or predecessors are missing.
        """
        if stage == "predict":
            return
        self.layout.check()
        for use in ("train", "val") if stage == "fit" else ("val",):
            if use not in self.snippets:
                found = labelled_snippets(self.layout, self.splits[use], self.before, self.skips)
                self.snippets[use] = found[: self.val_limit] if use == "val" else found

    def train_dataloader(self) -> ClipLoader:
        """Return training clips: every labelled frame once per epoch."""
        snippets = self.snippets["train"]
        clips = TrainClips(
            videos=CitySnippets(snippets, self.reader),
            samples=[Sample(number, s.labelled) for number, s in enumerate(snippets)],
            clip=self.clip,
            resize=self.resize,
            augment=self.augment,
            seed=self.seed,
        )
        order = partial(_order, self.seed, len(snippets))
        return self.clip_loader(clips, order, collate_segmentation)

    def val_dataloader(self) -> ClipLoader:
        """Return this rank's snippets up to their labelled frames, ``stream_chunk`` at a time."""
        snippets = self.snippets["val"]
        streams = VideoStreams(CitySnippets(snippets, self.reader), self.resize, self.seed)
        lengths = [snippet.labelled + 1 for snippet in snippets]
        return self.stream_loader(streams, lengths, collate_segmentation)


def _order(seed: int, samples: int, epoch: int) -> NDArray[np.int64]:
    return mixed_order(seed, epoch, samples)
