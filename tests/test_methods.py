"""The table of tasks and methods is tried out, not told."""

import re
import sys

import pytest

from flowfeat import methods
from flowfeat.cli import choices
from flowfeat.methods import Cell, cell_table, remarks, try_all, try_pair


@pytest.mark.parametrize(
    ("task", "method", "runs", "remark"),
    [
        ("vid", "off_ms", True, ""),
        ("vid", "flow", False, "the method trains a flow network alone, on no video"),
        ("flying_chairs", "flow", True, ""),
        ("flying_chairs", "dff", False, "the task trains a flow network alone, on no video"),
        ("flying_chairs", "off_ms", False, "the task trains a flow network alone, on no video"),
        ("vimeo90k", "off", True, ""),
        ("vimeo90k", "dff", False, "of 20, s < 1.13"),
        ("ucf101", "dff", True, "clip=consistent_interval_small"),
        ("ucf101", "dff_learned_keys", False, "cannot compare StepScores"),
        (
            "ucf101",
            "off_ms",
            False,
            "there is no temporal=off_ms_ucf101, only those of cityscapes, vid",
        ),
    ],
)
def test_a_cell_is_what_its_parts_say(task: str, method: str, runs: bool, remark: str) -> None:
    cell = try_pair(task, method)
    assert (cell.task, cell.method, cell.runs) == (task, method, runs)
    assert remark in cell.remark
    assert bool(remark) == bool(cell.remark)
    assert "\n" not in cell.remark


def test_remarks_are_said_once() -> None:
    cells = [
        Cell("vid", "a", True),
        Cell("vid", "b", False, "no reason"),
        Cell("vid", "c", False, "no reason"),
        Cell("ucf101", "a", True, "clip=x"),
        Cell("ucf101", "b", False, "no reason"),
        Cell("ucf101", "c", True),
    ]
    assert remarks(cells) == [
        "[1] vid, b, c: no reason",
        "[2] ucf101, a: with clip=x",
        "[3] ucf101, b: no reason",
    ]
    columns = [[str(cell) for cell in column.cells] for column in cell_table(cells).columns]
    assert columns == [["a", "b", "c"], ["runs", "- [1]", "- [1]"], ["runs [2]", "- [3]", "runs"]]


def test_the_command_prints_one_row(capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["flowfeat-methods", "task=flying_chairs", "method=hold"])
    methods.main()
    shown = capsys.readouterr().out
    assert "[1] flying_chairs, hold: the task trains a flow network alone, on no video" in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["task=ucf"], "task=ucf: unknown choice, expected one of .*ucf101, vid"),
        (["method=offf"], "method=offf: unknown choice, expected one of .*dff, .*off, "),
        (["seed=3"], "expected task= and method= alone; usage: flowfeat-methods"),
    ],
)
def test_other_words_are_refused(capsys, monkeypatch, words: list[str], said: str) -> None:
    monkeypatch.setattr(sys, "argv", ["flowfeat-methods", *words])
    with pytest.raises(SystemExit) as left:
        methods.main()
    assert left.value.code == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    assert re.search(said, error)


@pytest.mark.slow
def test_every_task_has_its_baseline_and_every_cell_an_answer() -> None:
    cells = try_all(choices("task"), choices("method"))
    assert len(cells) == len(choices("task")) * len(choices("method"))
    assert all(cell.runs or cell.remark for cell in cells)
    runs = {(cell.task, cell.method) for cell in cells if cell.runs}
    baselines = {(t, "flow" if t == "flying_chairs" else "per_frame") for t in choices("task")}
    off = {(t, "off") for t in choices("task") if t != "flying_chairs"}
    assert baselines | off <= runs
