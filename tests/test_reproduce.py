"""The table harness on stub scripts whose figures are known: what runs, what is kept, the page."""

import itertools
import json
import statistics
import sys
import time
from pathlib import Path

import pytest

from flowfeat import reproduce as entry
from flowfeat.cli import UsageError
from flowfeat.reproduce import Places, reproduce
from flowfeat.reproduction.jobs import merged, plan
from flowfeat.reproduction.runs import Runner
from flowfeat.reproduction.table import read_tables, table_names

STUB = """#!{python} -S
import json, os, sys, time
kind = os.path.basename(sys.argv[0])
words = dict(word.lstrip("+").split("=", 1) for word in sys.argv[1:])
begin = time.time()
time.sleep(float(os.environ.get("STUB_SECONDS", "0")))
threads = os.environ.get("OMP_NUM_THREADS", "")
with open("{log}", "a") as log:
    log.write(json.dumps([kind, words, threads, begin, time.time()]) + "\\n")
if words.get("optim.factors.head") == "7":
    sys.stderr.write("some noise\\nflowfeat: error: the head fell off\\nmore noise\\n")
    sys.exit(2)
if kind == "flowfeat-train":
    folder = words["hydra.run.dir"].strip("'")
    steps, seed = float(words["trainer.max_steps"]), int(words["seed"])
    figures = dict(mAP_l10=(steps + seed) / 100, mAP=0.25 * seed, d0=1, d1=0.5 + 0.1 * seed)
    open(folder + "/last.ckpt", "w").write("weights")
else:
    folder = words["run_root"].strip("'") + "/vid/dff/2001-01-01"
    os.makedirs(folder)
    number = sum(1 for line in open("{log}") if words["ckpt"] in line)
    figures = dict(fps_l10=float(number ** 2), mAP_l10=0.125)
    open(folder + "/config.yaml", "w").write("seed: 0\\n")
open(folder + "/results.json", "w").write(json.dumps(figures))
"""

TABLE = """
title: A table
paper: Table 4
data: Synthetic data.
base: [task=vid, trainer.max_steps=10]
runs:
  first: {overrides: [method=per_frame]}
  second: {overrides: [method=dff, trainer.max_steps=20], after: {features: first, flow: third}}
  third: {overrides: [method=dff_separate]}
  scored: {command: evaluate, of: second, overrides: [key_frames.interval=3]}
timing: {runs: [first, second], rounds: 3, threads: 2, overrides: [data.val_limit=1]}
columns:
  mAP: {key: mAP_l10, digits: 2}
  fps: {key: fps_l10, digits: 1, timed: true}
rows:
  One: {run: first, keys: {mAP: mAP, fps: ""}, paper: {mAP: 0.739}}
  Two: {run: second}
  Scored: {run: scored, timed: first}
claims:
  two beats one: second.mAP_l10 > first.mAP
  two is fast: second.timed.fps_l10 > 100
curve:
  x: distance
  y: mAP
  lines:
    falling: {x: [0, 1], y: ["first.d{}"]}
    flat: {x: [0, 1], y: [first.d0]}
"""


