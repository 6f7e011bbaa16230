"""BN-Inception: published sizes and channels, public weights' names and colours."""

from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from flowfeat.features.bn_inception import BLOCKS, OFF_TAPS, BnInception, BnInceptionNetwork

CHANNELS = (256, 320, 576, 576, 576, 608, 608, 1056, 1024, 1024)
GRIDS = (28, 28, 14, 14, 14, 14, 14, 7, 7, 7)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module")
def whole() -> BnInceptionNetwork:
    torch.manual_seed(0)
    return timm.create_model("bn_inception").eval()  # type: ignore[return-value]


@pytest.fixture(scope="module")
def features() -> BnInception:
    torch.manual_seed(0)
    return BnInception().eval()


def test_it_has_the_published_number_of_parameters(
    whole: BnInceptionNetwork, features: BnInception
) -> None:
    assert parameters(whole) == 11_295_240
    assert parameters(features) == 11_295_240 - 1000 * 1024 - 1000


@torch.no_grad()
def test_every_tap_has_its_channels_and_grid_at_224(whole: BnInceptionNetwork) -> None:
    last, taps = whole.forward_intermediates(torch.rand(1, 3, 224, 224))
    assert [tap.shape[1] for tap in taps] == list(CHANNELS)
    assert [tap.shape[2] for tap in taps] == list(GRIDS)
    assert last is taps[-1]
    assert [info["num_chs"] for info in whole.feature_info] == list(CHANNELS)
    assert [224 // info["reduction"] for info in whole.feature_info] == list(GRIDS)


@torch.no_grad()
def test_averages_count_the_padding(whole: BnInceptionNetwork) -> None:
    """On all ones, an average that counts the padding is 4 / 9 in the corner."""
    conv, norm = (whole.get_submodule(f"inception_3a_pool_proj{end}") for end in ("", "_bn"))
    corner = norm(conv(torch.full((1, 192, 1, 1), 4 / 9))).relu()
    pooled = whole._block(BLOCKS[0], torch.ones(1, 192, 4, 4))[:, -32:]
    torch.testing.assert_close(pooled[..., :1, :1], corner)


def test_weights_have_the_public_names(whole: BnInceptionNetwork) -> None:
    names = set(whole.state_dict())
    for name in (
        "conv1_7x7_s2.weight",
        "conv1_7x7_s2_bn.running_mean",
        "conv2_3x3_reduce.bias",
        "inception_3a_1x1.weight",
        "inception_3c_double_3x3_2_bn.weight",
        "inception_4e_3x3_reduce.weight",
        "inception_5b_pool_proj.bias",
        "last_linear.weight",
    ):
        assert name in names
    assert "inception_3c_1x1.weight" not in names


@torch.no_grad()
def test_public_weights_load_and_see_bgr_in_0_to_255(
    whole: BnInceptionNetwork, tmp_path: Path
) -> None:
    path = tmp_path / "bn_inception.pth"
    torch.save(whole.state_dict(), path)
    features = BnInception(levels=[0, 7], checkpoint_path=str(path)).eval()
    frames = torch.rand(1, 3, 64, 96)
    bgr = 255 * frames.flip(1) - torch.tensor([104.0, 117.0, 128.0]).view(3, 1, 1)
    wanted = whole.forward_intermediates(bgr, [0, 7], intermediates_only=True)
    for ours, theirs in zip(features(frames), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_any_size_has_levels_by_ceil(features: BnInception) -> None:
    assert features.channels == tuple(CHANNELS[tap] for tap in OFF_TAPS)
    assert features.strides == (8, 8, 16, 16, 16, 16, 16, 32, 32)
    sizes = [tuple(level.shape[-2:]) for level in features(torch.rand(1, 3, 70, 99))]
    assert sizes == [(9, 13)] * 2 + [(5, 7)] * 5 + [(3, 4)] * 2


@torch.no_grad()
def test_other_channels_begin_with_the_average_and_late_blocks_are_left_out() -> None:
    flow = BnInception(levels=[0, 1], in_channels=10, mean=0.5).eval()
    names = set(flow.state_dict())
    assert any("inception_3b" in name for name in names)
    assert not any("inception_3c" in name or "last_linear" in name for name in names)

    first = flow.state_dict()["backbone.model.conv1_7x7_s2.weight"]
    assert first.shape == (64, 10, 7, 7)
    assert torch.equal(first, first[:, :1].expand_as(first))
    assert [level.shape[1] for level in flow(torch.rand(1, 10, 32, 32))] == [256, 320]


@pytest.mark.parametrize(
    ("channels", "mean", "frame", "seen"),
    # The released code feeds bytes of flow less 128, and differences of bytes as they are.
    [(10, 0.5, 1.0, 127.5), (15, 0.0, -0.2, -51.0)],
)
def test_other_modalities_are_centred_and_in_the_range_of_bytes(
    channels: int, mean: float, frame: float, seen: float
) -> None:
    network = BnInception(levels=[0], in_channels=channels, mean=mean)
    normal = network._normal(torch.full((1, channels, 2, 2), frame))
    torch.testing.assert_close(normal, torch.full_like(normal, seen))


def test_other_channels_want_a_mean() -> None:
    with pytest.raises(ValueError, match=r"features\.mean=null: expected a value for 10 channels"):
        BnInception(levels=[0], in_channels=10)


def test_without_channels_there_is_no_network() -> None:
    with pytest.raises(ValueError, match="in_channels=0: expected 1"):
        BnInception(in_channels=0)
