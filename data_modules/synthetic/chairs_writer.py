"""Write the embedded flow set in the layout and file formats of Flying Chairs."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_modules.flow_files import write_flo, write_ppm
from data_modules.options import check_synthetic
from data_modules.synthetic.scenes import (
    GENERATOR_VERSION,
    Scene,
    SceneSettings,
    scene_settings,
)
from data_modules.synthetic.write_once import write_once
from flowfeat.progress import tracked

WRITER_VERSION = 1
"""Counts changes of the layout; part of the settings' hash."""

SPLIT_FILE = "FlyingChairs_train_val.txt"
TRAIN, VAL = 1, 2
"""What the lines of the split file say."""

_CHAIRS = 12  # a seed that no other writer uses


@dataclass(frozen=True)
class ChairsSettings:
    """What the embedded Flying Chairs hold.

    Raises:
        ValueError: A number is outside its range.
    """

    scene: SceneSettings = field(default_factory=lambda: SceneSettings(size=(80, 112)))
    train_pairs: int = 1200
    val_pairs: int = 96
    max_offset: int = 9  # largest distance in time between the two frames, in either direction
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("train_pairs", 1), ("val_pairs", 1), ("max_offset", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least}, found {getattr(self, name)}")
        if self.train_pairs + self.val_pairs > 99999:
            raise ValueError(
                "train_pairs, val_pairs: expected at most 99999 together (five digits), "
                f"found {self.train_pairs + self.val_pairs}"
            )


def chairs_settings(values: dict[str, Any]) -> ChairsSettings:
    """Build settings from a config's plain values; ValueError names the choices for a key."""
    check_synthetic(ChairsSettings, values)
    values = dict(values)
    scene = scene_settings(values.pop("scene", None) or {}, ChairsSettings().scene)
    return ChairsSettings(scene=scene, **values)


def write_flying_chairs(root: Path, settings: ChairsSettings) -> bool:
    """Write the set into ``root`` unless these settings made it already.

    Layout: ``data/NNNNN_{img1,img2}.ppm``, ``data/NNNNN_flow.flo`` (from the first picture to the
    second, known behind other objects and outside the picture, too), and the split file with one
    line per pair, 1 for training and 2 for validation.

    Args:
        root: What ``DATA_ROOT`` would be: the folder that plays ``FlyingChairs_release``.
        settings: Number and kind of the pairs.

    Returns:
        Whether it was written now (else it was there).

    Raises:
        ValueError: ``root`` holds other files.
    """
    parts: dict[str, Any] = {
        "dataset": "flying_chairs",
        "versions": [GENERATOR_VERSION, WRITER_VERSION],
        "chairs": asdict(settings),
    }
    return write_once(Path(root), parts, lambda folder: _write(folder, settings))


def _write(root: Path, settings: ChairsSettings) -> None:
    folder = root / "data"
    folder.mkdir(parents=True)
    pairs = settings.train_pairs + settings.val_pairs
    for number in tracked(range(1, pairs + 1), "writing embedded data", pairs, "pairs"):
        _write_pair(folder / f"{number:05}", number, settings)
    # Spread over the set, as in the real one; every pair is a scene of its own.
    split = [TRAIN] * pairs
    for n in range(settings.val_pairs):
        split[(2 * n + 1) * pairs // (2 * settings.val_pairs)] = VAL
    (root / SPLIT_FILE).write_text("".join(f"{part}\n" for part in split))


def _write_pair(stem: Path, number: int, settings: ChairsSettings) -> None:
    seed = (settings.seed, _CHAIRS, number)
    rng = np.random.default_rng(seed)
    start = int(rng.integers(settings.scene.length))
    times = [start, start + int(rng.integers(settings.max_offset, endpoint=True))]
    if rng.random() < 0.5:
        times.reverse()
    scene = Scene(seed, settings.scene)
    for name, time in zip(("img1", "img2"), times, strict=True):
        write_ppm(stem.with_name(f"{stem.name}_{name}.ppm"), scene.render(time).image)
    write_flo(stem.with_name(f"{stem.name}_flow.flo"), scene.flow(*times)[0])
