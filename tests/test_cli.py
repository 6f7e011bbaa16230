"""The command line: what composes, and the one line that bad input gets."""

import sys
from pathlib import Path

import pytest
import yaml

from flowfeat import cli, train
from flowfeat.cli import UsageError, compose_config, one_line

CONFIGS = cli.CONFIGS


def line(*overrides: str) -> str:
    with pytest.raises(UsageError) as caught:
        compose_config(overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_presets_choose_the_parts():
    config = compose_config(["task=vid", "method=dff"])
    assert (config.task, config.method, config.key_frames.interval) == ("vid", "dff", 10)
    assert config.temporal._target_.endswith("FeatureFlow")
    assert not compose_config(["task=vid", "method=per_frame"]).flow


def test_a_leaf_named_on_the_command_line_beats_the_preset():
    config = compose_config(["method=dff", "flow=flownet_half", "key_frames.interval=5"])
    assert (config.flow.width, config.key_frames.interval) == (0.5, 5)


@pytest.mark.parametrize("group", ["task", "method", "features", "flow", "head", "logger"])
def test_an_unknown_choice_names_the_choices(group):
    message = line(f"{group}=nonsense")
    assert message.startswith(f"{group}=nonsense: unknown choice, expected one of ")
    for choice in (CONFIGS / group).glob("*.yaml"):
        assert choice.stem in message


@pytest.mark.parametrize("value", ["null", "1"])
def test_what_chooses_nothing_of_a_group_names_the_choices(value):
    message = line("seed=1", f"clip={value}")
    assert message.startswith("clip=")
    assert ": expected one of consistent_interval, " in message


def test_an_unknown_key_names_the_keys():
    assert line("data.rot=/x").startswith("data.rot: unknown key, expected one of data: ")
    assert "root" in line("data.rot=/x")
    assert "key_frames" in line("key_frame.interval=3")
    none = line("method=per_frame", "key_frames.interval=3")
    assert none == "key_frames.interval: unknown key, key_frames has none here"


def test_every_yaml_quotes_the_word_off():
    """YAML reads a bare off as false."""
    for path in CONFIGS.rglob("*.yaml"):
        loaded = yaml.safe_load(path.read_text())
        for key, value in _walk(loaded):
            assert not (value is False and f"{key}: off" in path.read_text()), path
            assert value is not False or f"{key}: false" in path.read_text(), f"{path}: {key}"


def _walk(node):
    if isinstance(node, dict):
        for key, value in node.items():
            yield key, value
            yield from _walk(value)
    elif isinstance(node, list):
        for value in node:
            yield from _walk(value)


def test_leaves_are_short():
    for group in ("features", "flow", "temporal", "clip", "key_frames", "head", "optim"):
        for path in (CONFIGS / group).glob("*.yaml"):
            assert len(path.read_text().splitlines()) <= 14, path


def test_the_packages_come_from_this_checkout():
    import callbacks
    import data_modules
    import flowfeat

    root = Path(__file__).resolve().parents[1]
    for package in (callbacks, data_modules):
        assert Path(package.__file__).resolve().parent.parent == root
    assert Path(flowfeat.__file__).resolve().parents[2] == root


def test_errors_are_one_line_without_their_layers():
    assert one_line(OSError(28, "No space left on device", "x.ckpt")) == (
        "x.ckpt: no space left on the device"
    )
    assert one_line(FileNotFoundError(2, "No such file or directory", "a")) == (
        "a: no such file or directory"
    )
    assert one_line(ValueError("first\n  second")) == "first second"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["task=nonsense"], "task=nonsense: unknown choice"),
        (["key_frames.interval=0"], "key_frames.interval: expected an integer >= 1, found 0"),
        (["flow=none"], "flow=none: method dff needs a flow network"),
        (["method=per_frame", "flow=flownet_half"], "method per_frame uses no flow network"),
        (["data.root={tmp}/empty"], "empty"),
        (["data.root={tmp}/absent"], "absent"),
        (["seed=null"], "seed=null: expected a whole number, 0 .. 4294967295"),
        (["seed=abc"], "seed=abc: expected a whole number"),
        (["+seed.x=1"], "seed={'x': 1}: expected a whole number"),
        (["run_root=null"], "run_root=null: expected a folder"),
        (["run_root=/proc/nothing"], "run_root=/proc/nothing"),
        (
            [
                "trainer.val_check_interval=1.0",
                "data.synthetic_root={tmp}/data",
                "++data.synthetic.train_snippets=1",
                "++data.synthetic.val_snippets=1",
                "++data.synthetic.frames=10",
                "++data.synthetic.stills=1",
            ],
            "`val_check_interval` should be an integer",
        ),
    ],
)
def test_bad_input_ends_in_one_line_and_status_2(
    overrides, expected, tmp_path, monkeypatch, capsys
):
    (tmp_path / "empty").mkdir()
    arguments = [
        "logger=none",
        f"run_root={tmp_path}",
        *(o.format(tmp=tmp_path) for o in overrides),
    ]
    monkeypatch.setattr(sys, "argv", ["flowfeat-train", *arguments])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        train.main()
    assert caught.value.code == 2
    printed = capsys.readouterr().err
    errors = [x for x in printed.splitlines() if x.startswith("flowfeat: error: ")]
    assert len(errors) == 1
    assert expected in errors[0]
    assert "Traceback" not in printed


def test_a_failed_run_keeps_its_traceback_in_its_folder(tmp_path, monkeypatch, capsys):
    arguments = ["logger=none", f"run_root={tmp_path}", "flow=none"]
    monkeypatch.setattr(sys, "argv", ["flowfeat-train", *arguments])
    with pytest.raises(SystemExit):
        train.main()
    (log,) = tmp_path.rglob("error.log")
    assert "Traceback" in log.read_text()
