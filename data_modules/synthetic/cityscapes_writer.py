"""Write the embedded segmentation set in the layout and file formats of Cityscapes."""

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from data_modules.cityscapes_labels import LABEL_IDS
from data_modules.cityscapes_layout import AFTER, BEFORE, SEQUENCE, STILLS
from data_modules.options import check_synthetic
from data_modules.synthetic.scenes import (
    GENERATOR_VERSION,
    Picture,
    Scene,
    SceneSettings,
    scene_settings,
)
from data_modules.synthetic.write_once import write_once
from flowfeat.video_writer import VideoWriter

WRITER_VERSION = 1
"""Counts changes of the layout; part of the settings' hash."""

REGIONS = ("sky", "building", "vegetation", "road")
"""Names of the scenes' background regions, from top to bottom."""

THINGS = ("car", "person", "bicycle", "bus", "rider", "motorcycle", "truck", "traffic sign")
"""Names that the scenes' classes of objects go by."""

BORDER_ID = 3  # "out of roi": the real label maps have such a border, which is ignored
BORDER = 2  # pixels

_THREADS = 8
_LENGTH = BEFORE + 1 + AFTER
_TRAIN, _VAL = 20, 21  # different seeds, which no other writer uses
_LONG = 275  # frame number at which the first snippet of the validation city begins

CITY = SceneSettings(
    size=(128, 256),
    classes=3,
    regions=4,
    objects=(2, 5),
    object_size=(0.28, 0.55),
    travel=(0.3, 1.6),
    pan=(0.01, 0.03),
    length=_LENGTH,
)
"""Scenes in which copying over four frames hurts."""


@dataclass(frozen=True)
class CityscapesSettings:
    """What the embedded Cityscapes set holds; each snippet has 30 frames, the 20th is labelled.

    Raises:
        ValueError: A number is outside its range.
    """

    scene: SceneSettings = CITY
    train_snippets: int = 200
    val_snippets: int = 20
    storage: Literal["mp4", "png"] = "mp4"  # one H.264 file per snippet, or PNG files
    stills: bool = True  # also ``leftImg8bit``, the labelled frames alone
    crf: int = 18  # of H.264; lower is better
    gop: int = 5  # H.264 pictures from one random access point to the next
    fps: int = 17
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("train_snippets", "val_snippets", "gop", "fps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, found {getattr(self, name)}")
        if self.seed < 0:
            raise ValueError(f"seed: expected >= 0, found {self.seed}")
        if self.storage not in ("mp4", "png"):
            raise ValueError(f"storage: expected mp4 or png, found {self.storage}")
        if self.scene.classes > len(THINGS):
            raise ValueError(
                f"scene.classes: expected 1..{len(THINGS)}, found {self.scene.classes}"
            )
        if self.storage == "mp4" and any(side % 2 for side in self.scene.size):
            raise ValueError(f"scene.size: H.264 wants even sides, found {self.scene.size}")


def embedded_settings(settings: Mapping[str, Any] | None) -> CityscapesSettings:
    """Build the settings from a config's values; ValueError names the choices for a key."""
    values = dict(settings or {})
    check_synthetic(CityscapesSettings, values)
    scene = values.pop("scene", None) or {}
    return CityscapesSettings(scene=scene_settings(scene, CITY), **values)


def write_cityscapes(root: Path, settings: CityscapesSettings) -> bool:
    """Write the set into ``root`` unless these settings made it already.

    Layout: ``leftImg8bit_sequence/{train,val}/<city>/<city>_<sequence>_<first frame>.mp4`` (or its
    30 PNGs), ``leftImg8bit`` with the labelled frames, ``gtFine`` with their labelIds. The training
    city has one sequence per snippet; the validation city has a single long one, so that labelled
    frames are not number 000019.

    Args:
        root: What ``DATA_ROOT`` would be.
        settings: Number and kind of the snippets.

    Returns:
        Whether it was written now (else it was there).

    Raises:
        ValueError: ``root`` holds other files.
    """
    parts: dict[str, Any] = {
        "dataset": "cityscapes",
        "versions": [GENERATOR_VERSION, WRITER_VERSION],
        "cityscapes": asdict(settings),
    }
    return write_once(Path(root), parts, lambda folder: _write(folder, settings))


@dataclass(frozen=True)
class _Place:
    """Where a snippet goes."""

    root: Path
    split: str
    city: str
    sequence: int
    first: int

    def file(self, package: str, frame: int, ending: str) -> Path:
        name = f"{self.city}_{self.sequence:06}_{frame:06}{ending}"
        path = self.root / package / self.split / self.city / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def _write(root: Path, settings: CityscapesSettings) -> None:
    places = [
        ((settings.seed, _TRAIN, number), _Place(root, "train", "aurelia", number, 0))
        for number in range(settings.train_snippets)
    ] + [
        ((settings.seed, _VAL, number), _Place(root, "val", "florin", 0, first))
        for number, first in enumerate(
            range(_LONG, _LONG + 2 * _LENGTH * settings.val_snippets, 2 * _LENGTH)
        )
    ]
    # Snippets are independent, and drawing and encoding leave Python's lock to other threads.
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        for _ in pool.map(lambda item: _write_snippet(item[1], item[0], settings), places):
            pass


def _write_snippet(place: _Place, seed: tuple[int, int, int], settings: CityscapesSettings) -> None:
    scene = Scene(seed, settings.scene)
    labelled = place.first + BEFORE

    def pictures() -> Iterator[NDArray[np.uint8]]:
        for t in range(_LENGTH):
            picture = scene.render(t)
            if t == BEFORE:
                path = place.file("gtFine", labelled, "_gtFine_labelIds.png")
                _write_png(path, label_ids(picture))
                if settings.stills:
                    path = place.file(STILLS, labelled, "_leftImg8bit.png")
                    _write_png(path, picture.image[..., ::-1])
            yield picture.image

    if settings.storage == "mp4":
        path = place.file(SEQUENCE, place.first, ".mp4")
        fps, crf, gop = settings.fps, settings.crf, settings.gop
        with VideoWriter(path, fps, settings.scene.size, crf=crf, gop=gop, threads=1) as video:
            for image in pictures():
                video.write(image)
    else:
        for frame, image in enumerate(pictures(), start=place.first):
            _write_png(place.file(SEQUENCE, frame, "_leftImg8bit.png"), image[..., ::-1])


def label_ids(picture: Picture) -> NDArray[np.uint8]:
    """Return the labelIds (H, W) of a rendered picture."""
    table = np.array([LABEL_IDS[name] for name in REGIONS], np.uint8)
    if picture.regions.max() == 0:
        table[:] = LABEL_IDS["road"]  # a scene of one region is all ground
    ids = table[picture.regions]
    for number, kind in zip(picture.numbers, picture.classes, strict=True):
        ids[picture.instances == number] = LABEL_IDS[THINGS[kind]]
    height, width = ids.shape
    inside = np.zeros_like(ids, bool)
    inside[BORDER : height - BORDER, BORDER : width - BORDER] = True
    return np.where(inside, ids, np.uint8(BORDER_ID))


def _write_png(path: Path, image: NDArray[np.uint8]) -> None:
    done, data = cv2.imencode(".png", image)
    if not done:
        raise OSError(f"{path}: PNG encoding failed")
    path.write_bytes(data.tobytes())
