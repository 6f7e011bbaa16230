"""Position-sensitive votes against a loop, torchvision, and finite differences."""

import math

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import ps_roi_pool

from flowfeat.ops.position_sensitive import (
    ONE_THREAD,
    integral_image,
    position_sensitive_vote,
    sums_by_rows,
)


def random_rois(count: int, height: int, width: int) -> torch.Tensor:
    corners = torch.rand(count, 2, 2) * torch.tensor([width, height])
    low, high = corners.min(1).values, corners.max(1).values
    low = torch.minimum(low, torch.tensor([width - 9.0, height - 9.0]))
    return torch.cat((low, torch.maximum(high, low + 1)), 1)


def loop(maps: torch.Tensor, roi: list[float], k: int, stride: int) -> list[float]:
    """R-FCN, Eq. 1: every bin is the mean of its cells, the vote the mean of the bins."""
    channels, height, width = maps.shape
    classes = channels // (k * k)
    x0, y0, x1, y1 = (math.floor(v / stride + 0.5) for v in roi)
    x0, y0 = min(x0, width - 1), min(y0, height - 1)
    w, h = max(x1 - x0, 1), max(y1 - y0, 1)
    votes = [0.0] * classes
    for i in range(k):
        for j in range(k):
            rows = range(y0 + math.floor(i * h / k), min(y0 + math.ceil((i + 1) * h / k), height))
            columns = range(x0 + math.floor(j * w / k), min(x0 + math.ceil((j + 1) * w / k), width))
            for c in range(classes):
                cells = [
                    maps[(i * k + j) * classes + c, y, x].item() for y in rows for x in columns
                ]
                votes[c] += sum(cells) / len(cells) / (k * k)
    return votes


@pytest.mark.parametrize("k", [1, 3, 7])
def test_votes_equal_a_loop(k: int) -> None:
    torch.manual_seed(k)
    maps = torch.randn(2, k * k * 3, 9, 11)
    rois = torch.cat((random_rois(12, 72, 88), torch.tensor([[87.0, 71, 88, 72], [0, 0, 88, 72]])))
    owners = torch.arange(14) % 2
    votes = position_sensitive_vote(maps, rois, owners, k, 8)
    expected = [loop(maps[o], roi, k, 8) for o, roi in zip(owners, rois.tolist(), strict=True)]
    torch.testing.assert_close(votes, torch.tensor(expected), atol=1e-5, rtol=1e-5)


