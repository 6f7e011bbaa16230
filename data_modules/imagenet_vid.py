"""ImageNet VID (and DET stills): clips with boxes for training, whole snippets for validation."""

from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_modules.sampling import mixed_order
from data_modules.synthetic.scenes import scene_settings
from data_modules.synthetic.vid_writer import CLASSES, SCENE, VidSettings, write_imagenet_vid
from data_modules.vid_annotations import ClassMap, official_classes, read_class_map
from data_modules.vid_clips import Snippets, SnippetStreams, TrainClips, collate_detection
from data_modules.vid_layout import (
    Labelled,
    Snippet,
    VidLayout,
    labelled_frames,
    stills,
    whole_snippets,
)
from data_modules.video_data import ClipLoader, VideoDataModule
from flowfeat.argument_kinds import check_values


class ImageNetVid(VideoDataModule):
    """ImageNet VID in its official layout, or the embedded set in the same layout.

    Args:
        root: The folder ``ILSVRC2015``; None: the embedded set, written when it is needed.
        train_list: Name in ``ImageSets`` or path; labelled frames, or whole snippets.
        val_list: The same; the snippets that it names are streamed whole.
        det_list: DET stills to mix in; None: none.
        vid_det_ratio: Labelled video frames per still in an epoch (the paper: 2).
        val_limit: Stream the first snippets only; None: all.
        val_frames: Stream the first frames of each snippet only; None: all.
        reader: Of ``open_video``.
        synthetic_root: Where the embedded set lies.
        synthetic: Its settings, see ``synthetic.vid_writer.VidSettings``.
        options: Those of ``VideoDataModule``.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        train_list: str = "VID_train_15frames.txt",
        val_list: str = "VID_val_videos.txt",
        det_list: str | None = None,
        vid_det_ratio: float = 2.0,
        val_limit: int | None = None,
        val_frames: int | None = None,
        reader: str = "auto",
        synthetic_root: str | Path = "data/synthetic/imagenet_vid",
        synthetic: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if vid_det_ratio <= 0:
            raise ValueError(f"data.vid_det_ratio={vid_det_ratio}: expected more than 0")
        for name, value in (("val_limit", val_limit), ("val_frames", val_frames)):
            if value is not None and value < 1:
                raise ValueError(f"data.{name}={value}: expected 1 or more, or null for all")
        self.embedded = root is None
        self.layout = VidLayout(Path(synthetic_root if root is None else root).expanduser())
        self.train_list, self.val_list, self.det_list = train_list, val_list, det_list
        self.vid_det_ratio = vid_det_ratio
        self.val_limit, self.val_frames = val_limit, val_frames
        self.reader = reader
        self.synthetic = dict(synthetic or {})
        self.labelled: list[Labelled] = []
        self.stills: list[str] = []
        self.whole: list[Snippet] = []

    @property
    def class_map(self) -> ClassMap:
        """The root's own ``map_vid.txt`` where it has one, else the 30 official classes."""
        if self.embedded:
            return _embedded_classes(self.synthetic)
        path = self.layout.root / "map_vid.txt"
        return read_class_map(path) if path.is_file() else official_classes()

    @property
    def classes(self) -> tuple[str, ...]:  # type: ignore[override]  # read only
        """Readable names, by label."""
        return self.class_map.names

    @property
    def wnids(self) -> tuple[str, ...]:
        """WordNet ids, by label."""
        return self.class_map.wnids

    def prepare_data(self) -> None:
        """Write the embedded set, unless it is there or a root was given."""
        if self.embedded:
            write_imagenet_vid(self.layout.root, _embedded_settings(self.synthetic))

    def setup(self, stage: str) -> None:
        """Read the lists and find out which of their clips are there.

        Raises:
            FileNotFoundError: The root, a list, or listed clips are missing.
            ValueError: A list cannot be read.
        """
        if stage == "predict":
            return
        self.layout.check()
        if stage == "fit" and not self.labelled:
            self.labelled = labelled_frames(self.layout, self.train_list, self.skips)
            if self.det_list is not None:
                self.stills = stills(self.layout, self.det_list, self.skips)
        if not self.whole:
            whole = whole_snippets(self.layout, self.val_list, self.skips)
            self.whole = [
                Snippet(name, min(length, self.val_frames or length))
                for name, length in whole[: self.val_limit]
            ]

    def train_dataloader(self) -> ClipLoader:
        """Return training clips: every labelled frame once per epoch, and a share of stills."""
        clips = TrainClips(
            snippets=Snippets(self.layout, self.class_map, self.reader),
            labelled=self.labelled,
            stills=self.stills,
            clip=self.clip,
            resize=self.resize,
            augment=self.augment,
            seed=self.seed,
        )
        order = partial(_order, self.seed, len(self.labelled), len(self.stills), self.vid_det_ratio)
        videos = len(self.labelled)
        pools = (range(videos), range(videos, videos + len(self.stills)))
        return self.clip_loader(clips, order, collate_detection, pools)

    def val_dataloader(self) -> ClipLoader:
        """Return this rank's whole snippets in order, ``stream_chunk`` frames at a time."""
        snippets = Snippets(self.layout, self.class_map, self.reader)
        streams = SnippetStreams(snippets, self.whole, self.resize, self.seed)
        lengths = [snippet.length for snippet in self.whole]
        return self.stream_loader(streams, lengths, collate_detection)


def _order(seed: int, labelled: int, stills: int, ratio: float, epoch: int) -> NDArray[np.int64]:
    return mixed_order(seed, epoch, labelled, stills, ratio)


def _embedded_settings(settings: Mapping[str, Any]) -> VidSettings:
    """Build the writer's settings from plain values; ValueError names the choices for a key."""
    values = dict(settings)
    known = [field.name for field in fields(VidSettings)]
    for name in values:
        if name not in known:
            raise ValueError(
                f"data.synthetic: unknown key {name}: expected one of {', '.join(known)}"
            )
    check_values(VidSettings, values, "data.synthetic.")
    scene = scene_settings(values.pop("scene", None) or {}, SCENE)
    return VidSettings(scene=scene, **values)


def _embedded_classes(settings: Mapping[str, Any]) -> ClassMap:
    used = CLASSES[: _embedded_settings(settings).scene.classes]
    return ClassMap(tuple(word for word, _ in used), tuple(name for _, name in used))
