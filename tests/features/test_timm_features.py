"""Feature networks over many timm families, against the same models run by timm directly."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from flowfeat.features.timm_features import TimmFeatures

# Per family: model, timm's arguments and level that give stride 16, a size it takes unpadded,
# whether timm returns channels last.
FAMILIES: list[tuple[str, dict[str, Any], int, tuple[int, int], bool]] = [
    ("resnet18", {"output_stride": 16}, 4, (65, 83), False),
    ("resnext26ts", {"output_stride": 16}, 4, (65, 83), False),
    ("regnetx_002", {"output_stride": 16}, 4, (65, 83), False),
    ("convnext_atto", {"output_stride": 16}, 3, (64, 96), False),
    ("efficientnet_b0", {"output_stride": 16}, 4, (65, 83), False),
    ("mobilenetv3_small_050", {"output_stride": 16}, 4, (65, 83), False),
    ("mobilenetv4_conv_small_035", {"output_stride": 16}, 4, (65, 83), False),
    ("darknet17", {"output_stride": 16}, 5, (65, 83), False),
    ("hrnet_w18_small", {}, 3, (64, 96), False),
    ("densenet121", {}, 3, (64, 96), False),
    ("swin_tiny_patch4_window7_224", {"strict_img_size": False}, 2, (64, 96), True),
    ("vit_tiny_patch16_224", {"dynamic_img_size": True}, 11, (64, 96), False),
    ("maxvit_nano_rw_256", {}, 3, (128, 128), False),
    ("mambaout_femto", {}, 2, (65, 83), True),
]


def lively(network: nn.Module) -> nn.Module:
    """Let every branch count: timm starts the last normalisation of residual branches at zero."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    return network


def sizes(levels: tuple[Tensor, ...]) -> list[tuple[int, int]]:
    return [(level.shape[-2], level.shape[-1]) for level in levels]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family[0])
