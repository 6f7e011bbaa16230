"""Input of other channels than RGB, against the RGB network with the same weights."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from flowfeat.features.first_layer import input_statistics, widen_first_layer
from flowfeat.features.timm_features import TimmFeatures

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def first_conv(network: nn.Module) -> nn.Conv2d:
    return next(m for m in network.modules() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize(("model", "channels"), [("resnet10t", 10), ("mobilenetv3_small_050", 15)])
def test_grey_gives_the_same_up_to_the_factor(model: str, channels: int, tmp_path: Path) -> None:
    """Weights from a file: a channel-blind input gives channels / 3 times the RGB response."""
    whole = timm.create_model(model)
    save_file(whole.state_dict(), tmp_path / "w.safetensors")
    shared = {"checkpoint_path": str(tmp_path / "w.safetensors"), "reduce_to": None}
    rgb = TimmFeatures(model, **shared)  # type: ignore[arg-type]
    wide = TimmFeatures(model, in_channels=channels, mean=0.5, std=0.25, **shared)  # type: ignore[arg-type]
    grey = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        narrow = first_conv(rgb)
        plain = nn.functional.conv2d(
            grey.expand(-1, 3, -1, -1), narrow.weight, None, narrow.stride, narrow.padding
        )
        layer = first_conv(wide)
        ours = nn.functional.conv2d(
            grey.expand(-1, channels, -1, -1), layer.weight, None, layer.stride, layer.padding
        )
    assert torch.allclose(ours, plain * channels / 3, atol=1e-5)
    assert plain.abs().max() > 1e-3
    others = {k: v for k, v in wide.backbone.state_dict().items() if v.shape != layer.weight.shape}
    assert len(others) > 10
    assert all(torch.equal(value, rgb.backbone.state_dict()[key]) for key, value in others.items())


def test_every_kernel_is_the_mean_of_red_green_and_blue() -> None:
    rgb, wide = (timm.create_model("resnet10t", in_chans=n, features_only=True) for n in (3, 10))
    source = first_conv(rgb).weight.detach()
    widen_first_layer(rgb, wide)
    found = first_conv(wide).weight
    for channel in range(10):
        assert torch.allclose(found[:, channel], (source[:, 0] + source[:, 1] + source[:, 2]) / 3)
    # Not what timm does, which keeps the colours apart and divides by the number of channels.
    repeated = source.repeat(1, 4, 1, 1)[:, :10] * 0.3
    assert not torch.allclose(found, repeated)


def test_normalises_with_what_is_given() -> None:
    network = TimmFeatures("resnet10t", in_channels=10, mean=0.5, norm="train").eval()
    seen: list[torch.Tensor] = []
    network.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(torch.full((1, 10, 32, 32), 0.75))
    assert torch.allclose(seen[0], torch.tensor(0.25 / 0.226))
    assert sum(p.numel() for p in first_conv(network).parameters()) == 24 * 10 * 9


def test_statistics() -> None:
    mean, std = input_statistics(3, (None, None), IMAGENET)
    assert torch.allclose(mean.flatten(), torch.tensor(IMAGENET[0]))
    assert torch.allclose(std.flatten(), torch.tensor(IMAGENET[1]))
    mean, std = input_statistics(4, ([0.1, 0.2, 0.3, 0.4], 0.5), IMAGENET)
    assert mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert std.flatten().tolist() == [0.5] * 4
    mean, std = input_statistics(15, (0, None), IMAGENET)
    assert mean.abs().max() == 0
    assert std.flatten().tolist() == pytest.approx([0.226] * 15)


def test_split_and_levels_take_other_channels() -> None:
    whole = TimmFeatures(
        "resnet10t", (-3, -2, -1), 32, reduce_to=None, in_channels=10, mean=0.5, norm="train"
    ).eval()
    assert whole.strides == (8, 16, 32)
    frames = torch.rand(1, 10, 40, 56)
    with torch.no_grad():
        levels = whole(frames)
        assert [tuple(level.shape[-2:]) for level in levels] == [(5, 7), (3, 4), (2, 2)]
        split = TimmFeatures(
            "resnet10t", (-1,), 32, None, in_channels=10, mean=0.5, norm="train", split="layer4"
        ).eval()
        split.load_state_dict(whole.state_dict())
        assert torch.allclose(split.tail(split.trunk(frames))[0], levels[-1], atol=1e-5)


def test_bad_input_channels() -> None:
    cases = [
        (
            {"in_channels": 10},
            r"features\.mean=null: expected a value for 10 channels .*0 for diff",
        ),
        ({"in_channels": 0}, r"features\.in_channels=0: expected 1 or more"),
        ({"in_chans": 5}, r"features\.in_channels=5: expected 1 or more, by this name"),
        ({"in_channels": 10, "mean": [0, 0, 0]}, r"features\.mean=\[0, 0, 0\]: expected one .* 10"),
        ({"mean": 0.5, "std": 0}, r"features\.std=0: expected one number or 3, above 0"),
    ]
    for arguments, message in cases:
        with torch.device("meta"), pytest.raises(ValueError, match=message):
            TimmFeatures("resnet10t", **arguments)  # type: ignore[arg-type]


def test_a_first_layer_that_cannot_be_averaged() -> None:
    rgb, wide = nn.Linear(3, 4), nn.Linear(10, 4)
    with pytest.raises(ValueError, match=r"weight has the shape \(4, 3\), expected a convolution"):
        widen_first_layer(rgb, wide)
