"""Write the embedded action set in the layout and file formats of UCF-101."""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_modules.options import check_synthetic
from data_modules.synthetic.actions_scenes import ACTIONS, ACTS, APPEARANCES, SCENE, ActionScene
from data_modules.synthetic.scenes import GENERATOR_VERSION, SceneSettings, scene_settings
from data_modules.synthetic.write_once import write_once
from flowfeat.progress import tracked
from flowfeat.video_writer import VideoWriter

WRITER_VERSION = 1
"""Counts changes of the layout and of the actions; part of the settings' hash."""

VIDEOS, LISTS = "UCF-101", "ucfTrainTestlist"
FPS = 25
SPLITS = 3

_THREADS = 8
_PLACE, _TAKE = 30, 31  # seeds that no other writer uses


@dataclass(frozen=True)
class ActionsSettings:
    """What the embedded UCF-101 holds: every class has ``groups`` times ``clips`` videos.

    Raises:
        ValueError: A number is outside its range.
    """

    scene: SceneSettings = field(default_factory=lambda: SCENE)
    groups: int = 20  # places; all videos of a group show the same one
    clips: int = 2  # of a class in a group
    frames: tuple[int, int] = (32, 48)  # fewest, most
    quantiser: int = 3  # of MPEG-4, 1 .. 31; lower is better
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "frames", tuple(self.frames))  # config gives lists
        if not 4 <= self.groups <= 99:
            raise ValueError(f"groups: expected 4 .. 99 (three splits), found {self.groups}")
        if not 1 <= self.clips <= 99:
            raise ValueError(f"clips: expected 1 .. 99, found {self.clips}")
        if len(self.frames) != 2 or not 1 <= self.frames[0] <= self.frames[1]:
            raise ValueError(f"frames: expected 1 <= fewest <= most, found {self.frames}")
        if not 1 <= self.quantiser <= 31:
            raise ValueError(f"quantiser: expected 1 .. 31, found {self.quantiser}")
        if self.seed < 0:
            raise ValueError(f"seed: expected >= 0, found {self.seed}")
        if self.scene.classes <= len(APPEARANCES):
            raise ValueError(
                f"scene.classes: expected more than {len(APPEARANCES)}, found {self.scene.classes}"
            )


def actions_settings(values: Mapping[str, Any] | None) -> ActionsSettings:
    """Build settings from a config's plain values; ValueError names the choices for a key."""
    values = dict(values or {})
    check_synthetic(ActionsSettings, values)
    scene = scene_settings(values.pop("scene", None) or {}, SCENE)
    return ActionsSettings(scene=scene, **values)


def write_ucf101(root: Path, settings: ActionsSettings) -> bool:
    """Write the set into ``root`` unless these settings made it already.

    Layout: ``UCF-101/<Class>/v_<Class>_gNN_cNN.avi`` (MPEG-4, 25 frames per second) and
    ``ucfTrainTestlist/{classInd,trainlist0X,testlist0X}.txt`` with CRLF, for three splits. As in
    the real set, split X tests on about 7 of every 25 groups, others for every X.

    Args:
        root: What ``DATA_ROOT`` would be: the folder that holds both.
        settings: Number, length and kind of the videos.

    Returns:
        Whether it was written now (else it was there).

    Raises:
        ValueError: ``root`` holds other files.
    """
    parts: dict[str, Any] = {
        "dataset": "ucf101",
        "versions": [GENERATOR_VERSION, WRITER_VERSION],
        "actions": asdict(settings),
    }
    return write_once(Path(root), parts, lambda folder: _write(folder, settings))


def _write(root: Path, settings: ActionsSettings) -> None:
    videos = [
        (action, group, clip)
        for action in range(len(ACTIONS))
        for group in range(1, settings.groups + 1)
        for clip in range(1, settings.clips + 1)
    ]
    # Videos are independent, and drawing and encoding leave Python's lock to other threads.
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        written = pool.map(lambda video: _write_video(root / VIDEOS, settings, *video), videos)
        for _ in tracked(written, "writing embedded data", len(videos), "videos"):
            pass
    _write_lists(root / LISTS, settings, videos)


def _write_video(
    folder: Path, settings: ActionsSettings, action: int, group: int, clip: int
) -> None:
    path = folder / f"{video_name(action, group, clip)}.avi"
    scene, frames = action_scene(settings, action, group, clip)
    with VideoWriter(
        path, FPS, settings.scene.size, "mpeg4", crf=settings.quantiser, threads=1
    ) as video:
        for t in range(frames):
            video.write(scene.render(t).image)


def video_name(action: int, group: int, clip: int) -> str:
    """Return ``<Class>/v_<Class>_gNN_cNN`` of a video; groups and clips count from 1."""
    name = ACTIONS[action]
    return f"{name}/v_{name}_g{group:02}_c{clip:02}"


def action_scene(
    settings: ActionsSettings, action: int, group: int, clip: int
) -> tuple[ActionScene, int]:
    """Return the scene of a video and its number of frames."""
    place = (settings.seed, _PLACE, group)
    take = (settings.seed, _TAKE, action, group, clip)
    frames = np.random.default_rng((*take, 3)).integers(*settings.frames, endpoint=True)
    look, act = divmod(action, len(ACTS))
    return ActionScene(place, take, settings.scene, look, tuple(ACTS)[act]), int(frames)


def _write_lists(
    folder: Path, settings: ActionsSettings, videos: list[tuple[int, int, int]]
) -> None:
    folder.mkdir()
    _write_lines(folder / "classInd.txt", [f"{n} {name}" for n, name in enumerate(ACTIONS, 1)])
    size = max(1, settings.groups * 7 // 25)
    for split in range(1, SPLITS + 1):
        test = range((split - 1) * size + 1, split * size + 1)
        _write_lines(
            folder / f"trainlist{split:02}.txt",
            [f"{video_name(*v)}.avi {v[0] + 1}" for v in videos if v[1] not in test],
        )
        _write_lines(
            folder / f"testlist{split:02}.txt",
            [f"{video_name(*v)}.avi" for v in videos if v[1] in test],
        )


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_bytes("".join(f"{line}\r\n" for line in lines).encode())  # the real ones have CRLF
