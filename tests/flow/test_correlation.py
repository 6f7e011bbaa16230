"""The correlation network: what it compares, and that a shift of the picture is seen at once."""

import pytest
import torch

from flowfeat.flow.correlation import CorrelationFlow, correlate


def test_correlation_is_the_inner_product_with_each_neighbour():
    generator = torch.Generator().manual_seed(0)
    current, key = torch.randn(2, 2, 3, 5, 7, generator=generator)
    ours = correlate(current, key, radius=2)
    for y in range(5):
        for x in range(7):
            for dy in range(-2, 3):
                for dx in range(-2, 3):
                    inside = 0 <= y + dy < 5 and 0 <= x + dx < 7
                    other = key[:, :, y + dy, x + dx] if inside else torch.zeros(2, 3)
                    entry = ours[:, (dy + 2) * 5 + dx + 2, y, x]
                    torch.testing.assert_close(entry, (current[:, :, y, x] * other).sum(1))


@pytest.mark.parametrize("size", [(9, 11), (5, 70), (1, 3)])
def test_windows_give_what_whole_rows_give(size, monkeypatch):
    """Forward to the last bits, and both gradients."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(2, 2, 4, *size, generator=generator)
    weight = torch.randn(2, 49, *size, generator=generator)
    found = []
    for wide in (0, 100):
        monkeypatch.setattr("flowfeat.flow.correlation.WIDE", wide)
        current, key = (each.clone().requires_grad_() for each in inputs)
        products = correlate(current, key, radius=3)
        found.append((products, *torch.autograd.grad((products * weight).sum(), (current, key))))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_a_wide_map_needs_no_memory_beyond_what_is_kept():
    """At 128 x 256 cells whole rows took 366 MB beside the result's 16."""
    kept: list[torch.Tensor] = []
    current, key = (torch.randn(1, 4, 16, 256, requires_grad=True) for _ in range(2))
    with torch.autograd.graph.saved_tensors_hooks(
        lambda each: kept.append(each) or each, lambda each: each
    ):
        correlate(current, key, radius=5)
    assert sum(each.numel() for each in kept) == current.numel() + key.numel()


def test_an_untrained_network_already_points_along_a_shift():
    """The key frame lies 16 pixels to the left: two cells of a stride of 8."""
    torch.manual_seed(0)
    network = CorrelationFlow((4,), (8,)).eval()
    with torch.no_grad():
        network.sharpness.fill_(200)
    wide = torch.rand(1, 3, 64, 144)
    current, key = wide[..., :128], wide[..., 16:]
    with torch.no_grad():
        flow = network(current, key)
    interior = flow.displacement[0, :, 2:-2, 4:-4]
    torch.testing.assert_close(
        interior.median(1).values.median(1).values, torch.tensor([-2.0, 0.0]), atol=0.2, rtol=0
    )
    assert torch.equal(flow.scale, torch.ones_like(flow.scale))


@pytest.mark.parametrize(
    ("pixels", "levels", "seen"),
    [(64, 1, False), (16, 2, True), (64, 2, True), (80, 2, True), (96, 2, False), (128, 3, True)],
)
def test_a_coarser_level_sees_twice_as_far(pixels, levels, seen):
    """The key frame lies some pixels to the left; radius 5 sees 40, 80 and 160."""
    torch.manual_seed(0)
    network = CorrelationFlow((4,), (8,), levels=levels).eval()
    assert network.reach == 20 * 2 ** (levels - 1)  # of the halved frame
    wide = torch.rand(1, 3, 96, 256 + pixels)
    with torch.no_grad():
        network.sharpness.fill_(200)
        flow = network(wide[..., :256], wide[..., pixels:])
    cells = pixels // 8
    interior = flow.displacement[0, :, 2:-2, cells + 2 : -2].flatten(1).median(1).values
    truth = torch.tensor([-cells, 0.0])
    assert torch.allclose(interior, truth, atol=0.3) is seen


def test_every_displacement_is_searched_at_one_level_alone():
    cells = CorrelationFlow((4,), (8,), levels=3).cells
    searched = {tuple(each) for each in cells.t().tolist()}
    assert len(searched) == cells.shape[1] == 121 + 2 * 96
    assert cells.abs().max() == 20
    assert torch.equal(CorrelationFlow((4,), (8,)).cells, cells[:, :121])


def test_levels_of_odd_maps_have_gradients():
    """61 x 77 pixels: maps of 8 x 10 cells, then 4 x 5, then 2 x 3."""
    torch.manual_seed(0)
    network = CorrelationFlow((4,), (8,), levels=3)
    flow = network(*torch.rand(2, 1, 3, 61, 77))
    assert flow.displacement.shape == (1, 2, 8, 10)
    flow.displacement.square().sum().backward()
    assert all(weight.grad.isfinite().all() for weight in network.encoder.parameters())


@pytest.mark.parametrize("stride", [4, 8, 16, 32])
@pytest.mark.parametrize("size", [(64, 80), (61, 77)])
def test_flow_lies_on_the_feature_grid_in_its_pixels(stride, size):
    torch.manual_seed(0)
    network = CorrelationFlow((4,), (stride,)).eval()
    reference = CorrelationFlow((4,), (8,)).eval()
    reference.load_state_dict(network.state_dict())
    frames = torch.rand(2, 1, 3, *size)
    with torch.no_grad():
        flow, at_8 = network(*frames), reference(*frames)
    assert flow.displacement.shape[-2:] == (-(-size[0] // stride), -(-size[1] // stride))
    assert flow.scale.shape[-2:] == flow.displacement.shape[-2:]
    ours = flow.displacement.mean((2, 3)) * stride
    torch.testing.assert_close(ours, at_8.displacement.mean((2, 3)) * 8, rtol=0.2, atol=1.0)


def test_no_cells_and_no_levels_are_refused():
    with pytest.raises(ValueError, match=r"flow\.radius=0"):
        CorrelationFlow((4,), (8,), radius=0)
    with pytest.raises(ValueError, match=r"flow\.levels=0: expected at least 1"):
        CorrelationFlow((4,), (8,), levels=0)
