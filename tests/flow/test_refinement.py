"""Decoder and prediction on the feature grid, against units and shapes worked out by hand."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowfeat.flow.flownet import FlowNet
from flowfeat.flow.flownet_inception import FlowNetInception
from flowfeat.flow.refinement import RefinedFlowNetwork, Refinement

WIDTH = 1 / 16


def frames(height: int, width: int, batch: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pair = torch.rand(2, batch, 3, height, width, generator=generator)
    return pair[0], pair[1]


def constant(network: RefinedFlowNetwork, dx: float, dy: float) -> RefinedFlowNetwork:
    """Let the finest predictor say (dx, dy) everywhere, in raw units."""
    nn.init.zeros_(network.predict.weight)
    assert network.predict.bias is not None
    network.predict.bias.data = torch.tensor([dx, dy])
    return network


@pytest.mark.parametrize("mode", ["features", "refined"])
@pytest.mark.parametrize("stride", [4, 8, 14, 16, 32])
@pytest.mark.parametrize("size", [(128, 160), (97, 131), (64, 65)])
def test_grid_is_the_ceil_of_the_frame(size: tuple[int, int], stride: int, mode: str) -> None:
    network = FlowNet([6], [stride], WIDTH, predict_at=mode)  # type: ignore[arg-type]
    flow = network(*frames(*size))
    rows, columns = -(-size[0] // stride), -(-size[1] // stride)
    assert flow.displacement.shape == (1, 2, rows, columns)
    assert flow.scale is not None
    assert flow.scale.shape == (1, 6, rows, columns)
    assert torch.equal(flow.scale, torch.ones_like(flow.scale))


@pytest.mark.parametrize("mode", ["features", "refined"])
@pytest.mark.parametrize(("stride", "factor"), [(16, 2.5), (8, 5.0), (4, 10.0), (32, 1.25)])
def test_raw_flow_becomes_feature_pixels(stride: int, factor: float, mode: str) -> None:
    network = FlowNet([4], [stride], WIDTH, predict_at=mode)  # type: ignore[arg-type]
    constant(network, 0.3, -0.1)
    displacement = network(*frames(97, 131)).displacement
    assert torch.allclose(displacement[:, 0], torch.tensor(0.3 * factor), atol=1e-6)
    assert torch.allclose(displacement[:, 1], torch.tensor(-0.1 * factor), atol=1e-6)


def test_pyramid_is_in_input_pixels_coarse_to_fine() -> None:
    network = constant(FlowNet([4], [16], WIDTH), 0.3, -0.1)
    pyramid = network.pyramid(*frames(97, 131))
    sizes = [(-(-97 // stride), -(-131 // stride)) for stride in (64, 32, 16, 8, 4)]
    assert [tuple(level.shape[-2:]) for level in pyramid] == sizes
    assert torch.allclose(pyramid[-1][:, 0], torch.tensor(6.0), atol=1e-5)
    assert torch.allclose(pyramid[-1][:, 1], torch.tensor(-2.0), atol=1e-5)


def test_forward_and_pyramid_mean_the_same_motion() -> None:
    """The flow of halved frames, at stride 4, is that of the frames at stride 8, in cells of 8."""
    network = FlowNet([4], [8], WIDTH, with_scale=False)
    nn.init.normal_(network.predict.weight)
    current, key = frames(96, 128)
    halves = [F.avg_pool2d(frame, 2) for frame in (current, key)]
    expected = network.pyramid(*halves)[-1] * 2 / 8
    assert expected.std() > 0.01
    assert torch.allclose(network(current, key).displacement, expected, atol=1e-5)


def test_both_places_of_prediction_agree() -> None:
    """For a linear predictor of one cell, pooling before and halving after are the same."""
    pooled = FlowNet([4], [16], WIDTH, predict_at="features")
    resized = FlowNet([4], [16], WIDTH, predict_at="refined")
    weight = torch.zeros_like(pooled.predict.weight)
    weight[:, :, 1, 1] = torch.randn(weight.shape[:2])
    with torch.no_grad():
        pooled.predict.weight.copy_(weight)
        assert pooled.scale is not None
        pooled.scale.weight.normal_()
    resized.load_state_dict(pooled.state_dict())
    one, two = pooled(*frames(96, 128)), resized(*frames(96, 128))
    assert one.displacement.std() > 0.01
    assert torch.allclose(one.displacement, two.displacement, atol=1e-5)
    assert one.scale is not None
    assert two.scale is not None
    assert torch.allclose(one.scale, two.scale, atol=1e-5)


@pytest.mark.parametrize("kind", [FlowNet, FlowNetInception])
def test_input_is_halved_centred_and_current_first(
    kind: type[RefinedFlowNetwork], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = kind([4], [16])  # type: ignore[call-arg]
    seen: list[Tensor] = []
    encode = network.encode
    monkeypatch.setattr(network, "encode", lambda pair: seen.append(pair) or encode(pair))
    current, key = frames(33, 65)
    network(current, key)
    pair = seen[0]
    assert pair.shape == (1, 6, 17, 33)
    mean = torch.tensor([123.15, 115.90, 103.06]) / 255
    for first, frame in ((0, current), (3, key)):
        middle = frame[0, :, 2:4, 4:6].mean((1, 2)) - mean
        corner = frame[0, :, 32, 64] - mean  # the last cell holds one pixel alone
        assert torch.allclose(pair[0, first : first + 3, 1, 2], middle, atol=1e-6)
        assert torch.allclose(pair[0, first : first + 3, 16, 32], corner, atol=1e-6)


def test_deconvolution_equals_the_released_crop() -> None:
    """Kernel 4, stride 2, no padding, then cropped at offset (1, 1) to the skip's size."""
    refinement = Refinement((2, 3, 4, 5, 6), (2, 3, 4, 5))
    coarse = torch.randn(1, 6, 3, 4)
    layer = refinement.deconvs[0]
    assert isinstance(layer, nn.ConvTranspose2d)
    height, width = 5, 7
    whole = F.conv_transpose2d(coarse, layer.weight, layer.bias, stride=2)
    expected = whole[..., 1 : 1 + height, 1 : 1 + width]
    assert torch.allclose(layer(coarse)[..., :height, :width], expected, atol=1e-6)


