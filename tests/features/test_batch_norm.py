"""BatchNorm frozen, trained or replaced: what moves, and what depends on the batch."""

import pytest
import timm
import torch
from torch import Tensor, nn

from flowfeat.features.batch_norm import groups_for
from flowfeat.features.timm_features import TimmFeatures


def statistics(network: nn.Module) -> list[Tensor]:
    return [value.clone() for key, value in network.state_dict().items() if "running" in key]


@pytest.mark.parametrize(("norm", "moves"), [("frozen", False), ("train", True), ("sync", True)])
def test_statistics_in_training(norm: str, moves: bool) -> None:
    network = TimmFeatures("resnet18", norm=norm).train()  # type: ignore[arg-type]
    before = statistics(network)
    network(torch.rand(2, 3, 64, 64))
    after = statistics(network)
    assert before
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True)) is not moves


@pytest.mark.parametrize("affine", [False, True])
def test_frozen_affine(affine: bool) -> None:
    network = TimmFeatures("efficientnet_b0", frozen_affine=affine, reduce_to=None)
    layers = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert layers
    assert all(layer.weight.requires_grad is not affine for layer in layers)


@pytest.mark.parametrize("model", ["resnet18", "efficientnet_b0", "densenet121"])
def test_group_norm_takes_its_place(model: str) -> None:
    network = TimmFeatures(model, norm="group", reduce_to=None).train()
    assert not any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    plain = timm.create_model(model, features_only=True)
    activations = [type(m) for m in plain.modules() if isinstance(m, nn.ReLU | nn.SiLU)]
    assert activations  # those inside timm's fused layers must survive
    frames = torch.rand(3, 3, 64, 64)
    network.eval()
    with torch.no_grad():
        together, alone = network(frames)[0], network(frames[1:2])[0]
    assert torch.allclose(together[1:2], alone, atol=1e-5)
    # Contrast does not matter: the statistics are those of the very frame.
    with torch.no_grad():
        scaled = network((frames - network.mean) * 0.5 + network.mean)[0]
    assert torch.allclose(scaled, together, atol=0.05)


def test_groups_divide_channels() -> None:
    for channels in range(1, 400):
        groups = groups_for(channels)
        assert channels % groups == 0
        assert groups <= 32
    assert groups_for(64) == 16
    assert groups_for(2048) == 32
