"""Show how far a long work is: bars in a terminal, else a line from time to time.

What runs without a terminal (in a file, under a scheduler) is to be told from what hangs.
"""

import logging
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol, TypeVar

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from torch import Tensor

log = logging.getLogger(__name__)

EVERY = 15.0
"""Seconds from line to line: one at least every 20, however busy the machine."""
PATIENCE = 0.2
"""Seconds from change to change of a bar: values that lie on a device are to be fetched rarely."""

T = TypeVar("T")
Figures = Mapping[str, float | Tensor]


class Stage:
    """A work under way: what, how far, and since when.

    Args:
        name: Of the work.
        unit: Of what is counted, in the plural.
        total: How many there will be; None if nobody knows.
        done: How many there are already, as in a training that is resumed.
    """

    def __init__(self, name: str, unit: str, total: int | None, done: int = 0) -> None:
        self.name, self.unit, self.total = name, unit, total
        self.done = self.first = done
        self.figures: Figures = {}
        self.begin = time.perf_counter()

    @property
    def rate(self) -> float:
        """Units per second, 0 before the first one."""
        return (self.done - self.first) / max(time.perf_counter() - self.begin, 1e-9)

    def words(self) -> str:
        """Say the figures, and the rate."""
        figures = [f"{name} {float(value):.3f}" for name, value in self.figures.items()]
        return ", ".join([*figures, f"{self.rate:.2f} {self.unit} per second"])

    def line(self) -> str:
        """Say it all in one line, with the time that is left."""
        of = "" if self.total is None else f" of {self.total}"
        line = f"{self.name}: {self.done}{of} {self.unit}"
        if self.done == self.first:
            return f"{line}, {_duration(time.perf_counter() - self.begin)} so far"
        if self.total is None:
            return f"{line}, {self.words()}"
        return f"{line}, {self.words()}, {_duration((self.total - self.done) / self.rate)} left"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


class Display(Protocol):
    """Shows stages; one that begins inside another is shown until it ends."""

    def begin(self, stage: Stage) -> None:
        """Show another stage."""

    def at(self, done: int, figures: Figures | None = None) -> None:
        """Note how far the latest stage is."""

    def end(self) -> None:
        """End the latest stage."""

    def close(self) -> None:
        """End all."""


class Lines:
    """Says a line about the latest stage every few seconds, even while a single step takes long."""

    def __init__(self, every: float = EVERY) -> None:
        self.every = every
        self._stages: list[Stage] = []
        self._stop = threading.Event()

    def begin(self, stage: Stage) -> None:
        self._stages.append(stage)
        if len(self._stages) == 1:
            self._stop = threading.Event()
            threading.Thread(target=self._talk, args=(self._stop,), daemon=True).start()

    def at(self, done: int, figures: Figures | None = None) -> None:
        self._stages[-1].done = done
        if figures is not None:
            self._stages[-1].figures = figures

    def end(self) -> None:
        self._stages.pop()
        if not self._stages:
            self._stop.set()

    def close(self) -> None:
        self._stages.clear()
        self._stop.set()

    def _talk(self, stop: threading.Event) -> None:
        while not stop.wait(self.every):
            for stage in self._stages[-1:]:  # it may end meanwhile
                log.info(stage.line())


class Bars:
    """Draws a bar per stage."""

    def __init__(self) -> None:
        self._stages: list[tuple[Stage, TaskID]] = []
        self._drawn = 0.0
        self._progress: Progress | None = None

    def begin(self, stage: Stage) -> None:
        if self._progress is None:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed:.0f} of {task.total} {task.fields[unit]}"),
                TextColumn("{task.fields[words]}"),
                TimeRemainingColumn(),
            )
            self._progress.start()
        task = self._progress.add_task(
            stage.name, total=stage.total, completed=stage.done, unit=stage.unit, words=""
        )
        self._stages.append((stage, task))

    def at(self, done: int, figures: Figures | None = None) -> None:
        stage, _ = self._stages[-1]
        stage.done = done
        if figures is not None:
            stage.figures = figures
        if time.perf_counter() - self._drawn >= PATIENCE:
            self._draw()

    def end(self) -> None:
        self._draw()
        _, task = self._stages.pop()
        if self._progress is not None and self._stages:
            self._progress.remove_task(task)
        elif self._progress is not None:
            self._progress.stop()  # the outermost bar stays, complete
            self._progress = None

    def close(self) -> None:
        while self._stages:
            self.end()

    def _draw(self) -> None:
        stage, task = self._stages[-1]
        if self._progress is not None:
            self._progress.update(task, completed=stage.done, words=stage.words())
        self._drawn = time.perf_counter()


def display(every: float = EVERY) -> Display:
    """Return bars where standard output is a terminal, else lines."""
    return Bars() if sys.stdout.isatty() else Lines(every)


def tracked(items: Iterable[T], name: str, total: int, unit: str) -> Iterator[T]:
    """Hand items on, and show how many there were.

    Args:
        items: Any.
        name: Of the work.
        total: How many there are.
        unit: What they are, in the plural.
    """
    shown = display()
    shown.begin(Stage(name, unit, total))
    try:
        for number, item in enumerate(items, start=1):
            yield item
            shown.at(number)
    finally:
        shown.close()