def test_enlargement_starts_bilinear() -> None:
    layer = Refinement((2, 3, 4, 5, 6), (2, 3, 4, 5)).enlarges[0]
    flow = torch.randn(1, 2, 6, 7)
    expected = F.interpolate(flow, scale_factor=2, mode="bilinear", align_corners=False)
    assert torch.allclose(layer(flow)[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], atol=1e-6)


@pytest.mark.parametrize("kind", [FlowNet, FlowNetInception])
def test_fresh_network_predicts_almost_no_motion(kind: type[RefinedFlowNetwork]) -> None:
    torch.manual_seed(0)
    network = kind([4], [16])  # type: ignore[call-arg]
    flow = network(*frames(96, 128))
    assert 0 < flow.displacement.abs().max() < 0.25  # a quarter of a cell
    assert network.refinement.channels == (194 if kind is FlowNet else 74)


def test_every_parameter_has_a_gradient_and_both_frames_too() -> None:
    network = FlowNet([3, 4], [8, 16], WIDTH)
    current, key = (frame.requires_grad_() for frame in frames(64, 64))
    flow = network(current, key)
    assert flow.scale is not None
    assert flow.scale.shape == (1, 7, 8, 8)  # both levels' channels, on the finer grid
    (flow.displacement.square().sum() + flow.scale.sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
    for frame in (current, key):
        assert frame.grad is not None
        assert frame.grad.abs().sum() > 0


def test_scale_options() -> None:
    assert FlowNet([4], [16], WIDTH, with_scale=False)(*frames(64, 64)).scale is None
    frozen = FlowNet([4], [16], WIDTH, train_scale_bias=False)
    assert [name for name, p in frozen.named_parameters() if not p.requires_grad] == ["scale.bias"]


def test_streams_do_not_mix() -> None:
    network = FlowNet([4], [16], WIDTH)
    nn.init.normal_(network.predict.weight)
    current, key = frames(65, 97, batch=3)
    together = network(current, key).displacement
    alone = network(current[1:2], key[1:2]).displacement
    assert torch.allclose(together[1:2], alone, atol=1e-5)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="predict_at='stride8'"):
        FlowNet([4], [16], WIDTH, predict_at="stride8")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one each"):
        FlowNet([4, 5], [16], WIDTH)
    with pytest.raises(ValueError, match="width"):
        FlowNet([4], [16], 0.001)
    with pytest.raises(ValueError, match="differ in size"):
        FlowNet([4], [16], WIDTH)(torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 32))
