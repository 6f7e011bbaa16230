"""What a report says: marks at speeds that cannot be, JSON that others read, the right memory."""

import io
import json
import math
from pathlib import Path

import pytest
import torch
from rich.console import Console

from flowfeat.compare import read_run, tables
from flowfeat.report import doubts, peak_memory_gb, print_table, write_results

Capture = pytest.CaptureFixture[str]

BUSY = {
    "mAP_l1": 0.5,
    "mAP_l2": 0.4,
    "fps_l1": 20.0,
    "fps_l2": 137.4,
    "speedup_l1": 1.0,
    "speedup_l2": 6.87,
    "speed_spread_l1": 0.05,
    "speed_spread_l2": 0.41,
    "speed_suspect_l1": 0.0,
    "speed_suspect_l2": 1.0,
    "speed_load": 9.3,
    "speed_repeats": 3.0,
}
"""Of a machine that was busy while l = 2 was measured."""


def test_a_speed_that_cannot_be_is_marked_and_explained(capsys: Capture) -> None:
    print_table(BUSY, "run")
    text = capsys.readouterr().out
    rows = {line.split("│")[1].strip(): line for line in text.splitlines() if line.startswith("│")}
    assert "6.870 ?" in rows["speedup"]
    assert "137.400 ?" in rows["fps"]
    assert text.count("? ") == 3  # neither l = 1 nor the accuracy, and the line below
    assert "speed_suspect" not in rows
    assert doubts(BUSY) == [
        "? speed at l = 2: s = 6.87 is more than l = 2 can give, the rounds lie 41 % apart",
        "measured 4 times at a load of 9.3; flowfeat-evaluate measures again",
    ]
    assert text.splitlines()[-2:] == doubts(BUSY)


def test_a_calm_report_has_no_marks(capsys: Capture) -> None:
    calm = BUSY | {"speedup_l2": 1.6, "speed_spread_l2": 0.1, "speed_suspect_l2": 0.0}
    assert doubts(calm) == []
    print_table(calm, "run")
    assert "?" not in capsys.readouterr().out


def test_a_method_without_key_frames_is_marked_too(capsys: Capture) -> None:
    results = {"fps": 20.0, "speed_spread": 0.3, "speed_suspect": 1.0, "speed_repeats": 3.0}
    assert doubts(results)[0] == "? speed: the rounds lie 30 % apart"
    print_table(results, "run")
    assert "20.000 ?" in capsys.readouterr().out


def test_a_doubtful_speed_is_never_the_best(tmp_path: Path) -> None:
    for name, results in (("busy", BUSY), ("calm", {"speedup_l2": 1.6, "mAP_l2": 0.3})):
        (tmp_path / name).mkdir()
        write_results(results, tmp_path / name)
    out = io.StringIO()
    for one in tables([read_run(tmp_path / name) for name in ("busy", "calm")]):
        Console(width=120, file=out).print(one)
    rows = {line.split("│")[1].strip(): line for line in out.getvalue().splitlines() if "│" in line}
    assert "6.87?" in rows["speedup_l2"]
    assert "1.6*" not in rows["speedup_l2"]  # it is the only one that counts
    assert "0.4*" in rows["mAP_l2"]


def test_the_report_is_valid_json_whatever_was_measured(tmp_path: Path) -> None:
    path = write_results({"mAP": 0.5, "AP_none": math.nan, "ratio": math.inf}, tmp_path)

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    content = json.loads(path.read_text(), parse_constant=refuse)
    assert content == {"AP_none": None, "mAP": 0.5, "ratio": None}
    assert read_run(tmp_path).figures == {"mAP": 0.5}


def test_a_run_on_the_cpu_of_a_machine_with_a_gpu_names_its_own_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 0)
    assert peak_memory_gb() > 0.01
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 * 10**9)
    assert peak_memory_gb() == 3.0
