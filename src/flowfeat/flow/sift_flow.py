"""SIFT Flow: dense SIFT matched by belief propagation, coarse to fine, for SFF of Table 3.

Liu, Yuen and Torralba, SIFT Flow: Dense Correspondence across Scenes and its Applications, TPAMI
2011. In torch, for a batch at once on any device; no weights and no gradient.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from flowfeat.flow.belief_propagation import Field, minimise
from flowfeat.flow.dense_sift import BYTE, dense_sift
from flowfeat.flow.full_flow import FullFlow


class SIFTFlow(FullFlow):
    """Integer displacements of least energy; the defaults are those of the authors' demonstration.

    Args:
        channels: See :class:`FullFlow`.
        strides: See there.
        halve: See there; the demonstration halves its frames.
        cell: Side of a SIFT cell in pixels.
        smoothness: alpha, of the L1 distance of neighbours' displacements, x 255.
        smoothness_limit: d, where it stops to grow, x 255.
        smallness: Of the L1 norm of the displacement (eta, the demonstration's gamma), x 255;
            doubled on every coarser level, where a pixel is twice as long.
        match_limit: t, where the L1 distance of descriptors stops to grow, x 255; None: nowhere.
        levels: Of the pyramid, each of half the size.
        top_radius: Of the search window on the coarsest level, in its pixels.
        radius: Of the window on the finest level; one more on every coarser one.
        top_iterations: Of belief propagation on the coarsest level.
        iterations: On the others.

    Raises:
        ValueError: A setting below its least value.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        halve: bool = False,
        cell: int = 3,
        smoothness: float = 2.0,
        smoothness_limit: float = 40.0,
        smallness: float = 0.005,
        match_limit: float | None = None,
        levels: int = 4,
        top_radius: int = 10,
        radius: int = 2,
        top_iterations: int = 60,
        iterations: int = 30,
    ) -> None:
        super().__init__(channels, strides, halve)
        counts = {"cell": cell, "levels": levels, "top_radius": top_radius, "radius": radius}
        counts |= {"top_iterations": top_iterations, "iterations": iterations}
        for name, count in counts.items():
            if count < 1:
                raise ValueError(f"flow.{name}={count}: expected at least 1")
        weights = {"smoothness": smoothness, "smoothness_limit": smoothness_limit}
        weights |= {"smallness": smallness, "match_limit": match_limit or 0.0}
        for name, weight in weights.items():
            if weight < 0:
                raise ValueError(f"flow.{name}={weight}: expected at least 0")
        self.cell, self.levels = cell, levels
        self.slope, self.limit = smoothness * BYTE, smoothness_limit * BYTE
        self.small = smallness * BYTE
        self.match_limit = None if match_limit is None else match_limit * BYTE
        self.top_radius, self.radius = top_radius, radius
        self.top_iterations, self.iterations = top_iterations, iterations

    @torch.no_grad()
    def displacement(self, current: Tensor, key: Tensor) -> Tensor:
        """Match coarse to fine (section 2.3): every level searches around the one above."""
        # Levels are means of 2 x 2 descriptors (the authors smooth and resize bicubically): cells
        # of one pixel cover exactly two of the finer level, at odd sizes too.
        pyramid = [dense_sift(torch.cat((current, key)), self.cell)]
        while len(pyramid) < self.levels:
            pyramid.append(F.avg_pool2d(pyramid[-1], 2, ceil_mode=True))
        field: Field | None = None
        for level in reversed(range(self.levels)):
            ours, theirs = pyramid[level].permute(0, 2, 3, 1).contiguous().chunk(2)
            radius = self.top_radius if field is None else self.radius + level
            iterations = self.top_iterations if field is None else self.iterations
            centre = _centre(field, ours)
            data = matching_cost(ours, theirs, centre, radius)
            if self.match_limit is not None:
                data.clamp_(max=self.match_limit)
            small = self.small * 2**level
            field = minimise(data, centre, small, self.slope, self.limit, iterations)
        assert field is not None  # there is at least one level
        return field.transpose(0, 1).to(current.dtype)


def matching_cost(ours: Tensor, theirs: Tensor, centre: Field, radius: int) -> Tensor:
    """Compare every pixel's descriptor with those in its search window.

    A match outside the key frame costs the median of the pair's other matches, as in the authors'
    code: neither forbidden nor sought.

    Args:
        ours: (B, h, w, C), descriptors of the current frame.
        theirs: Those of the key frame.
        centre: (2, B, h, w) i64, the windows' middles as displacements.
        radius: The windows have 2 * radius + 1 labels per axis.

    Returns:
        (L, L, B, h, w) L1 distances; by dy, then dx.
    """
    batch, height, width, depth = ours.shape
    side = 2 * radius + 1
    rows, columns = (torch.arange(n, device=ours.device) for n in (height, width))
    x, y = columns + centre[0], rows[:, None] + centre[1]
    pair = torch.arange(batch, device=ours.device)[:, None, None] * height
    queries, pool = ours.view(-1, depth), theirs.reshape(-1, depth)
    costs = ours.new_empty(side, side, batch, height, width)
    for j in range(side):
        for i in range(side):
            to_x, to_y = x + (i - radius), y + (j - radius)
            place = (pair + to_y.clamp(0, height - 1)) * width + to_x.clamp(0, width - 1)
            distance = pool.index_select(0, place.flatten()).sub_(queries).abs_().sum(1)
            outside = (to_x < 0) | (to_x >= width) | (to_y < 0) | (to_y >= height)
            costs[j, i] = distance.view(place.shape).masked_fill_(outside, torch.nan)
    flat = costs.transpose(0, 2).reshape(batch, -1)
    usual = flat.nanmedian(1).values.nan_to_num(0.0)[:, None, None]
    return torch.where(costs.isnan(), usual, costs)


def _centre(coarse: Field | None, ours: Tensor) -> Field:
    """Bring a coarser field (2, B, h', w') to the grid of descriptors (B, h, w, C)."""
    batch, height, width, _ = ours.shape
    if coarse is None:
        return torch.zeros(2, batch, height, width, dtype=torch.int64, device=ours.device)
    fine = F.interpolate(coarse.float(), scale_factor=2, mode="bilinear") * 2
    return fine[..., :height, :width].round().long()
