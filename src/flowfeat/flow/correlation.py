"""A light flow network that compares the frames cell by cell; learns within a minute from scratch.

The paper's FlowNet must discover matching by itself, which takes days of Flying Chairs. Here, as in
FlowNet's other version (FlowNetC), a correlation of learned features is built in.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from flowfeat.flow.refinement import LEAK, convolution, in_full
from flowfeat.interfaces import Flow, FlowNetwork
from flowfeat.ops.precision import without_autocast
from flowfeat.ops.warp import resize_flow

CELL = 4  # pixels of the (halved) input per cell of the correlation
WIDE = 64  # cells of a row from which a matrix product of whole rows computes far more than is kept


class CorrelationFlow(FlowNetwork):
    """Correlation over a window of cells, its soft maximum, and convolutions that correct it.

    Args:
        channels: Channels per level of the features that the flow will propagate.
        strides: Their strides; the flow is given on the finest level's grid.
        width: Channels of the compared features.
        radius: Cells searched in each direction; one cell is 8 pixels of the frame, and nothing
            beyond is seen: the default reaches 40 pixels, enough for the embedded data.
        with_scale: Predict the scale field S; without it, ``scale`` is None.
        levels: Scales of the features that are searched. Each further one has cells of twice the
            size and so doubles the reach (2: 80 pixels, 3: 160), for large frames; it adds only
            what lies beyond the window of the one before.

    Raises:
        ValueError: A radius or levels below 1; channels and strides that do not pair up.
    """

    cells: Tensor
    beyond: Tensor

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        width: int = 64,
        radius: int = 5,
        with_scale: bool = True,
        levels: int = 1,
    ) -> None:
        super().__init__()
        for name, value in (("radius", radius), ("levels", levels)):
            if value < 1:
                raise ValueError(f"flow.{name}={value}: expected at least 1")
        if not strides or len(strides) != len(channels):
            raise ValueError(f"channels={channels}, strides={strides}: expected one each per level")
        self.stride, self.radius, self.levels = min(strides), radius, levels
        self.reach = radius * CELL * 2 ** (levels - 1)
        self.encoder = nn.Sequential(
            convolution(3, width // 2, 5, 2, groups=8),
            convolution(width // 2, width, 3, 2, groups=8),
            nn.Conv2d(width, width, 3, padding=1),
        )
        steps = range(-radius, radius + 1)
        window = [(dx, dy) for dy in steps for dx in steps]
        # Of a coarser level, the entries of the window that the finer one does not reach.
        beyond = [n for n, cell in enumerate(window) if 2 * max(map(abs, cell)) > radius]
        cells = torch.tensor(window, dtype=torch.float32).t().contiguous()  # (2, (2 R + 1)^2)
        further = [cells[:, beyond] * 2**level for level in range(1, levels)]
        self.register_buffer("cells", torch.cat((cells, *further), 1), persistent=False)
        self.register_buffer("beyond", torch.tensor(beyond), persistent=False)
        self.decoder = nn.Sequential(
            convolution(self.cells.shape[1] + width + 2, 96, 3, groups=8),
            convolution(96, 64, 3, groups=8),
            convolution(64, 64, 3, groups=8),
        )
        self.coarse_channels = 64
        self.correct = nn.Conv2d(64, 2, 3, padding=1)
        self.has_scale = with_scale
        self.scale = nn.Conv2d(64, sum(channels), 1) if with_scale else None
        self.sharpness = nn.Parameter(torch.tensor(10.0))
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=LEAK)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.correct.weight, std=1e-3)
        if self.scale is not None and self.scale.bias is not None:
            nn.init.zeros_(self.scale.weight)
            nn.init.ones_(self.scale.bias)

    def pyramid(self, current: Tensor, key: Tensor) -> tuple[Tensor, ...]:
        """Return the one displacement that it has, at stride 4, in pixels of the frames given."""
        return (self._match(current, key)[0] * CELL,)

    def forward(self, current: Tensor, key: Tensor) -> Flow:
        height, width = current.shape[-2:]
        halves = (F.avg_pool2d(frame, 2, ceil_mode=True) for frame in (current, key))
        displacement, decoded = self._match(*halves)
        coarse = decoded
        stride = 2 * CELL  # in pixels of the frame
        if self.stride > stride and self.stride % stride == 0:
            decoded = F.avg_pool2d(decoded, self.stride // stride, ceil_mode=True)
        size = (-(-height // self.stride), -(-width // self.stride))
        displacement = resize_flow(displacement, size, stride / self.stride)
        scale = None if self.scale is None else self.scale(decoded)
        if scale is not None and scale.shape[-2:] != size:
            # Around 1: the weights of interpolation may add up to slightly less.
            scale = 1 + F.interpolate(scale - 1, size, mode="bilinear", align_corners=False)
        return Flow(displacement, scale, coarse)

    def _match(self, current: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Return the displacement in cells (B, 2, h, w) and the decoded features (B, 64, h, w)."""
        both = self.encoder(torch.cat((current, key)) - 0.5)
        ours, theirs = both.chunk(2)
        with without_autocast(both.device):  # 8 bits are too few to compare
            costs = self._compare(ours.to(self.sharpness), theirs.to(self.sharpness))
        likely = (costs * self.sharpness).softmax(1)
        # A product, not a matrix product, which autocast would take in bfloat16: 1/32 cell at 8.
        expected = (likely.float()[:, None] * self.cells[:, :, None, None]).sum(2)
        decoded = self.decoder(torch.cat((costs, ours, expected), dim=1))
        return expected + in_full(self.correct, decoded), decoded

    def _compare(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """Return the cosine of every cell with each of ``cells`` around it (B, K, h, w)."""
        height, width = ours.shape[-2:]
        costs = [correlate(F.normalize(ours), F.normalize(theirs), self.radius)]
        for level in range(1, self.levels):
            ours, theirs = (F.avg_pool2d(half, 2, ceil_mode=True) for half in (ours, theirs))
            coarse = correlate(F.normalize(ours), F.normalize(theirs), self.radius)
            coarse = coarse.index_select(1, self.beyond)
            for axis in (2, 3):  # a coarse cell's costs are those of all fine cells in it
                coarse = coarse.repeat_interleave(2**level, axis)
            costs.append(coarse[..., :height, :width])
        return torch.cat(costs, 1) if self.levels > 1 else costs[0]


def correlate(current: Tensor, key: Tensor, radius: int) -> Tensor:
    """Compare every cell with the cells around the same place of the key frame.

    Args:
        current: (B, C, h, w).
        key: (B, C, h, w).
        radius: Cells in each direction, R.

    Returns:
        (B, (2 R + 1)^2, h, w), inner products; entry ``(dy + R) (2 R + 1) + dx + R`` is with the
        key's cell at (x + dx, y + dy), zero outside.
    """
    if current.shape[-1] <= WIDE:
        return _of_whole_rows(current, key, radius)
    products: Tensor = _OfWindows.apply(current, key, radius)
    return products


class _OfWindows(torch.autograd.Function):
    """Multiply each cell with those that are kept alone, one shift of the map at a time."""

    @staticmethod
    def forward(ctx: Any, current: Tensor, key: Tensor, radius: int) -> Tensor:
        ctx.save_for_backward(current, key)
        ctx.radius = radius
        batch, _, height, width = current.shape
        products = current.new_empty(batch, (2 * radius + 1) ** 2, height, width)
        for entry, shifted in enumerate(_shifts(F.pad(key, (radius,) * 4), radius)):
            products[:, entry] = (current * shifted).sum(1)
        return products

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        current, key = ctx.saved_tensors
        padded = F.pad(key, (ctx.radius,) * 4)
        of_current, of_padded = torch.zeros_like(current), torch.zeros_like(padded)
        shifts = zip(_shifts(padded, ctx.radius), _shifts(of_padded, ctx.radius), strict=True)
        for entry, (shifted, of_shifted) in enumerate(shifts):
            own = gradient[:, entry : entry + 1]
            of_current.addcmul_(own, shifted)
            of_shifted.addcmul_(own, current)
        inside = slice(ctx.radius, -ctx.radius)
        return of_current, of_padded[..., inside, inside], None


def _shifts(padded: Tensor, radius: int) -> Iterator[Tensor]:
    """Yield views of a map, seen from every cell (dy, dx) of the window, in its order."""
    side = 2 * radius + 1
    height, width = padded.shape[-2] - 2 * radius, padded.shape[-1] - 2 * radius
    for dy in range(side):
        for dx in range(side):
            yield padded[..., dy : dy + height, dx : dx + width]


def _of_whole_rows(current: Tensor, key: Tensor, radius: int) -> Tensor:
    batch, channels, height, width = current.shape
    side = 2 * radius + 1
    padded = F.pad(key, (radius,) * 4)
    # One matrix product per row: its cells with the band of the key frame's rows around it.
    bands = padded.unfold(2, side, 1).permute(0, 2, 1, 4, 3)  # (B, h, C, side, w + 2 R)
    ours = current.permute(0, 2, 3, 1).reshape(batch * height, width, channels)
    products = ours @ bands.reshape(batch * height, channels, -1)
    products = products.view(batch * height, width, side, width + 2 * radius)
    # Of each band only the window around the cell's own column is wanted.
    columns = torch.arange(width, device=key.device)[:, None]
    columns = columns + torch.arange(side, device=key.device)  # (w, side)
    index = columns[None, :, None].expand(batch * height, width, side, side)
    window = products.gather(3, index).view(batch, height, width, side * side)
    return window.permute(0, 3, 1, 2)
