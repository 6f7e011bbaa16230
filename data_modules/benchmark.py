"""`flowfeat-benchmark-data`: clips per second of an action loader, by decoder, in one run."""

import itertools
import logging
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track
from rich.table import Table

from data_modules.action_clips import open_action, opener
from data_modules.action_data import ActionData
from data_modules.video import decord_obstacle
from data_modules.video.indices import gathered, plan
from data_modules.video_data import OpenVideo
from flowfeat import cli
from flowfeat.batches import VideoSource
from flowfeat.build import build_data
from flowfeat.report import write_results

CLIPS = 200
"""Clips that are timed per decoder."""
SECONDS = 60.0
"""After which a slow decoder is stopped."""

_WARM_UP = 8  # clips; more than the workers fetch in advance
_SAME = 12 / 255  # libraries convert colours in their own ways; the next frame differs by more

log = logging.getLogger(__name__)


class OpencvSource:
    """A video file read by OpenCV as most loaders do: by its frame count and its own seeking.

    Only to be timed: it is not exact on all files.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._video = cv2.VideoCapture(str(path))
        if not self._video.isOpened():
            raise ValueError(f"{path}: OpenCV cannot open it")
        self.fps = float(self._video.get(cv2.CAP_PROP_FPS))
        sides = (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH)
        self.size = (int(self._video.get(sides[0])), int(self._video.get(sides[1])))
        self._length = int(self._video.get(cv2.CAP_PROP_FRAME_COUNT))

    def __len__(self) -> int:
        return self._length

    def read(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        order = plan(indices, len(self), self.path)
        pictures = np.zeros((len(order.frames), *self.size, 3), np.uint8)
        for place, index in enumerate(order.frames):
            if int(self._video.get(cv2.CAP_PROP_POS_FRAMES)) != index:
                self._video.set(cv2.CAP_PROP_POS_FRAMES, index)
            found, picture = self._video.read()
            if found:  # else black: some headers announce a frame too many
                cv2.cvtColor(picture, cv2.COLOR_BGR2RGB, dst=pictures[place])
        return gathered(pictures, order)


class Timed(NamedTuple):
    """What one decoder did."""

    clips_per_second: float
    same: float  # share of the clips that show what PyAV's show


def measure(data: ActionData, clips: int = CLIPS, seconds: float = SECONDS) -> dict[str, Timed]:
    """Time the training loader with every decoder, on the same clips in the same order.

    Every decoder gets worker processes of its own, so that none finds what another remembered;
    their start is not counted.

    Args:
        data: Set up for fit.
        clips: To time per decoder.
        seconds: To spend on each, at most.
    """
    data.batch_size, data.num_workers = 1, max(1, data.num_workers)
    given = data.open_video
    readers: dict[str, OpenVideo] = {
        "pyav": opener("pyav"),
        "decord": _open_by_decord,
        "opencv": OpencvSource,
    }
    timed: dict[str, Timed] = {}
    reference: list[NDArray[np.float32]] = []
    for name, open_video in readers.items():
        data.open_video = open_video
        rate, seen = _time(data, clips, seconds, name)
        reference = reference or seen
        same = [_agree(a, b) for a, b in zip(seen, reference, strict=False)]
        timed[name] = Timed(rate, float(np.mean(same)))
    data.open_video = given
    return timed


def _open_by_decord(path: Path) -> VideoSource:
    """Open with decord what it reads exactly, and the rest with PyAV."""
    return open_action(path, "pyav" if decord_obstacle(path) else "decord")


def _agree(clip: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    return bool(np.abs(clip - other).max() <= _SAME)


def _time(
    data: ActionData, clips: int, seconds: float, name: str
) -> tuple[float, list[NDArray[np.float32]]]:
    """Return clips per second, and small copies of the clips that were seen."""
    batches = _endless(data)
    for _ in range(_WARM_UP):
        next(batches)
    seen: list[NDArray[np.float32]] = []
    begin = time.perf_counter()
    for batch in track(itertools.islice(batches, clips), name, clips, transient=True):
        seen.append(batch["frames"][0, ..., ::4, ::4].numpy().copy())
        if time.perf_counter() - begin > seconds:
            break
    rate = len(seen) / (time.perf_counter() - begin)
    batches.close()
    return rate, seen


def _endless(data: ActionData) -> Generator[Any, None, None]:
    loader = data.train_dataloader()
    for epoch in itertools.count():
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]  # an EpochSampler
        yield from loader


def run(config: DictConfig, folder: Path) -> None:
    """Benchmark the data of a config; print a table, write ``results.json``.

    Raises:
        ValueError: The data are no videos of actions, or their clips come from no decoder.
    """
    data = build_data(config)
    if not isinstance(data, ActionData):
        raise ValueError(f"task={config.task}: expected ucf101 or hmdb51, whose clips are timed")
    if config.data.modality == "flow":
        raise ValueError(
            "data.modality=flow: its clips are read from pictures of flow, which no decoder reads; "
            "expected rgb or rgb_diff"
        )
    data.prepare_data()
    data.setup("fit")
    folders = [video.path for video in data.parts["train"] if video.path.is_dir()]
    if folders:
        raise ValueError(
            f"{folders[0]}: a folder of raw frames, which no decoder reads; expected video files"
        )
    timed = measure(data)
    # Looked at last, so that no decoder is helped by it.
    some = [decord_obstacle(video.path) for video in data.parts["train"][:CLIPS]]
    share = float(np.mean([not obstacle for obstacle in some]))
    workers = f"{data.num_workers} worker{'s' * (data.num_workers > 1)}"
    table = Table(title=f"{config.task}: training clips per second, {workers}")
    for column in ("decoder", "clips per second", "clips as with PyAV"):
        table.add_column(column, justify="left" if column == "decoder" else "right")
    for name, row in timed.items():
        table.add_row(name, f"{row.clips_per_second:.1f}", f"{row.same:.1%}")
    Console().print(table)
    log.info(f"decord reads {share:.1%} of the videos; the others, which it reads wrongly, PyAV")
    results = {f"clips_per_second_{name}": row.clips_per_second for name, row in timed.items()}
    results |= {f"same_as_pyav_{name}": row.same for name, row in timed.items()}
    log.info(f"report: {write_results(results | {'decord_share': share}, folder)}")


def main() -> None:
    """Entry point of `flowfeat-benchmark-data`."""
    cli.run(__name__)
