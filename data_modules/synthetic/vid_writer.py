"""Write the embedded video detection set in the layout and file formats of ImageNet VID."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from data_modules.synthetic.scenes import GENERATOR_VERSION, Picture, Scene, SceneSettings
from data_modules.synthetic.shapes import NAMED
from data_modules.synthetic.write_once import write_once
from flowfeat.progress import tracked
from flowfeat.video_writer import VideoWriter

WRITER_VERSION = 2
"""Counts changes of the layout; part of the settings' hash."""

CLASSES = tuple((name.replace(" ", "_"), name) for name in NAMED)
"""Ids and names of the classes, in the order of ``map_vid.txt``."""

_TRAIN, _VAL, _STILL = 0, 1, 2  # different seeds
_LABELLED = 15  # labelled frames per snippet of VID_train_15frames.txt

SCENE = SceneSettings(
    classes=len(CLASSES),
    named=True,
    object_size=(0.26, 0.5),
    travel=(0.1, 0.55),
    background_colour=0.2,
)
"""What the snippets show."""


@dataclass(frozen=True)
class VidSettings:
    """What the embedded VID set holds.

    Raises:
        ValueError: A number is outside its range.
    """

    scene: SceneSettings = SCENE
    train_snippets: int = 96
    val_snippets: int = 20
    frames: int = 40  # per snippet
    stills: int = 96  # DET pictures
    storage: Literal["mp4", "jpeg"] = "mp4"  # one H.264 file per snippet, or a folder of JPEGs
    crf: int = 18  # of H.264; lower is better
    gop: int = 10  # H.264 pictures from one random access point to the next
    fps: int = 25
    seed: int = 0
    min_visible: float = 0.15  # objects of which less can be seen are not annotated
    min_side: int = 6  # pixels; nor those whose visible part is thinner

    def __post_init__(self) -> None:
        for name in ("train_snippets", "val_snippets", "frames", "gop", "fps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, found {getattr(self, name)}")
        if self.stills < 0 or self.seed < 0:
            raise ValueError(f"stills, seed: expected >= 0, found {self.stills}, {self.seed}")
        if self.storage not in ("mp4", "jpeg"):
            raise ValueError(f"storage: expected mp4 or jpeg, found {self.storage}")
        if not self.scene.named:
            raise ValueError("scene.named=false: expected true, for the classes have names")
        if self.storage == "mp4" and any(side % 2 for side in self.scene.size):
            raise ValueError(f"scene.size: H.264 wants even sides, found {self.scene.size}")


def write_imagenet_vid(root: Path, settings: VidSettings) -> bool:
    """Write the set into ``root`` unless these settings made it already.

    Layout: ``Data/VID/{train/ILSVRC2015_VID_train_0000,val}/<snippet>.mp4`` (or a folder of
    ``NNNNNN.JPEG``), ``Data/DET/train/ILSVRC2013_train/<class>/*.JPEG``, ``Annotations/`` with one
    XML per frame or still, ``ImageSets/`` with the lists that the papers' code uses, and
    ``map_vid.txt``. Boxes in the XMLs count pixels from 0 and include both ends.

    Args:
        root: What ``DATA_ROOT`` would be: the folder that plays ``ILSVRC2015``.
        settings: Number, length and kind of the snippets.

    Returns:
        Whether it was written now (else it was there).

    Raises:
        ValueError: ``root`` holds other files.
    """
    parts: dict[str, Any] = {
        "dataset": "imagenet_vid",
        "versions": [GENERATOR_VERSION, WRITER_VERSION],
        "vid": asdict(settings),
    }
    return write_once(Path(root), parts, lambda folder: _write(folder, settings))


def _write(root: Path, settings: VidSettings) -> None:
    frames, train_lines, val_lines = settings.frames, [], []
    labelled = sorted({int((n + 0.5) * frames / _LABELLED) for n in range(_LABELLED)})
    count = settings.train_snippets
    for number in tracked(range(count), "writing embedded data", count, "snippets"):
        snippet = f"train/ILSVRC2015_VID_train_0000/ILSVRC2015_train_{number:08}"
        _write_snippet(root, snippet, (settings.seed, _TRAIN, number), settings)
        train_lines += [f"{snippet} 1 {frame} {frames}" for frame in labelled]
    for number in range(settings.val_snippets):
        snippet = f"val/ILSVRC2015_val_{number:08}"
        _write_snippet(root, snippet, (settings.seed, _VAL, number), settings)
        val_lines.append(f"{snippet} {number * frames + 1} 0 {frames}")
    still_lines = [f"{_write_still(root, n, settings)} 1" for n in range(settings.stills)]
    _write_lines(root / "ImageSets/VID/VID_train_15frames.txt", train_lines)
    _write_lines(root / "ImageSets/VID/VID_val_videos.txt", val_lines)
    _write_lines(root / "ImageSets/DET/DET_train_30classes.txt", still_lines)
    used = CLASSES[: settings.scene.classes]
    names = [f"{word} {n} {name}" for n, (word, name) in enumerate(used, start=1)]
    _write_lines(root / "map_vid.txt", names)


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def _scene(seed: tuple[int, int, int], settings: VidSettings) -> Scene:
    """Return a scene; the classes take turns, so that a short list shows them all."""
    return Scene(seed, settings.scene, first=seed[-1] % settings.scene.classes)


