"""A config from a checkpoint runs nothing but what the allow-list names."""

import pytest
from omegaconf import OmegaConf

from flowfeat.trust import build, check


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


def test_a_name_that_only_looks_like_ours_is_refused_by_its_home():
    with pytest.raises(PermissionError, match="defined in hydra"):
        check(OmegaConf.create({"_target_": "flowfeat.trust.instantiate"}))


def test_our_own_code_and_torchs_optimisers_are_allowed():
    check(
        OmegaConf.create(
            {
                "a": {"_target_": "flowfeat.key_frames.schedules.Fixed", "interval": 2},
                "b": [{"_target_": "torch.optim.SGD", "_partial_": True}],
                "c": {"_target_": "torch.optim.lr_scheduler.MultiStepLR", "_partial_": True},
                "d": {"_target_": "pytorch_lightning.Trainer", "_partial_": True},
                "e": {"_target_": "pytorch_lightning.callbacks.ModelCheckpoint"},
                "f": {"_target_": "timm.create_model", "_partial_": True},
            }
        )
    )


def test_a_users_own_package_is_allowed_when_named(tmp_path, monkeypatch):
    (tmp_path / "my_package.py").write_text("class Thing:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = OmegaConf.create({"_target_": "my_package.Thing"})
    with pytest.raises(PermissionError):
        build(config)
    assert type(build(config, trust=["my_package"])).__name__ == "Thing"


def test_a_name_that_does_not_exist_is_one_line():
    with pytest.raises(ValueError, match=r"flow\._target_: .*flowfeat\.flow\.nothing"):
        check(OmegaConf.create({"flow": {"_target_": "flowfeat.flow.nothing"}}))
