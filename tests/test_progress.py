"""What a long work says of itself, and that it says so even while a single step takes long."""

import logging
import sys
import threading
import time

import pytest
import torch

from flowfeat.progress import EVERY, Bars, Lines, Stage, display, tracked


@pytest.mark.parametrize(
    ("seconds", "left"), [(4.0, "6 s"), (60.0, "1 min 30 s"), (3600.0, "1 h 30 min")]
)
@pytest.mark.usefixtures("clock")
def test_a_line_says_step_loss_rate_and_time_left(seconds: float, left: str) -> None:
    stage = Stage("training", "steps", 140, done=100)  # resumed at step 100
    time.sleep(seconds)
    stage.done, stage.figures = 116, {"loss": torch.tensor(0.25)}
    rate = f"{16 / seconds:.2f} steps per second"
    # 16 steps are done and 24 remain, so half as long again.
    assert stage.line() == f"training: 116 of 140 steps, loss 0.250, {rate}, {left} left"


@pytest.mark.usefixtures("clock")
def test_before_the_first_step_there_is_no_rate() -> None:
    stage = Stage("training", "steps", None)
    time.sleep(17.0)
    assert stage.line() == "training: 0 steps, 17 s so far"
    stage.done = 34
    assert stage.line() == "training: 34 steps, 2.00 steps per second"


class Said(logging.Handler):
    """Notes lines, and tells when there are enough."""

    def __init__(self, enough: int) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.enough, self.done = enough, threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        if len(self.lines) >= self.enough:
            self.done.set()


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Said:
    handler = Said(2)
    logger = logging.getLogger("flowfeat.progress")
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr(logger, "level", logging.INFO)
    return handler


def test_lines_come_while_a_single_step_takes_long(said: Said) -> None:
    lines = Lines(every=0.02)
    lines.begin(Stage("training", "steps", 10))
    assert said.done.wait(20)  # nobody notes a step
    lines.end()
    assert all(line.startswith("training: 0 of 10 steps, ") for line in said.lines)


def test_the_innermost_stage_speaks_and_silence_follows_the_last(said: Said) -> None:
    lines = Lines(every=0.02)
    lines.begin(Stage("training", "steps", 10))
    lines.at(4)
    lines.begin(Stage("validation", "batches", 7))
    lines.at(3)
    said.lines.clear()
    said.done.clear()
    assert said.done.wait(20)
    assert {line.partition(",")[0] for line in said.lines[:2]} == {"validation: 3 of 7 batches"}
    lines.end()
    said.lines.clear()
    said.done.clear()
    assert said.done.wait(20)
    assert said.lines[-1].startswith("training: 4 of 10 steps, ")
    lines.end()
    time.sleep(0.1)
    said.lines.clear()
    time.sleep(0.2)
    assert said.lines == []


def test_lines_come_often_enough() -> None:
    assert EVERY <= 20
    assert isinstance(display(), Lines)  # pytest's output is no terminal


def test_a_terminal_shows_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert isinstance(display(), Bars)


def test_a_bar_counts_what_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    bars = Bars()
    bars.begin(Stage("training", "steps", 40, done=30))
    bars.begin(Stage("validation", "batches", 3))
    bars.at(3)
    bars.end()
    bars.at(40, {"loss": 0.5})
    bars.end()
    shown = capsys.readouterr().out
    assert "training" in shown
    assert "40 of 40 steps" in shown
    assert "loss 0.500" in shown
    assert "Epoch" not in shown


def test_tracked_items_are_handed_on_and_an_error_ends_the_lines() -> None:
    before = threading.active_count()
    assert list(tracked("abc", "letters", 3, "letters")) == ["a", "b", "c"]
    with pytest.raises(ZeroDivisionError):
        list(tracked((1 // n for n in (1, 0)), "numbers", 2, "numbers"))
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before
