"""Write the embedded set of artifact removal in the layout and file formats of Vimeo-90K."""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_modules.options import check_synthetic
from data_modules.pictures import write_png
from data_modules.septuplets import FRAMES
from data_modules.synthetic.scenes import (
    GENERATOR_VERSION,
    Scene,
    SceneSettings,
    scene_settings,
)
from data_modules.synthetic.write_once import write_once

WRITER_VERSION = 1
"""Counts changes of the layout; part of the settings' hash."""

FINE = SceneSettings(
    size=(128, 160),
    objects=(2, 4),
    travel=(0.1, 0.6),
    pan=(0.005, 0.025),
    length=len(FRAMES),
    detail=0.4,
    noise=1.0,
    brightness=0.05,
)
"""Scenes whose fine texture compression hurts, almost without noise, which no method gives back."""

_TRAIN, _TEST = 30, 31  # different seeds, which no other writer uses
_PER_FOLDER = 1000  # septuplets, as in the real set


@dataclass(frozen=True)
class SeptupletSettings:
    """What the embedded set holds; each septuplet has seven frames.

    Raises:
        ValueError: A number is outside its range.
    """

    scene: SceneSettings = FINE
    train_septuplets: int = 240
    test_septuplets: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("train_septuplets", "test_septuplets"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, found {getattr(self, name)}")
        if self.seed < 0:
            raise ValueError(f"seed: expected >= 0, found {self.seed}")


def embedded_settings(settings: Mapping[str, Any] | None) -> SeptupletSettings:
    """Build the settings from a config's values; ValueError names the choices for a key."""
    values = dict(settings or {})
    check_synthetic(SeptupletSettings, values)
    scene = values.pop("scene", None) or {}
    return SeptupletSettings(scene=scene_settings(scene, FINE), **values)


def write_septuplets(root: Path, settings: SeptupletSettings) -> bool:
    """Write the set into ``root`` unless these settings made it already.

    Layout: ``sequences/00001/0001/im1.png .. im7.png``, ``sep_trainlist.txt`` and
    ``sep_testlist.txt``, the latter with the blank line at the end that the real lists have.

    Args:
        root: What ``DATA_ROOT`` would be: the folder that plays ``vimeo_septuplet``.
        settings: Number and kind of the septuplets.

    Returns:
        Whether it was written now (else it was there).

    Raises:
        ValueError: ``root`` holds other files.
    """
    parts: dict[str, Any] = {
        "dataset": "vimeo90k",
        "versions": [GENERATOR_VERSION, WRITER_VERSION],
        "vimeo90k": asdict(settings),
    }
    return write_once(Path(root), parts, lambda folder: _write(folder, settings))


def _write(root: Path, settings: SeptupletSettings) -> None:
    train = [(settings.seed, _TRAIN, n) for n in range(settings.train_septuplets)]
    test = [(settings.seed, _TEST, n) for n in range(settings.test_septuplets)]
    names = [
        f"{n // _PER_FOLDER + 1:05}/{n % _PER_FOLDER + 1:04}" for n in range(len(train + test))
    ]

    def write(job: tuple[str, tuple[int, int, int]]) -> None:
        name, seed = job
        folder = root / "sequences" / name
        folder.mkdir(parents=True)
        scene = Scene(seed, settings.scene)
        for t, file in enumerate(FRAMES):
            write_png(folder / file, scene.render(t).image)

    # Septuplets are independent, and drawing and encoding leave Python's lock to other threads.
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for _ in pool.map(write, zip(names, train + test, strict=True)):
            pass
    (root / "sep_trainlist.txt").write_text("".join(f"{n}\n" for n in names[: len(train)]))
    (root / "sep_testlist.txt").write_text("".join(f"{n}\n" for n in names[len(train) :]) + "\n")
