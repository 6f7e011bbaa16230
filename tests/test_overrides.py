"""Command lines that begin with a checkpoint: what they change, and their one-line refusals."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from flowfeat import cli, overrides
from flowfeat.checkpoint import KEY

CHOSEN = ("key_frames.interval=7", "seed=3", "data.short_side=50", "run_root=/nowhere")


@pytest.fixture(scope="module")
def config():
    return cli.compose_config(CHOSEN)


@pytest.fixture
def ckpt(tmp_path, config) -> Path:
    """Return a checkpoint without weights: nothing here builds a network."""
    path = tmp_path / "best.ckpt"
    record = {"config": OmegaConf.to_yaml(config), "classes": ["cat"]}
    torch.save({"state_dict": {}, KEY: record}, path)
    return path


def command(monkeypatch, *words: str) -> overrides.Command:
    monkeypatch.setattr("sys.argv", ["flowfeat-x", *words])
    return overrides.take_apart("flowfeat-x ckpt=<path> [out=<folder>]", ("ckpt",), ("out",))


def refusal(function, *arguments) -> str:
    with pytest.raises(cli.UsageError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_command_line_is_taken_apart(monkeypatch):
    taken = command(monkeypatch, "ckpt='a b=1.ckpt'", "out=it's #1", "x.y=2", "trust=[mine]")
    assert taken.arguments == {"ckpt": "a b=1.ckpt", "out": "it's #1"}
    assert taken.overrides == ("x.y=2",)
    assert taken.trust == ("mine",)
    assert command(monkeypatch, "ckpt=a", "trust=mine").trust == ("mine",)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("out=x",), "ckpt= is missing; usage: flowfeat-x ckpt="),
        (("ckpt=",), "ckpt= is missing; usage: flowfeat-x ckpt="),
        (("ckpt=a", "fast"), "fast: expected key=value; usage:"),
        (("ckpt=a", "trust=[1]"), "trust=[1]: expected trust=[package, ...]"),
    ],
)
def test_a_command_line_that_cannot_be_used_shows_the_usage(monkeypatch, words, said):
    assert refusal(command, monkeypatch, *words).startswith(said)


def test_help_prints_the_usage(monkeypatch, capsys):
    with pytest.raises(SystemExit) as left:
        command(monkeypatch, "--help")
    assert left.value.code == 0
    assert capsys.readouterr().out.startswith("usage: flowfeat-x ckpt=")


def test_keys_are_set_and_the_rest_stays(config):
    changed = overrides.apply_overrides(
        config, ["key_frames.interval=5", "data.root='/my data'", "evaluation.intervals=[1,3]"]
    )
    expected = OmegaConf.to_container(config)
    expected["key_frames"]["interval"] = 5
    expected["data"]["root"] = "/my data"
    expected["evaluation"]["intervals"] = [1, 3]
    assert OmegaConf.to_container(changed) == expected
    assert config.key_frames.interval == 7  # the one given is not touched


def test_a_key_whose_value_is_null_exists_and_a_new_one_needs_a_plus(config):
    assert overrides.apply_overrides(config, ["data.val_limit=2"]).data.val_limit == 2
    assert overrides.apply_overrides(config, ["+data.new=2"]).data.new == 2
    changed = overrides.apply_overrides(config, ["++data.augment={hue: 0.1}"])
    assert changed.data.augment == {**config.data.augment, "hue": 0.1}


def test_a_group_choice_replaces_the_whole_node_before_keys_are_set(config):
    changed = overrides.apply_overrides(
        config, ["data.num_workers=0", "data=imagenet_vid", "key_frames=every"]
    )
    assert changed.key_frames == {"_target_": "flowfeat.key_frames.schedules.Every"}
    assert changed.data.num_workers == 0
    assert changed.data.short_side == cli.compose_config([]).data.short_side != 50
    assert changed.seed == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("key_frames.intervall=5", "expected one of key_frames: interval"),
        ("data.rot=x", "expected one of data: augment, batch_size"),
        ("+seed.x=1", "expected one of acceleration, allow_random, benchmark, callbacks"),
        ("seed.x=1", "expected one of acceleration, allow_random, benchmark, callbacks"),
        ("sed=1", "expected one of acceleration, allow_random, benchmark, callbacks"),
        ("key_frames={intervall: 5}", "expected one of key_frames: interval"),
        ("nothing.here=1", "expected one of acceleration, allow_random, benchmark, callbacks"),
    ],
)
def test_an_unknown_key_names_the_keys(config, change, said):
    line = refusal(overrides.apply_overrides, config, [change])
    assert f": unknown key, {said}" in line
    assert line.startswith(change.lstrip("+").partition("=")[0])


def test_an_unknown_choice_names_the_choices(config):
    line = refusal(overrides.apply_overrides, config, ["key_frames=never"])
    choices = ", ".join(sorted(path.stem for path in (cli.CONFIGS / "key_frames").glob("*.yaml")))
    assert line == f"key_frames=never: unknown choice, expected one of {choices}"


@pytest.mark.parametrize("change", ["head=null", "head=[rfcn]", "head=1"])
def test_what_chooses_nothing_of_a_group_names_the_choices(config, change):
    line = refusal(overrides.apply_overrides, config, [change])
    assert line.startswith(f"{change}: expected one of none, recognition, recognition_small, ")


@pytest.mark.parametrize("change", ["seed=1,2", "~seed", "seed=[1", "data.root=it's"])
def test_what_is_not_one_value_for_one_key_is_refused(config, change):
    assert refusal(overrides.apply_overrides, config, [change]).startswith(f"{change}: ")


def test_presets_of_the_checkpoint_stay(monkeypatch, ckpt):
    stored = overrides.open_stored(
        command(monkeypatch, f"ckpt={ckpt}", "task=vid", "method=dff", "seed=4")
    )
    assert (stored.config.seed, stored.config.key_frames.interval) == (4, 7)
    assert stored.checkpoint.classes == ("cat",)
    line = refusal(overrides.open_stored, command(monkeypatch, f"ckpt={ckpt}", "task=ucf101"))
    assert line == f"task=ucf101: {ckpt} was trained for task vid"
    line = refusal(overrides.open_stored, command(monkeypatch, f"ckpt={ckpt}", "method=per_frame"))
    assert line.startswith("method=per_frame: a checkpoint keeps its method (dff); ")


def test_where_to_write_is_not_the_checkpoints_word(monkeypatch, ckpt):
    assert overrides.open_stored(command(monkeypatch, f"ckpt={ckpt}")).config.run_root == "runs"
    chosen = command(monkeypatch, f"ckpt={ckpt}", "run_root=/mine")
    assert overrides.open_stored(chosen).config.run_root == "/mine"


def test_trust_comes_from_the_command_line_only(monkeypatch, tmp_path, config):
    config = config.copy()
    config.trust = ["json"]
    config.logger = {"_target_": "json.loads"}
    path = tmp_path / "x.ckpt"
    torch.save({"state_dict": {}, KEY: {"config": OmegaConf.to_yaml(config), "classes": []}}, path)
    with pytest.raises(PermissionError, match=r"json\.loads is not on the list"):
        overrides.open_stored(command(monkeypatch, f"ckpt={path}"))
    stored = overrides.open_stored(command(monkeypatch, f"ckpt={path}", "trust=[json]"))
    assert stored.config.trust == ["json"]


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "much"])
def test_numbers_are_checked(text):
    assert overrides.number({}, "threshold", 0.3, least=0) == 0.3
    assert overrides.number({"threshold": "0.5"}, "threshold", 0.3, least=0) == 0.5
    line = refusal(overrides.number, {"threshold": text}, "threshold", 0.3, 0)
    assert line == f"threshold={text}: expected a number of at least 0"


def test_whole_numbers_are_not_cut_off():
    assert overrides.whole({}, "seed", 0, least=0) == 0
    assert overrides.whole({"seed": "3"}, "seed", 0, least=0) == 3
    line = refusal(overrides.whole, {"seed": "1.5"}, "seed", 0, 0)
    assert line == "seed=1.5: expected a whole number"


def test_older_checkpoints_get_the_switches_of_today(monkeypatch, tmp_path, config):
    for name, node in (("none", None), ("older", {**config.acceleration, "channels_last": True})):
        older = OmegaConf.to_container(config)
        older.pop("acceleration")
        if node is not None:
            older["acceleration"] = {k: v for k, v in node.items() if k != "autocast"}
        path = tmp_path / f"{name}.ckpt"
        content = {"config": OmegaConf.to_yaml(OmegaConf.create(older)), "classes": []}
        torch.save({"state_dict": {}, KEY: content}, path)
        words = (f"ckpt={path}", "acceleration.autocast=true")
        found = overrides.open_stored(command(monkeypatch, *words)).config.acceleration
        assert found == {**config.acceleration, "autocast": True, "channels_last": node is not None}