def test_votes_equal_torchvision_on_a_map_with_one_more_row_and_column() -> None:
    """Torchvision never pools the last row and column, so it gets one of each to leave out."""
    torch.manual_seed(0)
    k, classes, height, width = 7, 5, 38, 63
    maps = torch.randn(2, k * k, classes, height, width)
    rois, owners = random_rois(200, height * 16, width * 16), torch.arange(200) % 2
    votes = position_sensitive_vote(maps.flatten(1, 2), rois, owners, k, 16)
    theirs = F.pad(maps.transpose(1, 2).flatten(1, 2), (0, 1, 0, 1))
    pooled = ps_roi_pool(theirs, torch.cat((owners[:, None].float(), rois), 1), k, 1 / 16)
    torch.testing.assert_close(votes, pooled.mean((2, 3)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_equal_torchvisions_on_a_map_with_one_more_row_and_column(
    layout: torch.memory_format,
) -> None:
    torch.manual_seed(3)
    k, classes, height, width = 7, 5, 38, 63
    maps = torch.randn(2, k * k * classes, height, width).to(memory_format=layout)
    maps.requires_grad_()
    rois, owners = random_rois(200, height * 16, width * 16), torch.arange(200) % 2
    given = torch.randn(200, classes)
    votes = position_sensitive_vote(maps, rois, owners, k, 16)
    (ours,) = torch.autograd.grad(votes, maps, given)
    theirs = maps.unflatten(1, (k * k, classes)).transpose(1, 2).flatten(1, 2)
    entries = torch.cat((owners[:, None].float(), rois), 1)
    pooled = ps_roi_pool(F.pad(theirs, (0, 1, 0, 1)), entries, k, 1 / 16)
    (expected,) = torch.autograd.grad(pooled.mean((2, 3)), maps, given)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_pixel_corners_keep_fractions_of_cells() -> None:
    maps = torch.arange(8.0).expand(1, 1, 8, 8).contiguous()  # each cell holds its column
    roi, owner = torch.tensor([[12.0, 0, 28, 8]]), torch.tensor([0])
    # 12 / 8 = 1.5 .. 28 / 8 = 3.5 touches cells 1, 2, 3; rounded to cells it is 2 .. 4: cells 2, 3.
    assert position_sensitive_vote(maps, roi, owner, 1, 8, "pixels").item() == 2.0
    assert position_sensitive_vote(maps, roi, owner, 1, 8, "cells").item() == 2.5
    # Two bins, each one cell wide: their edges are whole cells and claim no neighbour.
    two = torch.zeros(1, 4, 8, 8)
    two[:, 0::2, :, 2], two[:, 1::2, :, 3] = 1.0, 1.0
    whole = torch.tensor([[16.0, 0, 32, 16]])
    assert position_sensitive_vote(two, whole, owner, 2, 8, "pixels").item() == 1.0


@pytest.mark.parametrize("band", [1, ONE_THREAD])
@pytest.mark.parametrize("corners", ["cells", "pixels"])
def test_gradients_are_those_of_finite_differences(
    corners: str, band: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures and columns one by one, and all of them together."""
    monkeypatch.setattr("flowfeat.ops.position_sensitive.ONE_THREAD", band)
    torch.manual_seed(1)
    maps = torch.randn(2, 8, 4, 5, dtype=torch.float64, requires_grad=True)
    rois, owners = random_rois(4, 32, 40), torch.tensor([0, 1, 1, 0])
    assert torch.autograd.gradcheck(
        lambda m: position_sensitive_vote(m, rois, owners, 2, 8, corners), (maps,)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_by_rows_is_that_of_the_cumulative_sums(dtype: torch.dtype) -> None:
    """What every device but the CPU does gives the same, in the type of the maps."""
    maps = torch.randn(3, 6, 9, 5, generator=torch.Generator().manual_seed(4)).to(dtype)
    maps.requires_grad_()
    roi, owner = torch.tensor([[8.0, 16, 33, 66]] * 3), torch.arange(3)
    (ours,) = torch.autograd.grad(position_sensitive_vote(maps, roi, owner, 1, 8).sum(), maps)
    sums = integral_image(maps)  # columns 1 .. 3, rows 2 .. 7
    inside = sums[:, 8, 4] - sums[:, 2, 4] - sums[:, 8, 1] + sums[:, 2, 1]
    (expected,) = torch.autograd.grad(inside.sum() / 18, maps)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, expected)


def test_nothing_of_the_maps_is_kept_for_the_gradient() -> None:
    kept: list[torch.Tensor] = []
    maps = torch.randn(1, 9 * 50, 20, 30, requires_grad=True)
    rois, owners = random_rois(4, 160, 240), torch.zeros(4, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda each: kept.append(each) or each, lambda each: each
    ):
        position_sensitive_vote(maps, rois, owners, 3, 8)
    assert sum(each.numel() for each in kept) < maps.numel() / 100


def test_no_rois_and_wrong_channels() -> None:
    maps, none = torch.zeros(1, 8, 4, 4), torch.zeros(0, 4)
    assert position_sensitive_vote(maps, none, torch.zeros(0).long(), 2, 8).shape == (0, 2)
    with pytest.raises(ValueError, match=r"8 channels.*k \* k = 9"):
        position_sensitive_vote(maps, none, torch.zeros(0).long(), 3, 8)


@pytest.mark.parametrize("band", [1, 4 * 6, ONE_THREAD])  # numbers: less than a cell, 4 cells, all
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_sums_by_rows_are_torchs_own_to_the_bit(
    band: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowfeat.ops.position_sensitive.ONE_THREAD", band)
    maps = torch.randn(2, 6, 9, 5, generator=torch.Generator().manual_seed(2)).to(dtype)
    by_rows = sums_by_rows(maps)
    assert torch.equal(by_rows, integral_image(maps))
    expected = F.pad(maps.double().cumsum(2).cumsum(3), (1, 0, 1, 0)).permute(0, 2, 3, 1)
    torch.testing.assert_close(by_rows, expected, atol=1e-12, rtol=0)
