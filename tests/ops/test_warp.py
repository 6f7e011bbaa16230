"""Truths of propagation: identity, shifts, scipy's interpolation, gradients of Eq. 4."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

import flowfeat.ops.warp as ops
from flowfeat.metering import FlopMeter, metering, part
from flowfeat.ops.warp import in_rows, resize_flow, warp

SIZES = [(1, 1), (1, 9), (2, 3), (5, 7), (16, 20), (38, 63), (33, 100)]


@pytest.fixture(params=["grid", "rows"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Sample by the grid, or by rows brought there two channels at a time."""
    monkeypatch.setattr(ops, "SHORT", {"grid": 1000, "rows": 0}[request.param])
    monkeypatch.setattr(ops, "AT_ONCE", 0)
    monkeypatch.setattr(ops, "LEAST", 2)
    return str(request.param)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_flow_is_the_identity_exactly(size, dtype, way):
    features = torch.randn(2, 3, *size, dtype=dtype)
    assert torch.equal(warp(features, torch.zeros(2, 2, *size, dtype=dtype)), features)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(-9, 9), st.integers(-9, 9))
def test_integer_flow_is_a_shift_exactly(way, height, width, dx, dy):
    features = torch.randn(1, 2, height, width)
    flow = torch.tensor([dx, dy], dtype=torch.float32).view(1, 2, 1, 1).expand(1, 2, height, width)
    expected = torch.zeros_like(features)
    for y in range(height):
        for x in range(width):
            if 0 <= y + dy < height and 0 <= x + dx < width:
                expected[..., y, x] = features[..., y + dy, x + dx]
    assert torch.equal(warp(features, flow), expected)


def test_agrees_with_scipy_on_fractional_flow(way):
    generator = np.random.default_rng(0)
    height, width = 13, 21
    features = generator.normal(size=(2, 4, height, width))
    flow = generator.normal(scale=4.0, size=(2, 2, height, width))
    y, x = np.mgrid[:height, :width]
    expected = np.empty_like(features)
    for b in range(2):
        for c in range(4):
            # scipy's "constant" cuts at the last sample; a border of zeros ends it as Eq. 2 does.
            padded = np.pad(features[b, c], 1)
            expected[b, c] = map_coordinates(
                padded, [y + flow[b, 1] + 1, x + flow[b, 0] + 1], order=1, mode="constant"
            )
    ours = warp(torch.from_numpy(features), torch.from_numpy(flow)).numpy()
    np.testing.assert_allclose(ours, expected, atol=1e-12)


def test_scale_multiplies_element_by_element():
    features, scale = torch.randn(1, 3, 4, 5), torch.randn(1, 3, 4, 5)
    assert torch.equal(warp(features, torch.zeros(1, 2, 4, 5), scale), features * scale)


def test_gradients_of_equation_4(way):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    features = draw(1, 3, 5, 6).requires_grad_()
    # Away from whole pixels, where the bilinear kernel has a kink.
    flow = (draw(1, 2, 5, 6).round() + 0.3).requires_grad_()
    scale = draw(1, 3, 5, 6).requires_grad_()
    assert torch.autograd.gradcheck(warp, (features, flow, scale))
    for fixed in (features, flow):  # the gradient of either alone
        assert torch.autograd.gradcheck(
            warp, tuple(each.detach() if each is fixed else each for each in (features, flow))
        )
    rows = features.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    assert torch.autograd.gradcheck(warp, (rows, flow, scale))