def test_family(family: tuple[str, dict[str, Any], int, tuple[int, int], bool]) -> None:
    model, arguments, level, size, channels_last = family
    network = TimmFeatures(model, reduce_to=None).eval()
    lively(network)
    reference = timm.create_model(model, features_only=True, out_indices=(level,), **arguments)
    reference.load_state_dict(network.backbone.state_dict())
    mean, std = (torch.tensor(reference.default_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    assert network.strides == (16,)

    frames = torch.rand(1, 3, *size)
    with torch.no_grad():
        expected = reference.eval()((frames - mean) / std)[0]
        found = network(frames)[0]
    if channels_last:
        expected = expected.permute(0, 3, 1, 2)
    assert network.channels == (expected.shape[1],)
    assert torch.allclose(found, expected, atol=1e-5, rtol=1e-4)

    frames = torch.rand(1, 3, 71, 99, requires_grad=True)  # odd: 5 x 7 cells of 16
    levels = network(frames)
    assert sizes(levels) == [(5, 7)]
    levels[0].square().sum().backward()
    assert frames.grad is not None
    assert all(frames.grad[0, :, row, column].abs().sum() > 0 for row, column in ((3, 3), (68, 92)))


@pytest.mark.parametrize(
    ("model", "level"), [("resnet18", 2), ("regnetx_002", 2), ("convnext_atto", 1)]
)
def test_motion_by_a_cell_moves_features_by_a_cell(model: str, level: int) -> None:
    """A patch on the mean colour (zero, normalised) moves; so do its features, at stride 8."""
    network = TimmFeatures(model, levels=(level,), stride=8, reduce_to=None).eval()
    lively(network)
    frames = network.mean[None].expand(1, 3, 192, 192).clone()
    frames[..., 80:112, 80:112] = torch.rand(3, 32, 32)
    with torch.no_grad():
        before = network(frames)[0]
        after = network(frames.roll((8, -16), (2, 3)))[0]
    assert before.std() > 1e-3
    assert torch.allclose(after, before.roll((1, -2), (2, 3)), atol=1e-5)


@pytest.mark.parametrize("model", ["resnet18", "resnet26"])
def test_dilation_keeps_the_values_of_the_undilated_network(model: str) -> None:
    """At stride 16 every second cell is what the network computes at stride 32, where dilated."""
    fine = TimmFeatures(model, reduce_to=None).eval().double()  # convolutions round otherwise
    coarse = TimmFeatures(model, stride=32, reduce_to=None).eval().double()
    paper = TimmFeatures(model, reduce_to=None, dilate_first_block=True).eval().double()
    lively(fine)
    for network in (coarse, paper):
        network.load_state_dict(fine.state_dict())
    frames = torch.rand(1, 3, 97, 130, dtype=torch.float64)
    with torch.no_grad():
        every_second = fine(frames)[0][..., ::2, ::2]
        assert torch.allclose(every_second, coarse(frames)[0], atol=1e-9)
        # All 3x3 convolutions of conv5 dilated, as the paper says: other values.
        assert not torch.allclose(paper(frames)[0][..., ::2, ::2], coarse(frames)[0], atol=1e-3)
    last = [m for m in paper.backbone["layer4"].modules() if isinstance(m, nn.Conv2d)]
    assert {conv.dilation for conv in last if conv.kernel_size == (3, 3)} == {(2, 2)}


def test_dilated_by_4_at_stride_8() -> None:
    fine = TimmFeatures("resnet18", stride=8, reduce_to=None).eval().double()
    coarse = TimmFeatures("resnet18", stride=32, reduce_to=None).eval().double()
    lively(fine)
    coarse.load_state_dict(fine.state_dict())
    frames = torch.rand(1, 3, 97, 130, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(fine(frames)[0][..., ::4, ::4], coarse(frames)[0], atol=1e-9)
    assert fine.strides == (8,)


def test_levels_count_among_those_fine_enough() -> None:
    network = TimmFeatures("resnet18", levels=(1, -2, -1), reduce_to=8).eval()
    assert network.strides == (4, 16, 16)
    assert network.channels == (8, 8, 8)
    with torch.no_grad():
        assert sizes(network(torch.rand(1, 3, 71, 99))) == [(18, 25), (5, 7), (5, 7)]
    with torch.device("meta"):
        assert TimmFeatures("vit_tiny_patch16_224", patch_size=14, reduce_to=None).strides == (14,)
        assert TimmFeatures("swin_tiny_patch4_window7_224", stride=8).strides == (8,)


def test_frames_pad_with_the_mean_colour() -> None:
    """A backbone that floors sees the frame as if its padding were the mean colour."""
    network = TimmFeatures("convnext_atto", reduce_to=None).eval()
    padded = network.mean[None].expand(1, 3, 80, 112).clone()
    padded[..., :71, :99] = torch.rand(3, 71, 99)
    with torch.no_grad():
        found, expected = network(padded[..., :71, :99])[0], network(padded)[0]
    assert torch.allclose(found, expected, atol=1e-5)


def test_paper_reduction() -> None:
    with torch.device("meta"):
        assert TimmFeatures("resnet50").channels == (1024,)
        assert TimmFeatures("resnet18").channels == (256,)
        assert TimmFeatures("mobilenetv3_large_100").channels[0] <= 240


def test_normalises_with_its_own_statistics() -> None:
    network = TimmFeatures("resnet18", reduce_to=None).eval()
    assert torch.allclose(network.mean.flatten(), torch.tensor([0.485, 0.456, 0.406]))
    assert torch.allclose(network.std.flatten(), torch.tensor([0.229, 0.224, 0.225]))
    assert not any(key in network.state_dict() for key in ("mean", "std"))
    with torch.device("meta"):
        assert TimmFeatures("vit_tiny_patch16_224").mean.shape == (3, 1, 1)


def test_frozen_stages() -> None:
    network = TimmFeatures("resnet18", frozen_stages=1, norm="train").train()
    trained = {name.split(".")[1] for name, p in network.named_parameters() if p.requires_grad}
    assert trained == {"layer2", "layer3", "layer4", "0"}  # and the reduction
    before = {k: v.clone() for k, v in network.state_dict().items() if "running_mean" in k}
    network(torch.rand(2, 3, 64, 64))
    after = network.state_dict()
    moved = {key.split(".")[1] for key in before if not torch.equal(before[key], after[key])}
    assert moved == {"layer2", "layer3", "layer4"}
    for model in ("vit_tiny_patch16_224", "mobilenetv3_small_050"):
        with torch.device("meta"):
            frozen = TimmFeatures(model, frozen_stages=1)
        states = [p.requires_grad for p in frozen.backbone.parameters()]
        assert states == sorted(states)  # the first ones are frozen, the others not
        assert 0 < sum(states) < len(states)


def test_bad_arguments() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"model": "resnet18x"}, "no such model .*resnet18"),
        ({"model": "resnet18", "levels": (7,)}, r"levels=\(7,\): there are 5 levels"),
        ({"model": "resnet18", "levels": (-1, 1)}, "fine ones first"),
        ({"model": "vit_tiny_patch16_224", "stride": 8}, "0 levels at stride 8"),
        ({"model": "mixer_s16_224"}, "does not take any input size"),
        ({"model": "resnet18", "norm": "batch"}, "norm='batch'"),
        ({"model": "resnet18", "frozen_stages": 5}, r"frozen_stages=5: expected 0 \.\. 4"),
        ({"model": "resnet18", "reduce_to": 0}, "reduce_to=0"),
        (
            {"model": "resnet18", "stride": 32, "dilate_first_block": True},
            "ResNet with a dilated stage",
        ),
    ]
    for arguments, message in cases:
        with torch.device("meta"), pytest.raises(ValueError, match=message) as caught:
            TimmFeatures(**arguments)
        assert "\n" not in str(caught.value)


