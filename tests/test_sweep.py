"""Sweeps on stub scripts whose figures are known: what is trained, kept, reported and refused."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from flowfeat import sweep as entry
from flowfeat.cli import UsageError
from flowfeat.reproduction.runs import Runner
from flowfeat.sweep import run_point, run_points, served
from flowfeat.sweeping.points import Request, chosen, jobs_of, plan
from flowfeat.sweeping.sweep_file import SWEEPS, read_sweep

STUB = """#!{python} -S
import json, os, sys
kind = os.path.basename(sys.argv[0])
words = dict(word.lstrip("+").split("=", 1) for word in sys.argv[1:])
with open("{log}", "a") as log:
    log.write(json.dumps([kind, words]) + "\\n")
if kind == "flowfeat-train":
    folder, figures = words["hydra.run.dir"].strip("'"), dict(mAP=0.5)
    open(folder + "/last.ckpt", "w").write("weights")
else:
    l = words.get("key_frames.interval")
    if l == "7":
        sys.stderr.write("flowfeat: error: seven fell off\\n")
        sys.exit(2)
    folder = words["run_root"].strip("'") + "/vid/dff/2001-01-01"
    os.makedirs(folder)
    if l is None:
        figures = dict(mAP=0.4, fps=25.0)
    else:
        n = int(l)
        drop = 0.02 if words.get("temporal") == "hold" else 0.01
        figures = {{"mAP_l%d" % n: 0.6 - drop * n, "fps_l%d" % n: 10.0 * n, "speedup_l%d" % n: n}}
    open(folder + "/config.yaml", "w").write("seed: 0\\n")
open(folder + "/results.json", "w").write(json.dumps(figures))
"""

SWEEP = """
program: flowfeat-sweep
command: ["${env}", "${program}", point=true, sweep=one, "${args_no_hyphens}"]
method: grid
metric: {name: accuracy, goal: maximize}
parameters:
  task: {value: vid}
  method: {value: dff}
  key_frames.interval: {values: [1, 5, 7, 10]}
baselines:
  small: {train: [method=per_frame, features.model=resnet18]}
  hold: {train: [method=per_frame], evaluate: [temporal=hold, key_frames=fixed]}
