"""A config from a checkpoint runs nothing but what the allow-list names."""

import pytest
from omegaconf import OmegaConf

from flowfeat.cli import CONFIGS, _configs
from flowfeat.trust import allowed, build, check, targets

OURS = ("flowfeat", "data_modules", "callbacks")
HOLD = "flowfeat.temporal.hold.Hold"
SYSTEM = {"_target_": "os.system", "command": "true"}
ARGS = {"_args_": [1, [{"_target_": "os.system", "_partial_": True}]]}


@pytest.mark.parametrize(
    "node",
    [
        {"_target_": "torch.load", "f": "x.pt", "weights_only": False},
        {"_target_": "pathlib.Path.write_text", "self": "x", "data": "y"},
        {"_target_": "os.system", "command": "true"},
        {"_target_": "builtins.eval"},
        {"_target_": "flowfeat.trust.get_object", "path": "os.system"},
        {"_target_": "flowfeat.trust.instantiate", "config": {}},
        {"_target_": "flowfeatures.Evil"},
        {"_target_": "data_modules.__loader__.get_data", "path": "/etc/passwd"},
        {"_target_": ["torch.optim.SGD"]},
        {"_target_": "torch.optim.optimizer.torch.load"},
        {"_target_": "timm.models.load_state_dict", "checkpoint_path": "x", "weights_only": False},
        {"_target_": "timm.models.load_checkpoint", "model": None, "checkpoint_path": "x"},
        {"_target_": "timm.models.create_model", "model_name": "resnet18"},
        {"_target_": "pytorch_lightning.loggers.CSVLogger", "save_dir": "/"},
        {"_target_": "torch.optim.lr_scheduler.LambdaLR"},
        {"_target_": "hydra.utils.get_method", "path": "os.system"},
        {"_target_": "hydra.utils.instantiate"},
        {"_target_": "builtins.exec", "_args_": ["raise SystemExit"]},
        {"_target_": "flowfeat.checkpoint.write_checkpoint", "path": "x"},
        {"_target_": "flowfeat.checkpoint.torch.load", "f": "x"},
        {"_target_": "flowfeat.cli.fail", "error": None},
        {"_target_": "flowfeat.train.train"},
        {"_target_": "flowfeat.tasks.detection.DetectionTask.load_from_checkpoint"},
        {"_target_": "data_modules.degrade.main"},
        {"_target_": "data_modules.flow_files.write_flo", "path": "x"},
        {"_target_": "callbacks.checkpoints.os.replace"},
        {"_target_": "callbacks.wandb_sweep.WandbSweep"},
    ],
)
@pytest.mark.parametrize("where", ["top", "nested", "in a list"])
def test_foreign_code_is_refused_before_it_runs(node, where):
    config = {"top": node, "nested": {"a": {"b": node}}, "in a list": {"a": [1, node]}}[where]
    with pytest.raises(PermissionError, match="not on the list"):
        build(OmegaConf.create(config))


@pytest.mark.parametrize("target", ["torch.load", "pathlib.Path.write_text", "os.system"])
def test_the_refusal_names_key_and_target_in_one_line(target):
    with pytest.raises(PermissionError) as caught:
        check(OmegaConf.create({"features": {"_target_": target}}))
    message = str(caught.value)
    assert "features._target_" in message
    assert target in message
    assert "\n" not in message


SHIPPED = {
    target
    for path in CONFIGS.rglob("*.yaml")
    for _, target in targets(OmegaConf.to_container(OmegaConf.load(path), resolve=False))
}


def test_the_list_is_what_the_shipped_configs_name():
    assert allowed() == SHIPPED | {"timm.create_model"}
    foreign = {name for name in allowed() if name.partition(".")[0] not in OURS}
    assert foreign == {
        "timm.create_model",
        "torch.optim.SGD",
        "torch.optim.Adam",
        "pytorch_lightning.Trainer",
        "pytorch_lightning.callbacks.LearningRateMonitor",
    }


@pytest.mark.parametrize("target", sorted(SHIPPED))
def test_all_that_the_shipped_configs_name_is_allowed_and_there(target):
    check(OmegaConf.create({"a": [{"_target_": target, "_partial_": True}]}))


def test_a_wheel_carries_the_configs_that_make_the_list(tmp_path):
    package = tmp_path / "lib" / "site-packages" / "flowfeat"
    package.mkdir(parents=True)
    assert _configs(package) == tmp_path / "lib" / "configs"
    (package / "configs").mkdir()
    assert _configs(package) == package / "configs"


@pytest.mark.parametrize("node", [SYSTEM, {"x": {"_target_": HOLD, "_partial_": True, **ARGS}}])
def test_a_target_among_arguments_is_seen_before_the_outer_one_is_built(node):
    config = OmegaConf.create({"_target_": HOLD, "_partial_": True, "parts": node, **ARGS})
    with pytest.raises(PermissionError, match=r"os\.system is not on the list"):
        check(config, key="temporal")


def test_a_name_typed_in_full_is_trusted_and_its_neighbours_are_not():
    check(OmegaConf.create({"_target_": "torch.optim.AdamW"}), trust=["torch.optim.AdamW"])
    with pytest.raises(PermissionError, match="not on the list"):
        check(OmegaConf.create({"_target_": "torch.optim.Adagrad"}), trust=["torch.optim.AdamW"])


def test_a_trusted_package_does_not_lend_its_imports(tmp_path, monkeypatch):
    (tmp_path / "lender.py").write_text("import os\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PermissionError, match="defined in posix"):
        check(OmegaConf.create({"_target_": "lender.os.system"}), trust=["lender"])


def test_a_users_own_package_is_allowed_when_named(tmp_path, monkeypatch):
    (tmp_path / "my_package.py").write_text("class Thing:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = OmegaConf.create({"_target_": "my_package.Thing"})
    with pytest.raises(PermissionError):
        build(config)
    assert type(build(config, trust=["my_package"])).__name__ == "Thing"


def test_a_name_that_does_not_exist_is_one_line():
    with pytest.raises(ValueError, match=r"flow\._target_: json\.nothing cannot be imported"):
        check(OmegaConf.create({"flow": {"_target_": "json.nothing"}}), trust=["json"])