class Bench:
    """A folder with stub scripts, tables, runs and pages."""

    def __init__(self, root: Path) -> None:
        self.root, self.log = root, root / "calls.jsonl"
        self.places = Places(root / "tables", root / "runs", root / "out")
        self.lines: list[str] = []
        self.scripts = root / "bin"
        self.scripts.mkdir()
        self.places.tables.mkdir()
        for name in ("train", "evaluate"):
            path = self.scripts / f"flowfeat-{name}"
            path.write_text(STUB.format(python=sys.executable, log=self.log))
            path.chmod(0o755)
        self.write(TABLE)

    def write(self, text: str, name: str = "one") -> None:
        (self.places.tables / f"{name}.yaml").write_text(text)

    def run(self, seeds: int = 1, extra: tuple[str, ...] = (), name: str = "one", **options) -> str:
        self.lines.clear()
        self.log.write_text("")
        runner = Runner(scripts=self.scripts, say=self.lines.append, **options)
        return reproduce(name, seeds, runner, self.places, extra).read_text()

    def calls(self) -> list[tuple[str, dict[str, str], str, float, float]]:
        return [tuple(json.loads(line)) for line in self.log.read_text().splitlines()]

    def ran(self) -> list[str]:
        """Return <run><seed> of the trainings and evaluations, without the speed pass."""
        folders = [c[1].get("hydra.run.dir", c[1].get("run_root", "")) for c in self.calls()]
        parts = [Path(folder.strip("'")).parts for folder in folders if "timed" not in folder]
        return [f"{p[-2]}{p[-1].removeprefix('seed')}" for p in parts]


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def row(page: str, name: str) -> list[str]:
    (line,) = [line for line in page.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_table_is_run_and_written_beside_the_papers(bench):
    page = bench.run(seeds=3)
    assert sorted(bench.ran()) == sorted(
        f"{run}{seed}" for run in ("first", "second", "third", "scored") for seed in range(3)
    )
    # Two: 0.20, 0.21, 0.22; One: 0, 0.25, 0.5.
    assert row(page, "One") == ["One", "0.25 ± 0.25", "0.739", ""]
    assert row(page, "Two")[:3] == ["Two", "0.21 ± 0.01", ""]
    assert row(page, "Scored")[1] == "0.12 ± 0.00"
    assert row(page, "Scored")[3] == "9.0"  # that of first
    assert page.startswith("# A table\n\n**Synthetic data.** Beside it: Table 4.")
    # The differences are 0.2, -0.04 and -0.28.
    assert (
        "two beats one: **does not hold, within the spread** (difference -0.04 ± 0.24, n = 3;"
        in page
    )
    assert statistics.stdev([0.2, -0.04, -0.28]) == pytest.approx(0.24)
    assert "Mean ± sample standard deviation over 3 seeds (0, 1, 2)." in page
    assert "torch 2" in page
    assert " cores" in page
    picture = bench.places.out / "one.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size < 100_000
    assert "![A table](one.svg)" in page
    assert (bench.places.out / "one.svg").stat().st_size < 100_000
    figures = json.loads((bench.places.runs / "one/figures.json").read_text())["figures"]
    assert figures["seed2"]["second"]["mAP_l10"] == 0.22


def test_runs_get_the_checkpoints_of_what_they_need(bench):
    bench.run(seeds=2)
    words = {name: call[1] for name, call in zip(bench.ran(), bench.calls(), strict=False)}
    runs = bench.places.runs / "one"
    assert words["second1"]["start_from.features"] == f"'{runs}/first/seed1/last.ckpt'"
    assert words["second1"]["flow.weights"] == f"'{runs}/third/seed1/last.ckpt'"
    assert (words["second1"]["seed"], words["second1"]["logger"]) == ("1", "none")
    assert words["second1"]["trainer.max_steps"] == "20"  # its own word replaces the table's
    assert words["scored0"]["ckpt"] == f"{runs}/second/seed0/last.ckpt"
    assert words["scored0"]["key_frames.interval"] == "3"
    assert bench.ran().index("third1") < bench.ran().index("second1")


def test_speeds_come_from_a_pass_of_their_own_in_turns(bench):
    page = bench.run(seeds=2, at_once=2, threads=1)
    calls = bench.calls()
    timed = [call for call in calls if "/timed/" in call[1].get("run_root", "")]
    assert timed == calls[-6:]
    names = [Path(call[1]["run_root"].strip("'")).parts[-2] for call in timed]
    assert names == ["first", "second"] * 3
    assert all(a[4] <= b[3] for a, b in itertools.pairwise(timed))  # never together
    assert {call[2] for call in timed} == {"2"}
    assert {call[1]["data.val_limit"] for call in timed} == {"1"}
    # The stub counts how often a checkpoint was evaluated: second once before ("scored").
    assert row(page, "Two")[3] == "9.0"
    assert "two is fast: **does not hold** (difference -91" in page
    assert "median of 3 rounds over the runs, one at a time on 2 threads" in page


def test_what_is_finished_is_kept(bench):
    before = bench.run(seeds=2)
    assert bench.run(seeds=2) == before
    assert bench.calls() == []
    assert any("second seed 1: kept" in line for line in bench.lines)
    bench.run(seeds=3)
    assert sorted(bench.ran()) == ["first2", "scored2", "second2", "third2"]


def test_changed_settings_run_again_with_all_that_comes_after(bench):
    bench.run()
    bench.write(TABLE.replace("method=per_frame]", "method=per_frame, data.batch_size=4]"))
    bench.run()
    assert bench.ran() == ["first0", "second0", "scored0"]
    assert "one/first seed 0: changed since it ran: data.batch_size" in bench.lines
    assert "one/second seed 0: changed since it ran: features was run again" in bench.lines
    assert len([c for c in bench.calls() if "/timed/" in c[1].get("run_root", "")]) == 6
    page = bench.run(extra=("trainer.max_steps=50",))
    assert "third0" in bench.ran()
    assert row(page, "Two")[1] == "0.50"
    assert "Settings changed for all runs: `trainer.max_steps=50`." in page


def test_a_failure_is_reported_and_does_not_stop_the_rest(bench):
    bench.write(TABLE.replace("[method=per_frame]", "[method=per_frame, optim.factors.head=7]"))
    page = bench.run()
    assert "- first, seed 0: the head fell off (status 2)" in page
    assert "- second, seed 0: features needs first, which failed" in page
    assert row(page, "One")[1] == "failed"
    assert "two beats one: **undecided**, second.mAP_l10: second has no results" in page
    assert bench.ran() == ["first0", "third0"]
    bench.write(TABLE)
    assert row(bench.run(), "Two")[1] == "0.20"
    assert bench.ran() == ["first0", "second0", "scored0"]


def test_an_unfinished_run_runs_again_and_other_peoples_files_stay(bench):
    bench.run()
    runs = bench.places.runs / "one"
    stamp = json.loads((runs / "third/seed0/run.json").read_text())
    (runs / "third/seed0/run.json").write_text(json.dumps(stamp | {"finished": False}))
    (runs / "first/seed0/results.json").unlink()
    (runs / "first/seed0/run.json").unlink()
    page = bench.run()
    assert bench.ran() == ["third0"]
    assert "first, seed 0: " in page
    assert "expected a run of reproduce or nothing, found other files" in page
    assert (runs / "first/seed0/last.ckpt").is_file()


def test_two_runs_at_once_with_a_thread_each(bench, monkeypatch):
    monkeypatch.setenv("STUB_SECONDS", "0.3")
    bench.write(TABLE.replace("runs: [first, second], rounds: 3", "runs: [first], rounds: 1"))
    begin = time.monotonic()
    bench.run(at_once=2, threads=1)
    calls = bench.calls()[:4]  # without the speed pass
    spans = {name: call[3:] for name, call in zip(bench.ran(), calls, strict=True)}
    assert spans["first0"][0] < spans["third0"][1]
    assert spans["third0"][0] < spans["first0"][1]
    assert max(spans["first0"][1], spans["third0"][1]) <= spans["second0"][0]
    assert {call[2] for call in calls} == {"1"}
    assert time.monotonic() - begin < 20


def test_tables_share_runs_and_stand_on_one_page(bench):
    other = TABLE.replace("A table", "Another").replace(
        "first: {overrides: [method=per_frame]}", "first: {same_as: one/first}"
    )
    bench.write(other, "other")
    bench.write("title: Both\ntables: [one, other]\n", "both")
    page = bench.run(name="both")
    assert bench.ran().count("first0") == 1
    assert page.index("# A table") < page.index("# Another")
    assert "| first | that of one/first |" in page


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        ("  first: {over", "  first: {overide: [], over", "runs.first.overide: unknown key, "),
        ("digits: 2", "digits: two", "columns.mAP.digits: "),
        ("title:", "titel:", "titel: unknown key, expected one of base, claims, columns, "),
        ("features: first", "features: fist", "runs.second: fist: unknown name, expected one of "),
        ("Two: {run: second}", "Two: {run: secnd}", "rows.Two.run: secnd: unknown name"),
        ("rounds: 3", "runs: 3", "found duplicate key"),
        ("keys: {mAP: mAP", "keys: {map: mAP", "rows.One: map: unknown name"),
        ("> first.mAP", "> frst.mAP", "two beats one: frst: unknown name"),
        ("timed: first", "timed: third", "rows.Scored.timed: third: unknown name"),
        ("command: evaluate, of", "command: test, of", "runs.scored.command: test: unknown name"),
        ("of: second, ", "", "runs.scored.of: expected a run"),
        ("data: Synthetic data.\n", "", "data: is missing"),
        ('y: ["first.d{}"]', "y: [0, 1, 2]", "curve.lines.falling: expected as many y as x"),
        ("title: A table", "title: [", "while parsing"),
    ],
)
def test_a_wrong_table_ends_in_one_line(bench, before, after, line):
    assert before in TABLE
    bench.write(TABLE.replace(before, after))
    with pytest.raises(UsageError) as caught:
        read_tables("one", bench.places.tables)
    message = str(caught.value)
    assert message.startswith(f"{bench.places.tables}/one.yaml: ")
    assert line in message
    assert "\n" not in message


