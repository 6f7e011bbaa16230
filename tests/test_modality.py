"""One word chooses the modality: the data's, and the input of whatever feature network there is."""

import pytest
import torch

from flowfeat.build import build_data, build_features
from flowfeat.cli import compose_config


@pytest.mark.parametrize("features", ["resnet18_actions", "bn_inception", "resnet18"])
@pytest.mark.parametrize("modality", ["rgb", "rgb_diff", "flow"])
def test_one_word_fits_data_and_features(modality, features):
    words = ["task=ucf101", "method=per_frame", f"features={features}", "features.pretrained=false"]
    words += ["features.model=test_resnet"] if features != "bn_inception" else []
    config = compose_config([*words, f"modality={modality}"])
    data, network = build_data(config), build_features(config)
    assert data.modality.new_length == (1 if modality == "rgb" else 5)
    assert config.features.in_channels == data.modality.channels == network.mean.shape[0]
    mean = {name: [value] for name, value in (("rgb_diff", 0.0), ("flow", 0.5))}
    assert (network.mean.unique().tolist() == mean.get(modality)) == (modality != "rgb")
    assert len(network.eval()(torch.rand(1, data.modality.channels, 32, 32))) == len(
        network.channels
    )


@pytest.mark.parametrize("task", ["ucf101", "hmdb51"])
def test_recognition_sees_rgb_unless_told(task):
    config = compose_config([f"task={task}", "method=per_frame"])
    assert (config.data.modality, config.features.in_channels) == ("rgb", 3)
    assert config.features.mean is None
    given = ["data.modality=rgb_diff", "features.in_channels=15", "features.mean=0"]
    by_keys = compose_config([f"task={task}", "method=per_frame", *given])
    assert by_keys == compose_config([f"task={task}", "method=per_frame", "modality=rgb_diff"])


@pytest.mark.parametrize("task", ["vid", "cityscapes", "vimeo90k", "flying_chairs"])
def test_other_tasks_know_no_modality(task):
    method = "flow" if task == "flying_chairs" else "per_frame"
    config = compose_config([f"task={task}", f"method={method}"])
    assert "modality" not in config.data
    features = config.features or {}
    assert "in_channels" not in features
    assert features.get("mean") == (0.5 if task == "vimeo90k" else None)  # DnCNN's own


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data.modality=flow"], "data.modality=flow gives 10 channels, features.in_channels=3"),
        (["modality=rgb_diff", "data.new_length=3"], "data.modality=rgb_diff gives 9 channels, "),
    ],
)
def test_channels_that_the_network_does_not_take_are_refused(words, said):
    with pytest.raises(ValueError, match=said):
        build_data(compose_config(["task=ucf101", "method=per_frame", *words]))
