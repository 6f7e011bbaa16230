"""DnCNN, cut between features and head: the published network, and one whose gradients arrive."""

import math

import pytest
import torch
from torch import Tensor, nn

from flowfeat.features.dncnn import DnCNN, convolution
from flowfeat.heads.restoration import Restoration


def convs(*modules: nn.Module) -> list[nn.Conv2d]:
    return [m for module in modules for m in module.modules() if isinstance(m, nn.Conv2d)]


def published(depth: int = 20, width: int = 64) -> nn.Sequential:
    """Return DnCNN for colour pictures without BatchNorm, as one list of layers."""
    middle = [
        layer for _ in range(depth - 2) for layer in (nn.Conv2d(width, width, 3, 1, 1), nn.ReLU())
    ]
    return nn.Sequential(
        nn.Conv2d(3, width, 3, 1, 1), nn.ReLU(), *middle, nn.Conv2d(width, 3, 3, 1, 1)
    )


def test_both_halves_are_dncnn_20():
    features, head = DnCNN(), Restoration((64,), (1,))
    whole = published()
    assert len(convs(features)) == 3
    assert len(convs(features, head)) == 20
    count = sum(p.numel() for half in (features, head) for p in half.parameters())
    by_hand = (27 * 64 + 64) + 18 * (9 * 64 * 64 + 64) + (9 * 64 * 3 + 3)
    assert count == by_hand == sum(p.numel() for p in whole.parameters()) == 668_227
    for ours, theirs in zip(convs(features, head), convs(whole), strict=True):
        theirs.load_state_dict(ours.state_dict())
    frames = torch.rand(2, 3, 13, 17)  # odd sizes: nothing is halved
    with torch.no_grad():
        torch.testing.assert_close(head(features(frames), frames), frames - whole(frames))


@pytest.mark.parametrize(("depth", "width"), [(1, 4), (3, 32)])
def test_features_keep_the_size_of_the_frame(depth, width):
    network = DnCNN(depth, width)
    (maps,) = network(torch.rand(1, 3, 7, 9))
    assert maps.shape == (1, width, 7, 9)
    assert (network.channels, network.strides) == ((width,), (1,))
    assert maps.min() >= 0
    assert not any(isinstance(m, nn.BatchNorm2d) for m in network.modules())


def test_the_mean_is_taken_from_the_frames():
    plain = DnCNN(2, 4)
    centred = DnCNN(2, 4, mean=0.5)
    centred.load_state_dict(plain.state_dict())
    frames = torch.rand(1, 3, 7, 9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(centred(frames)[0], plain(frames - 0.5)[0])
    assert not torch.equal(centred(frames)[0], plain(frames)[0])


def test_weights_are_xaviers_uniform_with_the_gain_of_relu():
    layer = convolution(16, 48)
    limit = math.sqrt(2) * math.sqrt(6 / (9 * 16 + 9 * 48))
    assert limit * 0.99 < float(layer.weight.detach().abs().max()) <= limit
    assert float(layer.weight.detach().std()) == pytest.approx(limit / math.sqrt(3), rel=0.02)
    assert not layer.bias.any()
    linear = convolution(16, 48, after="linear", share=0.5)
    assert float(linear.weight.detach().abs().max()) == pytest.approx(
        limit / math.sqrt(8), rel=0.01
    )


def gradients(gain: float) -> list[float]:
    """Return the root mean square of each layer's gradient at depth 20, first layer first."""
    torch.manual_seed(0)
    features, head = DnCNN(), Restoration((64,), (1,))
    hidden = convs(features, head)[:-1]
    for layer in hidden:
        nn.init.xavier_uniform_(layer.weight, gain)
    frames = torch.rand(1, 3, 24, 24)
    clean = (frames + 0.02 * torch.randn_like(frames)).clamp(0, 1)  # 34 dB
    loss: Tensor = head.loss(head(features(frames), frames), [clean[0]])["mse"]
    loss.backward()
    return [float(layer.weight.grad.square().mean().sqrt()) for layer in convs(features, head)]


def test_gradients_arrive_at_the_first_of_20_layers():
    """Adam's step is lr * m / (sqrt(v) + 1e-8): gradients near 1e-8 hardly train."""
    ours, plain = gradients(math.sqrt(2)), gradients(1.0)
    assert min(ours) > 1e-5
    assert max(ours) < 100 * min(ours)
    assert min(plain) < 1e-7


@pytest.mark.parametrize(("depth", "width"), [(0, 8), (3, 0)])
def test_impossible_sizes_are_refused(depth, width):
    with pytest.raises(ValueError, match=f"features.depth={depth}, features.width={width}"):
        DnCNN(depth, width)