def test_runs_that_need_one_another_and_settings_that_do_not_compose(bench, tmp_path):
    bench.write(TABLE.replace("third: {", "third: {after: {features: second}, "))
    with pytest.raises(UsageError, match="needs itself"):
        bench.run()
    bench.write(TABLE.replace("method=dff,", "method=dfff,"))
    with pytest.raises(UsageError, match="run second: method=dfff: unknown choice"):
        bench.run()
    assert bench.calls() == []
    with pytest.raises(UsageError, match="unknown table, expected one of one"):
        bench.run(name="two")


def test_the_last_word_for_a_key_wins():
    words = merged(["task=vid", "+features.a=1", "task=cityscapes", "features.a=2"])
    assert words == ("task=cityscapes", "features.a=2")


@pytest.mark.parametrize("name", table_names())
def test_the_tables_of_the_project_can_be_planned(name, tmp_path):
    tables = read_tables(name)
    jobs = plan(tables, range(2), tmp_path)
    assert {(table, run) for table in tables for run in tables[table].runs} <= {
        (table, run) for table, run, _ in jobs
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", table_names())
def test_the_settings_of_the_tables_of_the_project_compose(name, tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWFEAT_SAMPLES", str(tmp_path))
    for job in plan(read_tables(name), [0], tmp_path).values():
        assert job.settings()


def test_the_command_line_refuses_what_it_does_not_know(monkeypatch, capsys):
    for words, line in (
        (["table=dff44"], "table=dff44: unknown table, expected one of "),
        (["seeds=3"], "table= is missing"),
        (["table=dff4", "seeds=0"], "seeds=0: expected a number of at least 1"),
    ):
        monkeypatch.setattr(sys, "argv", ["flowfeat-reproduce", *words])
        with pytest.raises(SystemExit) as left:
            entry.main()
        assert left.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith(f"flowfeat: error: {line}")
        assert error.count("\n") == 1
