"""A stranger's checkpoint is built without reading, fetching or asking for anything else."""

import json
import pickle

import pytest
import timm
import torch
from hydra.errors import InstantiationException
from omegaconf import OmegaConf

from flowfeat import cli, overrides
from flowfeat.build import build_task
from flowfeat.checkpoint import KEY, read_checkpoint, restore_task, write_checkpoint
from flowfeat.stored_config import INTERPOLATION, without_reach

CHOSEN = ("method=per_frame", "features=resnet18", "features.reduce_to=8", "logger=none")
TIMM = "flowfeat.features.timm_features.TimmFeatures"


@pytest.fixture(scope="module")
def config():
    return cli.compose_config(CHOSEN)


class Bomb:
    """Leaves a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.fixture
def bomb(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "went off")))
    yield path
    assert not (tmp_path / "went off").exists()


def stored(path, config, **record):
    content = {"config": OmegaConf.to_yaml(config), "classes": ["cat"], **record}
    torch.save({"state_dict": {}, KEY: content}, path)
    return path


def command(path, *words):
    return overrides.Command({"ckpt": str(path)}, (), words)


def test_a_loader_of_timm_under_any_key_is_refused_before_it_reads(tmp_path, config, bomb):
    node = {
        "_target_": "timm.models.load_state_dict",
        "checkpoint_path": str(bomb),
        "weights_only": False,
    }
    for key in ("features", "data", "acceleration", "head.sizes", "callbacks.checkpoints.x"):
        evil = config.copy()
        OmegaConf.set_struct(evil, False)
        OmegaConf.update(evil, key, node, merge=False, force_add=True)
        path = stored(tmp_path / "x.ckpt", evil)
        with pytest.raises(PermissionError, match=rf"{key}\._target_: timm\.models\.load_state"):
            overrides.open_stored(command(path))


@pytest.mark.parametrize("target", ["timm.create_model", TIMM])
@pytest.mark.parametrize("key", ["features", "head", "data.augment"])
def test_no_weights_are_read_that_a_stored_config_names(config, target, key):
    overlay = {"file": "/x", "custom_load": True}
    node = {
        "_target_": target,
        "model": "resnet18",
        "pretrained": True,
        "checkpoint_path": "/etc/passwd",
        "pretrained_cfg": {"file": "/x", "hf_hub_id": "evil/x", "url": "http://x", "mean": [0.5]},
        "pretrained_cfg_overlay": overlay,
    }
    evil = config.copy()
    OmegaConf.set_struct(evil, False)
    OmegaConf.update(evil, key, node, merge=False, force_add=True)
    assert OmegaConf.select(without_reach(evil), key) == {
        "_target_": target,
        "model": "resnet18",
        "pretrained": False,
        "checkpoint_path": None,
        "pretrained_cfg": {"mean": [0.5]},
        "pretrained_cfg_overlay": None,
    }


def test_weights_of_flow_and_of_other_runs_are_left_out_and_those_of_losses_stay():
    config = cli.compose_config(
        ["task=flying_chairs", "method=flow", "flow=raft_small", "flow.weights=/x", "logger=none"]
    )
    config.flow.pretrained = "C_T_V2"
    tame = without_reach(config)
    assert (tame.flow.weights, tame.flow.pretrained) == (None, None)
    assert tame.module.weights == config.module.weights != []


NAMES = ["hf-hub:evil/x", "hf_hub:evil/x", "timm/resnet18", "local-dir:/x", "http://x/y", "C:\\x"]


KEYS = ["features.model", "head.model_name", "data.augment.a.model"]


@pytest.mark.parametrize(("name", "key"), zip(NAMES, [*KEYS, *KEYS], strict=True))
def test_a_name_that_asks_a_hub_is_refused_unless_it_is_typed(tmp_path, config, name, key):
    evil = config.copy()
    OmegaConf.set_struct(evil, False)
    parent, _, leaf = key.rpartition(".")
    OmegaConf.update(evil, parent, {"_target_": TIMM, leaf: name}, merge=True, force_add=True)
    path = stored(tmp_path / "x.ckpt", evil)
    with pytest.raises(PermissionError) as caught:
        overrides.open_stored(command(path))
    assert str(caught.value).startswith(f"{key}={name}: a checkpoint may not ask a model hub")
    typed = overrides.open_stored(command(path, f"++{key}='{name}'"))
    assert OmegaConf.select(typed.config, key) == name


@pytest.mark.parametrize(
    "value",
    [
        "${oc.create:{_target_: os.system}}",
        "${oc.decode:'{_target_: os.system}'}",
        "${oc.select:nothing,{_target_: os.system}}",
        "${${seed}:x}",
        "${data.${task}}",
        "${ oc.create:x}",
        "${now:%S}",
    ],
)
def test_interpolations_cannot_make_up_parts(config, value):
    evil = config.copy()
    evil.head = value
    with pytest.raises(PermissionError, match="may refer to its own keys"):
        without_reach(evil)


def test_the_shipped_configs_refer_to_nothing_else():
    texts = [path.read_text() for path in cli.CONFIGS.rglob("*/*.yaml")]
    assert sum("${" in text for text in texts) > 10
    assert [text for text in texts if "${" in INTERPOLATION.sub("", text)] == []


def test_an_interpolated_name_is_settled_before_anything_typed_can_turn_it(config):
    evil = config.copy()
    OmegaConf.set_struct(evil, False)
    evil.note = "resnet18"
    evil.features.model = "${note}"
    evil.features.checkpoint_path = "${run_root}"
    tame = without_reach(evil)
    tame.note = "hf-hub:evil/x"
    assert (tame.features.model, tame.features.checkpoint_path) == ("resnet18", None)


def test_arguments_without_names_are_refused(config):
    evil = config.copy()
    OmegaConf.set_struct(evil, False)
    evil.features = {"_target_": "timm.create_model", "_args_": ["resnet18", True]}
    with pytest.raises(PermissionError, match=r"features\._args_: expected arguments by name"):
        without_reach(evil)


def test_a_network_of_a_hub_is_stored_so_that_loading_asks_nobody(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    folder.mkdir()
    cfg = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "input_size": [3, 64, 64], "tag": "x"}
    said = {
        "architecture": "resnet18",
        "model_args": {"stem_width": 32},
        "pretrained_cfg": cfg | {"num_classes": 10, "first_conv": "conv1", "classifier": "fc"},
    }
    (folder / "config.json").write_text(json.dumps(said))
    config = cli.compose_config([*CHOSEN, f"features.model='local-dir:{folder}'"])
    task = build_task(config, ("cat",)).eval()
    assert task.temporal.features.mean.flatten().tolist() == pytest.approx(cfg["mean"])
    write_checkpoint(tmp_path / "best.ckpt", task, config)
    (folder / "config.json").unlink()

    def asked(*arguments, **named):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(timm.models, "resolve_model_input_args", asked)
    checkpoint = read_checkpoint(tmp_path / "best.ckpt")
    assert checkpoint.trained.features.model == f"local-dir:{folder}"  # for resume to compare
    assert checkpoint.config.features.model == "resnet18"
    assert checkpoint.config.features.stem_width == 32
    again = restore_task(checkpoint)
    frames = torch.rand(1, 3, 40, 50)
    for ours, theirs in zip(
        task.temporal.features(frames), again.temporal.features(frames), strict=True
    ):
        assert torch.equal(ours, theirs)
    assert again.temporal.features.std.flatten().tolist() == pytest.approx(cfg["std"])


def test_a_folder_or_hub_that_is_not_there_is_one_line(tmp_path):
    config = cli.compose_config([*CHOSEN, f"features.model='local-dir:{tmp_path}/nothing'"])
    with pytest.raises(InstantiationException) as caught:
        build_task(config, ("cat",))
    line = cli.one_line(caught.value)
    assert line.startswith(f"features.model=local-dir:{tmp_path}/nothing: cannot be had (")
