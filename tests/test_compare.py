"""Runs side by side: the best marked, the differing settings listed, other folders refused."""

import json
import sys
from pathlib import Path

import pytest

from flowfeat import compare
from flowfeat.cli import UsageError


def made(folder: Path, figures: object, config: str | None = None) -> str:
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(figures))
    if config is not None:
        (folder / "config.yaml").write_text(config)
    return str(folder)


def output(monkeypatch, capsys, *words: str) -> str:
    monkeypatch.setattr(sys, "argv", ["flowfeat-compare", *words])
    compare.main()
    return capsys.readouterr().out


def cells(text: str, key: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"│ {key} ")]
    return [cell.strip() for cell in line.strip("│").split("│")][1:]


def test_two_runs_side_by_side(tmp_path, monkeypatch, capsys):
    one = made(
        tmp_path / "vid/dff/a",
        {"mAP_l10": 0.5, "ms_F_l10": 4.5, "fps_l10": 20.0, "key_share_l10": 0.1},
        "method: dff\noptim: {lr: 0.1}\nkey_frames: {interval: 10}\nrun_root: x\n",
    )
    two = made(
        tmp_path / "vid/sff/a",
        {"mAP_l10": 0.25, "ms_F_l10": 1.5, "fps_l10": 20.0, "key_share_l10": 0.2, "mAP": 1},
        "method: sff\noptim: {lr: 0.1}\nkey_frames: {interval: 10, floor: 2}\nrun_root: y\n",
    )
    text = output(monkeypatch, capsys, one, two)
    assert cells(text, "mAP_l10") == ["0.5*", "0.25"]
    assert cells(text, "ms_F_l10") == ["4.5", "1.5*"]
    assert cells(text, "fps_l10") == ["20", "20"]  # equal: neither is the best
    assert cells(text, "key_share_l10") == ["0.1", "0.2"]  # neither high nor low is better
    assert cells(text, "mAP") == ["-", "1"]
    assert cells(text, "method") == ["dff", "sff"]
    assert cells(text, "key_frames.floor") == ["-", "2"]
    assert "optim.lr" not in text
    assert "run_root" not in text
    assert "dff" in text.splitlines()[2]


def test_names_are_as_short_as_they_can_be():
    assert compare.short_names(["runs/vid/dff/1", "runs/vid/sff/1"]) == ["dff", "sff"]
    assert compare.short_names(["a/b/c", "a/b/d/"]) == ["c", "d"]
    assert compare.short_names(["x", "x"]) == ["x", "x"]


@pytest.mark.parametrize(
    ("key", "values", "best"),
    [
        ("mIoU_l5", [0.1, None, 0.3, 0.3], {2, 3}),
        ("EPE", [1.0, 2.0], {0}),
        ("gflops_F", [2.0, 2.0], set()),
        ("mAP", [0.5, None], set()),
        ("something", [1.0, 2.0], set()),
        ("loss", [0.2, 0.1], {1}),
    ],
)
def test_what_is_best(key, values, best):
    assert compare.best_of(key, values) == best


def test_other_folders_are_refused_in_one_line(tmp_path, monkeypatch, capsys):
    run = made(tmp_path / "a", {"mAP": 0.5})
    empty = tmp_path / "empty"
    empty.mkdir()
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "results.json").write_text('{"mAP": ')
    strange = made(tmp_path / "strange", {"mAP": "high"})
    foreign = made(tmp_path / "foreign", {"mAP": 0.5})
    (tmp_path / "foreign" / "results.json").write_bytes(b"\xff\xfe\x00")
    cut = made(tmp_path / "cut", {"mAP": 0.5}, "seed: [1")
    dangling = made(tmp_path / "dangling", {"mAP": 0.5}, "seed: ${b.c}")
    plain = made(tmp_path / "plain", {"mAP": 0.5}, "- 1")
    settings = "config.yaml: expected the settings of a run, found"
    for words, line in (
        ([run, str(empty)], f"{empty}: has no results.json (no finished run), expected a run"),
        ([run, str(tmp_path / "none")], "none: no such folder, expected a run folder"),
        ([run, str(broken)], f"{broken}/results.json: expected JSON"),
        ([run, strange], "expected a mapping of names to numbers"),
        ([run, foreign], f"{foreign}/results.json: expected JSON, found bytes that are no text"),
        ([run, cut], f"{cut}/{settings} while parsing a flow sequence"),
        ([run, dangling], f"{dangling}/{settings} Interpolation key 'b.c' not found"),
        ([run, plain], f"{plain}/{settings} no mapping"),
        ([run], "expected two run folders or more; usage: flowfeat-compare"),
    ):
        with pytest.raises(SystemExit) as left:
            output(monkeypatch, capsys, *words)
        assert left.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith("flowfeat: error: ")
        assert line in error
        assert error.count("\n") == 1


def test_fewer_than_two_runs_are_none_to_compare():
    with pytest.raises(UsageError):
        compare.compare([])