def test_weights_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def offline(*args: Any, **kwargs: Any) -> nn.Module:
        if kwargs.get("pretrained"):
            raise OSError("no network\nat all")
        return create(*args, **kwargs)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(FileNotFoundError, match="resnet18 could not be fetched") as caught:
        TimmFeatures("resnet18", pretrained=True)
    assert "features.pretrained=false" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model", ["resnet18", "convnext_atto"])
def test_weights_from_a_file(model: str, tmp_path: Path) -> None:
    whole = timm.create_model(model)  # with its classifier, and with timm's plain key names
    torch.save({"state_dict": whole.state_dict()}, tmp_path / "weights.pth")
    save_file(whole.state_dict(), tmp_path / "weights.safetensors")
    for name in ("weights.pth", "weights.safetensors"):
        network = TimmFeatures(model, reduce_to=None, checkpoint_path=str(tmp_path / name))
        one, two = (sorted(p.flatten()[0].item() for p in m.parameters()) for m in (network, whole))
        assert set(one) <= set(two)


def test_files_that_hold_no_weights(tmp_path: Path) -> None:
    (tmp_path / "broken.pth").write_bytes(b"not a checkpoint")
    (tmp_path / "broken.safetensors").write_bytes(b"neither")
    weights = timm.create_model("resnet18").state_dict()
    layer = {key: value for key, value in weights.items() if "layer3.0" in key}
    deeper = {key.replace("layer3.0", "layer3.2"): value for key, value in layer.items()}
    torch.save(weights | deeper, tmp_path / "deeper.pth")
    torch.save({k: v for k, v in weights.items() if k not in layer}, tmp_path / "shallower.pth")
    torch.save(weights | {"conv1.weight": torch.ones(64, 3, 3, 3)}, tmp_path / "other.pth")
    names = ("broken.pth", "broken.safetensors", "deeper.pth", "shallower.pth", "other.pth")
    with pytest.raises(FileNotFoundError, match=r"absent\.pth: no such file"):
        TimmFeatures("resnet18", checkpoint_path=str(tmp_path / "absent.pth"))
    for name in names:
        with pytest.raises(ValueError, match=name) as caught:
            TimmFeatures("resnet18", checkpoint_path=str(tmp_path / name))
        assert "\n" not in str(caught.value)