def _write_snippet(
    root: Path, snippet: str, seed: tuple[int, int, int], settings: VidSettings
) -> None:
    folder = root / "Annotations/VID" / snippet
    folder.mkdir(parents=True)
    data = root / "Data/VID" / snippet
    scene = _scene(seed, settings)

    def pictures() -> Iterator[NDArray[np.uint8]]:
        for t in range(settings.frames):
            picture = scene.render(t)
            xml = _annotation(folder.name, f"{t:06}", picture, settings, tracked=True)
            (folder / f"{t:06}.xml").write_text(xml)
            yield picture.image

    if settings.storage == "mp4":
        fps, crf, gop = settings.fps, settings.crf, settings.gop
        path = data.with_name(f"{data.name}.mp4")
        with VideoWriter(path, fps, settings.scene.size, crf=crf, gop=gop, threads=1) as video:
            for picture in pictures():
                video.write(picture)
    else:
        data.mkdir(parents=True)
        for t, image in enumerate(pictures()):
            _write_jpeg(data / f"{t:06}.JPEG", image)


def _write_jpeg(path: Path, image: NDArray[np.uint8]) -> None:
    done, data = cv2.imencode(
        ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 95]
    )
    if not done:
        raise OSError(f"{path}: JPEG encoding failed")
    path.write_bytes(data.tobytes())


def _write_still(root: Path, number: int, settings: VidSettings) -> str:
    """Write DET picture ``number``; return its name in the list."""
    picture = _scene((settings.seed, _STILL, number), settings).render(0)
    word = CLASSES[number % settings.scene.classes][0]
    folder, name = f"train/ILSVRC2013_train/{word}", f"{word}_{number}"
    for top in ("Data/DET", "Annotations/DET"):
        (root / top / folder).mkdir(parents=True, exist_ok=True)
    _write_jpeg(root / "Data/DET" / folder / f"{name}.JPEG", picture.image)
    xml = _annotation(word, name, picture, settings, tracked=False)
    (root / "Annotations/DET" / folder / f"{name}.xml").write_text(xml)
    return f"{folder}/{name}"


def _annotation(
    folder: str, name: str, picture: Picture, settings: VidSettings, tracked: bool
) -> str:
    """Return the XML of one picture; tracks only in videos, as in the real sets."""
    height, width = picture.instances.shape
    objects = ""
    for n, (x0, y0, x1, y1) in enumerate(picture.boxes.tolist()):
        if picture.visible[n] < settings.min_visible or min(x1 - x0, y1 - y0) < settings.min_side:
            continue
        track = f"\t\t<trackid>{picture.tracks[n]}</trackid>\n" if tracked else ""
        # The last pixel belongs to the box: inclusive ends, counted from 0.
        objects += (
            f"\t<object>\n{track}\t\t<name>{CLASSES[picture.classes[n]][0]}</name>\n"
            f"\t\t<bndbox>\n\t\t\t<xmax>{x1 - 1}</xmax>\n\t\t\t<xmin>{x0}</xmin>\n"
            f"\t\t\t<ymax>{y1 - 1}</ymax>\n\t\t\t<ymin>{y0}</ymin>\n\t\t</bndbox>\n"
            f"\t\t<occluded>{int(picture.visible[n] < 0.7)}</occluded>\n"
            "\t\t<generated>0</generated>\n\t</object>\n"
        )
    return (
        f"<annotation>\n\t<folder>{folder}</folder>\n\t<filename>{name}</filename>\n"
        "\t<source>\n\t\t<database>ILSVRC_2015</database>\n\t</source>\n"
        f"\t<size>\n\t\t<width>{width}</width>\n\t\t<height>{height}</height>\n\t</size>\n"
        f"{objects}</annotation>\n"
    )
