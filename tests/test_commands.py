"""Help and a wrong command line are answered before torch is imported, by every console script."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]

CALL = """
import contextlib, importlib, io, json, sys
module, _, function = sys.argv[1].partition(":")
calls, heavy = json.loads(sys.argv[2]), ("torch", "pytorch_lightning", "lightning_fabric", "timm")
for words in calls:
    sys.argv = ["flowfeat-x", *words]
    said, status = io.StringIO(), 0
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            getattr(importlib.import_module(module), function)()
        except SystemExit as left:
            status = left.code or 0
    imported = [name for name in heavy if name in sys.modules]
    print(json.dumps([status, said.getvalue(), imported]))
"""

COMPOSED = {
    ("data=nonsense",): "data=nonsense: unknown choice, expected one of cityscapes, ",
    ("task=ucf101", "data.rot=/x"): "data.rot: unknown key, expected one of data: ",
    ("seed=abc",): "seed=abc: expected a whole number",
    ("seed=[1",): "no viable alternative at input '[1'",
    ("run_root=null",): "run_root=null: expected a folder",
}
STORED = {
    (): "ckpt= is missing; usage: flowfeat-",
    ("ckpt=none.ckpt", "video=."): "none.ckpt: no such checkpoint",
    ("ckpt=.", "video=.", "data=nonsense"): "data=nonsense: unknown choice, expected one of ",
    ("ckpt=.", "video=.", "seed=[1"): "seed=[1: ",
    ("ckpt=.", "video=.", "fast"): "fast: expected key=value; usage: flowfeat-",
}
WRONG = {
    "flowfeat-train": COMPOSED,
    "flowfeat-profile": {("seed=abc",): "seed=abc: expected a whole number"},
    "flowfeat-benchmark": {("seed=abc",): "seed=abc: expected a whole number"},
    "flowfeat-benchmark-data": {("seed=abc",): "seed=abc: expected a whole number"},
    "flowfeat-evaluate": STORED,
    "flowfeat-predict": {
        **STORED,
        ("ckpt=.", "video=none.mp4"): "none.mp4: no such video or frame folder",
        ("ckpt=.", "video=.", "threshold=x"): "threshold=x: expected a number of at least 0",
        ("ckpt=.", "video=.", "label_maps=1"): "label_maps=1: expected true or false",
    },
    "flowfeat-fuse": {
        (): "no scores; usage: flowfeat-fuse",
        ("a.npz:-1",): "a.npz:-1: expected weights of at least 0, one above it, found -1",
        ("none.npz:2",): "none.npz: no such scores",
    },
    "flowfeat-degrade": {
        ("data=nonsense",): "data=nonsense: unknown choice",
        ("workers=x",): "workers=x: expected a number",
    },
    "flowfeat-reproduce": {
        (): "table= is missing; usage: flowfeat-reproduce",
        ("table=nine",): "table=nine: unknown table, expected one of ",
        ("table=dff4", "jobs=1.5"): "jobs=1.5: expected a whole number",
    },
    "flowfeat-compare": {
        (): "expected two run folders or more; usage: flowfeat-compare",
        ("/no/such", "/no/other"): "/no/such",
    },
    "flowfeat-methods": {
        ("task=ucf",): "task=ucf: unknown choice, expected one of ",
        ("seed=3",): "expected task= and method= alone; usage: flowfeat-methods",
    },
    "flowfeat-sweep": {
        ("task=vid",): "method= is missing; usage: flowfeat-sweep",
        ("task=vid", "method=nine"): "method=nine: unknown choice, expected one of ",
        ("task=vid", "method=dff", "sweep=nine"): "sweep=nine: unknown sweep",
    },
    "flowfeat-backbones": {
        ("size=[1]",): "size=[1]: expected [height,width]",
        ("fast=1",): "fast=1: unknown argument; usage: flowfeat-backbones",
    },
}


def test_every_script_is_tried():
    assert WRONG.keys() == SCRIPTS.keys()


def answers(name, calls, folder):
    """Run a script with each of the command lines: (status, what it printed, what it imported)."""
    done = subprocess.run(
        [sys.executable, "-c", CALL, SCRIPTS[name], json.dumps(calls)],
        cwd=folder,
        env={"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_help_and_errors_come_before_torch(name, tmp_path):
    *errors, shown = answers(name, [*WRONG[name], ("--help",)], tmp_path)
    for (words, expected), error in zip(WRONG[name].items(), errors, strict=True):
        status, said, imported = error
        assert (status, imported) == (2, []), words
        assert said.startswith(f"flowfeat: error: {expected}"), said
        assert said.count("\n") == 1
    status, said, imported = shown
    assert (status, imported) == (0, [])
    assert said.startswith("usage: flowfeat-") or "Powered by Hydra" in said


def test_a_composed_config_is_shown_without_torch(tmp_path):
    ((status, said, imported),) = answers("flowfeat-train", [("--cfg", "job", "seed=7")], tmp_path)
    assert (status, imported) == (0, [])
    assert "seed: 7" in said.splitlines()