def test_rows_give_the_gradients_of_the_grid(monkeypatch):
    generator = torch.Generator().manual_seed(1)
    given = torch.randn(2, 6, 38, 63, generator=generator)
    flow = 4 * torch.randn(2, 2, 38, 63, generator=generator)
    sampled, weight = [], torch.randn(2, 6, 38, 63, generator=generator)
    for short in (1000, 0):
        monkeypatch.setattr(ops, "SHORT", short)
        inputs = given.clone().requires_grad_(), flow.clone().requires_grad_()
        result = warp(*inputs)
        sampled.append((result.detach(), *torch.autograd.grad((result * weight).sum(), inputs)))
    for ours, theirs in zip(*sampled, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_no_second_map_is_kept_for_the_gradient():
    """What plain grid_sample keeps: the features, and two numbers for each of 75 x 125 cells."""
    kept: list[torch.Tensor] = []
    features = torch.randn(1, 512, 75, 125, requires_grad=True)
    flow = torch.randn(1, 2, 75, 125, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda each: kept.append(each) or each, lambda each: each
    ):
        warp(features, flow)
    storages = {each.untyped_storage().data_ptr(): each.numel() for each in kept}
    assert sum(storages.values()) <= 1.1 * features.numel()


def test_half_precision_features_are_sampled_at_full_precision(way):
    features = torch.randn(1, 2, 3, 300).bfloat16()
    assert torch.equal(warp(features, torch.zeros(1, 2, 3, 300)), features)


@pytest.mark.parametrize("shape", [(1, 2, 4, 6), (1, 3, 4, 5)])
def test_a_displacement_of_another_grid_is_refused(shape):
    with pytest.raises(ValueError, match="expected \\(B, 2, 4, 5\\)"):
        warp(torch.zeros(1, 3, 4, 5), torch.zeros(shape))


def test_resized_flow_moves_the_same_way():
    # A camera motion of (8, -4) pixels at stride 1 is (1, -0.5) at stride 8, whatever the rounding.
    flow = torch.tensor([8.0, -4.0]).view(1, 2, 1, 1).expand(1, 2, 37, 41)
    resized = resize_flow(flow, (5, 6), ratio=1 / 8)
    torch.testing.assert_close(
        resized, torch.tensor([1.0, -0.5]).view(1, 2, 1, 1).expand(1, 2, 5, 6)
    )


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_rows_give_what_maps_give(size):
    generator = torch.Generator().manual_seed(0)
    features, scale = (torch.randn(2, 5, *size, generator=generator) for _ in range(2))
    flow = 4 * torch.randn(2, 2, *size, generator=generator)
    flow[0, :, 0] = 1e6  # far outside
    (rows,) = in_rows((features,))
    ours, theirs = (warp(f, flow, scale) for f in (rows, features))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    assert min(size) == 1 or ours.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(warp(rows, torch.zeros_like(flow)), features)
    whole = flow.round().clamp(-9, 9)
    assert torch.equal(warp(rows, whole), warp(features, whole))


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("way", ["inference", "training", "grid"])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_flow_that_is_no_number_gives_none(broken, way, axis):
    """In training as in inference, in every channel of that cell and nowhere else."""
    features, flow = torch.ones(1, 3, 4, 5), torch.zeros(1, 2, 4, 5)
    flow[0, axis, 1, 2] = broken
    with torch.set_grad_enabled(way != "inference"):
        rows = features.contiguous(memory_format=torch.channels_last)
        found = warp((features if way == "grid" else rows).requires_grad_(), flow)
    expected = torch.zeros(1, 3, 4, 5, dtype=torch.bool)
    expected[..., 1, 2] = True
    assert torch.equal(found.isnan(), expected)
    assert (found[~expected] == 1).all()


def test_rows_are_of_inference_alone():
    features = torch.randn(1, 3, 4, 5, requires_grad=True)
    assert in_rows((features,))[0] is features
    warp(features.contiguous(memory_format=torch.channels_last), torch.zeros(1, 2, 4, 5)).sum()


@torch.no_grad()
def test_rows_and_maps_count_the_same_operations():
    meter = FlopMeter()
    features, flow = torch.randn(2, 3, 4, 5), torch.zeros(2, 2, 4, 5)
    with metering(meter):
        for each in (features, *in_rows((features,))):
            with part("W"):
                warp(each, flow)
    assert meter.flops["W"] == [8 * 2 * 3 * 4 * 5] * 2
