"""A folder is written whole or not at all, once, and known again by its settings."""

import multiprocessing
import time
from pathlib import Path

import pytest

from data_modules.synthetic.write_once import STAMP, settings_hash, write_once


def fill(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "data.txt").write_text("content")


def slow_fill(folder: Path) -> None:
    fill(folder)
    time.sleep(0.5)


def write_in_process(root: str, results: "multiprocessing.Queue[bool]") -> None:
    results.put(write_once(Path(root), {"n": 1}, slow_fill))


def never(folder: Path) -> None:
    raise AssertionError(f"written again: {folder}")


def test_written_once_then_reused(tmp_path: Path) -> None:
    root = tmp_path / "deep" / "set"
    assert write_once(root, {"n": 1, "t": (1, 2)}, fill)
    (root / "sub" / "data.txt").write_text("mine now")
    assert not write_once(root, {"t": [1, 2], "n": 1}, never)
    assert (root / "sub" / "data.txt").read_text() == "mine now"


def test_other_settings_replace_it_and_say_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "set"
    write_once(root, {"n": 1}, lambda folder: (folder / "old").touch())
    assert write_once(root, {"n": 2}, fill)
    assert sorted(path.name for path in root.iterdir()) == ["sub", STAMP]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert "other settings" in caplog.text


def test_foreign_folders_are_left_alone(tmp_path: Path) -> None:
    root = tmp_path / "ILSVRC2015"
    root.mkdir()
    (root / "Data").touch()
    with pytest.raises(ValueError, match=r"ILSVRC2015.*other files"):
        write_once(root, {"n": 1}, fill)
    assert [path.name for path in root.iterdir()] == ["Data"]


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    assert write_once(tmp_path / "set", {"n": 1}, fill)
    (tmp_path / "empty").mkdir()
    assert write_once(tmp_path / "empty", {"n": 1}, fill)
    assert (tmp_path / "empty" / "sub" / "data.txt").exists()


def test_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        fill(folder)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_once(tmp_path / "set", {"n": 1}, fail)
    assert list(tmp_path.iterdir()) == []


def test_two_processes_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    root = tmp_path / "set"
    workers = [
        context.Process(target=write_in_process, args=(str(root), results)) for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    wrote = [results.get(timeout=30) for _ in workers]
    for worker in workers:
        worker.join()
    assert sorted(wrote) == [False, False, True]
    assert (root / "sub" / "data.txt").read_text() == "content"
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_hash_sees_values_not_their_order() -> None:
    assert settings_hash({"a": 1, "b": 2}) == settings_hash({"b": 2, "a": 1})
    assert settings_hash({"a": 1, "b": 2}) != settings_hash({"a": 2, "b": 1})