"""


class Bench:
    """A folder with stub scripts, sweep files and points."""

    def __init__(self, root: Path) -> None:
        self.root, self.log = root, root / "calls.jsonl"
        self.folder, self.scripts = root / "sweep", root / "bin"
        self.lines: list[str] = []
        for folder in (self.folder, self.scripts):
            folder.mkdir()
        for name in ("train", "evaluate"):
            path = self.scripts / f"flowfeat-{name}"
            path.write_text(STUB.format(python=sys.executable, log=self.log))
            path.chmod(0o755)
        self.write(SWEEP)

    def write(self, text: str) -> None:
        (self.folder / "one.yaml").write_text(text)

    def request(self, baselines: bool = True, **changes) -> Request:
        sweep = read_sweep("one", self.folder)
        sweep = sweep if baselines else replace(sweep, baselines=())
        return replace(Request(sweep, "vid", "dff", self.root / "points"), **changes)

    def runner(self) -> Runner:
        self.lines.clear()
        self.log.write_text("")
        return Runner(scripts=self.scripts, say=self.lines.append)

    def calls(self, kind: str) -> list[dict[str, str]]:
        calls = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [words for name, words in calls if name == f"flowfeat-{kind}"]


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def test_one_training_serves_every_interval_and_failures_stand_in_the_report(bench, capsys):
    root, content = run_points(bench.request(), bench.runner())
    trainings = bench.calls("train")
    assert len(trainings) == 3  # dff once for four l, and the two per-frame networks
    assert [words["method"] for words in trainings] == ["dff", "per_frame", "per_frame"]
    assert trainings[1]["features.model"] == "resnet18"
    ours = [w for w in bench.calls("evaluate") if "/trainings/one/" in w["ckpt"]]
    assert [words["key_frames.interval"] for words in ours] == ["1", "5", "7", "10"]
    points = {(p["line"], p["interval"]): p for p in content["points"]}
    assert points["dff", 5]["accuracy"] == pytest.approx(0.55)
    assert points["dff", 10]["fps"] == 100
    assert points["hold", 10]["accuracy"] == pytest.approx(0.4)
    assert points["every frame", None]["label"] == "small"
    assert content["failed"] == {
        "l7": "seven fell off (status 2)",
        "baseline_hold_l7": "seven fell off (status 2)",
    }
    assert json.loads((root / "tradeoff.json").read_text()) == content
    assert (root / "tradeoff.png").read_bytes().startswith(b"\x89PNG")
    assert (root / "tradeoff.png").stat().st_size < 100_000
    # At every speed dff is above hold, whose drop is twice as steep, and above the small network.
    assert content["sentence"].startswith("At equal time dff")
    assert "wins at" in content["sentence"]
    assert "loses" not in content["sentence"]
    assert "failed: l7: seven fell off" in capsys.readouterr().out


def test_finished_points_are_kept_and_new_ones_added(bench):
    request = bench.request(baselines=False)
    run_points(request, bench.runner())
    bench.write(SWEEP.replace("[1, 5, 7, 10]", "[1, 5, 10, 20]"))
    _, content = run_points(bench.request(baselines=False), bench.runner())
    assert bench.calls("train") == []
    assert [words["key_frames.interval"] for words in bench.calls("evaluate")] == ["20"]
    assert [point["interval"] for point in content["points"]] == [1, 5, 10, 20]
    assert "l5: kept" in bench.lines[2]


def test_retrain_trains_at_every_interval(bench):
    planned, _ = plan(bench.request(baselines=False, retrain=True))
    jobs = [job for job in jobs_of(planned) if job.command == "train"]
    assert [job.folder.name for job in jobs] == ["l1", "l5", "l7", "l10"]
    assert all(f"key_frames.interval={job.folder.name[1:]}" in job.overrides for job in jobs)


def test_a_point_of_an_agent_shares_the_training_and_names_its_score(bench):
    request = bench.request()
    for interval in ("5", "10"):
        figures = run_point(request, {"key_frames.interval": interval}, bench.runner())
        assert figures["accuracy"] == pytest.approx(0.6 - 0.01 * int(interval))
        assert figures["fps"] == 10 * int(interval)
        assert len(bench.calls("train")) == (1 if interval == "5" else 0)
    with pytest.raises(UsageError, match="not in the grid of sweep one"):
        run_point(request, {"key_frames.interval": "6"}, bench.runner())


def test_finished_runs_stand_beside(bench, tmp_path):
    run = tmp_path / "other"
    run.mkdir()
    (run / "results.json").write_text('{"mAP_l2": 0.9, "fps_l2": 500.0, "mAP_l3": 0.1}')
    (run / "config.yaml").write_text("task: vid\nmethod: 'off'\nfeatures: {model: resnet18}\n")
    bench.write(SWEEP.replace("[1, 5, 7, 10]", "[5]"))
    _, content = run_points(bench.request(baselines=False), bench.runner(), [run])
    (point,) = [p for p in content["points"] if p["baseline"]]
    assert (point["line"], point["interval"], point["accuracy"]) == ("off resnet18", 2, 0.9)
    assert "loses at 50.0 fps (" in content["sentence"]
    (run / "config.yaml").write_text("task: cityscapes\n")
    with pytest.raises(UsageError, match="is a run of task cityscapes, expected vid"):
        run_points(bench.request(baselines=False), bench.runner(), [run])


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        ("program:", "programm: x\nprogram:", "programm: unknown key, expected one of baselines"),
        ("method: grid", "method: bayes", "method: expected grid, found bayes"),
        ("{values: [1, 5, 7, 10]}", "{min: 1, max: 9}", "expected values or value"),
        ("[1, 5, 7, 10]", "[1, x]", "expected whole numbers"),
        ("[1, 5, 7, 10]", "[0, 5]", "expected whole numbers of 1 or more, found [0, 5]"),
        ("[1, 5, 7, 10]", "[5, 5]", "expected each value once, found [5, 5]"),
        ("{value: vid}", "{values: [vid]}", "parameters.task: expected one value"),
        ("small: {train", "small: {trian", "baselines.small: expected train"),
    ],
)
def test_a_wrong_sweep_file_ends_in_one_line(bench, before, after, line):
    bench.write(SWEEP.replace(before, after, 1))
    with pytest.raises(UsageError, match=r"one\.yaml: ") as error:
        bench.request()
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_parameter_names_those_that_exist(bench):
    bench.write(SWEEP.replace("key_frames.interval:", "key_frames.intervall:"))
    said = r"^sweep=one: key_frames\.intervall: unknown key, expected one of key_frames: interval"
    with pytest.raises(UsageError, match=said):
        plan(bench.request())
    with pytest.raises(UsageError, match=r"^seeed: unknown key, expected one of"):
        plan(bench.request(extra=("seeed=1",)))  # not the file's
    bench.write(SWEEP.replace("parameters:", "parameters:\n  flow: {values: [dis, disk]}"))
    with pytest.raises(UsageError, match=r"^sweep one, run .*flow=disk: unknown choice, expected"):
        run_points(bench.request(), bench.runner())
    assert not bench.log.read_text()  # found before anything runs
    with pytest.raises(UsageError, match="sweep=two: unknown sweep, expected one of"):
        read_sweep("two")


def test_a_checkpoint_that_does_not_fit_ends_in_one_line(bench, tmp_path):
    path = tmp_path / "foreign.ckpt"
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"foreign\.ckpt: not a readable checkpoint"):
        run_points(bench.request(checkpoint=path), bench.runner())
    assert not bench.log.read_text()
    planned, _ = plan(bench.request(checkpoint=path, baselines=False))
    assert not any(point.job.needs for point in planned)
    assert f"ckpt={path}" in planned[0].job.words()


def test_the_served_file_is_wandbs_own_with_this_commands_words(bench):
    request = bench.request(extra=("features.model=resnet18",))
    content = served(request, {"task": "vid", "method": "off", "seed": "3", "sweep": "one"})
    assert "baselines" not in content
    assert content["command"][0] == "${env}"
    assert content["command"][2:] == [
        "point=true",
        "sweep=one",
        "seed=3",
        "features.model=resnet18",
        "${args_no_hyphens}",
    ]
    assert content["parameters"]["method"] == {"value": "dff"}


@pytest.mark.parametrize("name", sorted(path.stem for path in SWEEPS.glob("*.yaml")))
def test_the_sweeps_of_the_project_can_be_read(name):
    sweep = read_sweep(name)
    assert sweep.intervals[0] == 1
    assert {"hold", "move"} < {baseline.name for baseline in sweep.baselines}
    assert sweep.content["command"] == [
        "${env}",
        "${program}",
        "point=true",
        f"sweep={name}",
        "${args_no_hyphens}",
    ]


def test_make_hands_the_data_on():
    folder = SWEEPS.parents[1]
    words = ["make", "-n", "-o", ".venv/.flowfeat-installed", "sweep", "DATA_ROOT=/data/vid"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True)
    assert "sweep=interval \"data.root='/data/vid'\"" in done.stdout


def test_a_group_replaces_what_was_set_inside_it():
    assert chosen(["features.model=a", "x=1", "features=b", "x=2"]) == ("x=2", "features=b")


def test_the_command_line_refuses_what_it_does_not_know(monkeypatch, capsys):
    for words, line in (
        (["task=vid"], "method= is missing"),
        (["task=vid", "method=dff", "ckpt=none.ckpt"], "none.ckpt: no such checkpoint"),
        (["task=vid", "method=dff", "sweep=nine"], "sweep=nine: unknown sweep"),
        (["task=vid", "method=dff", "seed=1.5"], "seed=1.5: expected a whole number"),
    ):
        monkeypatch.setattr(sys, "argv", ["flowfeat-sweep", *words])
        monkeypatch.setenv("WANDB_MODE", "offline")
        with pytest.raises(SystemExit) as status:
            entry.main()
        assert status.value.code == 2
        error = capsys.readouterr().err
        assert line in error
        assert len(error.splitlines()) == 1
