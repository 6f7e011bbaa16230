"""Any flow plugs in: known motion through OpenCV's flows, RAFT's padding, units and grids."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from flowfeat.flow.full_flow import FullFlow
from flowfeat.flow.opencv_flow import DIS, Farneback
from flowfeat.flow.torchvision_flow import RAFT
from flowfeat.ops.warp import warp


class Painted(FullFlow):
    """Claims that everything moves by one amount, and remembers the size that it saw."""

    def displacement(self, current: Tensor, key: Tensor) -> Tensor:
        self.saw = tuple(current.shape[-2:])
        flow = current.new_zeros(len(current), 2, *self.saw)
        flow[:, 0], flow[:, 1] = 4.0, -2.0
        return flow


def texture(seed: int, height: int, width: int) -> Tensor:
    """Return a smooth random picture (3, H, W)."""
    noise = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))
    smooth = F.avg_pool2d(F.avg_pool2d(noise, 5, 1, 2), 5, 1, 2)[0]
    return (smooth - smooth.min()) / (smooth.max() - smooth.min())


def moved(seed: int, dx: int, dy: int, height: int = 70, width: int = 99) -> tuple[Tensor, Tensor]:
    """Return frames (1, 3, H, W) with current(x) = key(x + d)."""
    whole = texture(seed, height + 40, width + 40)
    key = whole[:, 20 : 20 + height, 20 : 20 + width]
    current = whole[:, 20 + dy : 20 + dy + height, 20 + dx : 20 + dx + width]
    return current[None], key[None]


@pytest.mark.parametrize("halve", [False, True])
@pytest.mark.parametrize("kind", [DIS, Farneback])
def test_hand_made_flow_finds_known_motion_in_cells(kind, halve):
    """Two pairs that move apart, on an odd grid: (6, -4) pixels are (0.75, -0.5) cells of 8."""
    pairs = [moved(0, 6, -4), moved(1, -3, 5)]
    current, key = (torch.cat(frames) for frames in zip(*pairs, strict=True))
    flow = kind((16,), (8,), halve=halve)(current, key)
    assert flow.scale is None
    assert flow.displacement.shape == (2, 2, 9, 13)
    middle = flow.displacement[..., 2:-2, 2:-2]
    for row, truth in enumerate(((6, -4), (-3, 5))):
        for axis in range(2):
            error = (middle[row, axis] * 8 - truth[axis]).abs().median()
            assert error < 0.3, (row, axis, middle[row, axis].median() * 8)


def test_hand_made_flow_carries_features():
    """Warping a strided picture by DIS explains the current one far better than copying."""
    current, key = moved(2, 8, 8)
    small_current, small_key = (F.avg_pool2d(frame, 4, ceil_mode=True) for frame in (current, key))
    carried = warp(small_key, DIS((3,), (4,))(current, key).displacement)
    inside = (slice(None), slice(None), slice(3, -3), slice(3, -3))
    error = (carried - small_current)[inside].abs().mean()
    assert error < 0.3 * (small_key - small_current)[inside].abs().mean()


@pytest.mark.parametrize("stride", [1, 2, 4, 7, 8, 16])
@pytest.mark.parametrize("halve", [False, True])
def test_uniform_flow_is_divided_by_the_stride(stride, halve):
    flow = Painted((3, 5), (2 * stride, stride), halve)
    frames = torch.rand(1, 3, 61, 45)
    displacement = flow(frames, frames).displacement
    assert displacement.shape == (1, 2, math.ceil(61 / stride), math.ceil(45 / stride))
    assert flow.saw == ((31, 23) if halve else (61, 45))
    factor = (2 if halve else 1) / stride
    expected = torch.tensor([4.0, -2.0])[None, :, None, None] * factor
    torch.testing.assert_close(displacement, expected.expand_as(displacement))


def test_pyramid_is_in_pixels_of_the_frames_given():
    frames = torch.rand(1, 3, 130, 100)
    flow = Painted((3,), (8,), halve=True)
    pyramid = flow.pyramid(frames, frames)
    assert flow.saw == (130, 100)
    for level, stride in zip(pyramid, (64, 32, 16, 8, 4), strict=True):
        assert level.shape == (1, 2, math.ceil(130 / stride), math.ceil(100 / stride))
        assert (level[:, 0] == 4).all()
        assert (level[:, 1] == -2).all()


def test_frames_that_are_too_small_are_named():
    frames = torch.rand(1, 3, 4, 9)
    with pytest.raises(ValueError, match=r"DIS refuses frames of 4x9 \("):
        DIS((3,), (2,))(frames, frames)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: DIS((3,), (8,), preset="best"), "flow.preset='best': expected one of ultrafast"),
        (lambda: Farneback((3,), (8,), levels=0), "flow.levels=0: expected at least 1"),
        (lambda: Farneback((3,), (8,), neighbourhood=6), "flow.neighbourhood=6: expected 5 or 7"),
        (lambda: RAFT((3,), (8,), model="raft"), "flow.model='raft': expected one of raft_small"),
        (
            lambda: RAFT((3,), (8,), pretrained="X"),
            "flow.pretrained=X: raft_small has no such weights",
        ),
        (lambda: RAFT((3,), (8,), updates=0), "flow.updates=0: expected at least 1"),
    ],
)
def test_impossible_settings_are_refused(build, said):
    with pytest.raises(ValueError, match=said):
        build()


class Recorded(torch.nn.Module):
    """Stands in for torchvision's network: returns what it is asked to, in its two iterations."""

    def forward(self, first: Tensor, second: Tensor, num_flow_updates: int) -> list[Tensor]:
        self.first, self.second, self.updates = first, second, num_flow_updates
        rows = torch.arange(first.shape[-2], dtype=torch.float32)[None, None, :, None]
        last = rows.expand(len(first), 2, -1, first.shape[-1])
        return [torch.zeros_like(last), last]


def test_raft_sees_padded_pairs_and_its_last_flow_counts():
    flow = RAFT((3,), (1,), halve=False, updates=2)
    flow.network = Recorded()
    current, key = torch.rand(2, 3, 50, 133), torch.rand(2, 3, 50, 133)
    displacement = flow(current, key).displacement
    seen = flow.network
    assert seen.updates == 2
    assert seen.first.shape == (2, 3, 128, 136)
    torch.testing.assert_close(seen.first[..., :50, :133], current * 2 - 1)
    torch.testing.assert_close(seen.second[..., :50, :133], key * 2 - 1)
    assert torch.equal(
        seen.first[..., 50:, :133], seen.first[..., 49:50, :133].expand(-1, -1, 78, -1)
    )
    assert displacement.shape == (2, 2, 50, 133)
    assert torch.equal(displacement[0, 0, :, 5], torch.arange(50.0))
