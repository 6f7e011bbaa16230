"""The OFF sub-network of section 4.1.3: OFF units on several resolutions, refined and joined.

The refinement is the paper's ResNet-20 without BatchNorm: per resolution a convolution that halves
the grid (unless it is the last), then bottlenecks; the finer level's result is an input of the
coarser one.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowfeat.draws import mix
from flowfeat.interfaces import Features
from flowfeat.temporal.off_layer import OffLayer, Reduced, start

T = TypeVar("T")


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around a shortcut (He et al., 2016), without BatchNorm.

    Args:
        channels: Of the maps that come in.
        width: Of the convolutions inside.
        out: Channels of the result; where they differ from ``channels`` the shortcut is a 1x1.
        last_kernel: Size of the last convolution; 3 in one block of the released code.
        relu: Whether a ReLU follows the sum.
        bias: Where the biases start.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        out: int,
        last_kernel: int = 1,
        relu: bool = True,
        bias: float = 0.0,
    ) -> None:
        super().__init__()
        self.first = convolution(channels, width, 1, 1, bias)
        self.second = convolution(width, width, 3, 1, bias)
        self.third = convolution(width, out, last_kernel, 1, bias)
        self.project = nn.Identity() if channels == out else convolution(channels, out, 1, 1, bias)
        self.relu = relu

    def forward(self, maps: Tensor) -> Tensor:
        """Refine maps (B, channels, h, w) to (B, out, h, w)."""
        inner = F.relu(self.second(F.relu(self.first(maps))))
        total: Tensor = self.project(maps) + self.third(inner)
        return F.relu(total) if self.relu else total


class Refinement(nn.Module):
    """The residual blocks between and behind the OFF units.

    Args:
        channels: Of each unit's OFF, fine to coarse.
        strides: Of each unit's grid.
        widths: Inside the blocks of each level; what comes out has ``expansion`` times as many.
        blocks: Bottlenecks of each level.
        kernels: Size of the convolution that opens each level.
        last_kernels: Size of the last convolution of each level's last block.
        expansion: Channels that come out, over the width.
        final_relu: Whether the last level ends with a ReLU; it does not in the released code.
        bias: Where the biases start; 0.2 in the released code.

    Raises:
        ValueError: Sizes for another number of levels, a stride that does not divide the next one.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        widths: Sequence[int] = (64, 128, 256),
        blocks: Sequence[int] = (3, 2, 1),
        kernels: Sequence[int] = (7, 5, 3),
        last_kernels: Sequence[int] = (1, 1, 1),
        expansion: int = 4,
        final_relu: bool = True,
        bias: float = 0.0,
    ) -> None:
        super().__init__()
        given = {"widths": widths, "blocks": blocks, "kernels": kernels}
        given["last_kernels"] = last_kernels
        _check(channels, strides, given)
        self.channels = tuple(expansion * width for width in widths)
        self.strides = (*strides[1:], strides[-1])
        self.levels = nn.ModuleList()
        below = 0
        for level, (width, out) in enumerate(zip(widths, self.channels, strict=True)):
            ratio = self.strides[level] // strides[level]
            opening = convolution(channels[level] + below, width, kernels[level], ratio, bias)
            bottlenecks = []
            for index in range(blocks[level]):
                last = index == blocks[level] - 1
                bottlenecks.append(
                    Bottleneck(
                        width if index == 0 else out,
                        width,
                        out,
                        last_kernels[level] if last else 1,
                        final_relu or not last or level < len(widths) - 1,
                        bias,
                    )
                )
            self.levels.append(nn.Sequential(opening, nn.ReLU(), *bottlenecks))
            below = out

    def forward(self, off: Features) -> Features:
        """Refine the units' OFF, fine to coarse; each level lies on the next unit's grid."""
        refined: list[Tensor] = []
        for level, maps in zip(self.levels, off, strict=True):
            joined = torch.cat((maps, refined[-1]), dim=1) if refined else maps
            refined.append(level(joined))
        return tuple(refined)

    if TYPE_CHECKING:

        def __call__(self, off: Features) -> Features: ...


class OffNetwork(nn.Module):
    """OFF layers on the levels of a feature network, and their refinement.

    Args:
        channels: Of the feature network's levels.
        strides: Of the feature network's levels.
        layer: Builds an OFF layer for so many channels.
        refinement: Builds the refinement for the units' channels and strides.
        units: Which levels feed which unit, by index, fine units first; None: all levels, those
            of one stride in one unit.
        per_tap: A layer for every level, whose OFF is concatenated, as in the released code; else
            the levels of a unit are concatenated first, as in the paper.

    Raises:
        ValueError: Units of no levels, of levels that do not exist or of several strides, or not in
            order; sizes that do not fit their number.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        layer: Callable[[int], OffLayer],
        refinement: Callable[[Sequence[int], Sequence[int]], Refinement],
        units: Sequence[Sequence[int]] | None = None,
        per_tap: bool = False,
    ) -> None:
        super().__init__()
        self.units = _units(strides, units)
        self.per_tap = per_tap
        self.layers = nn.ModuleList()
        widths = []
        for unit in self.units:
            taps = [channels[level] for level in unit]
            layers = [layer(tap) for tap in (taps if per_tap else [sum(taps)])]
            self.layers.extend(layers)
            widths.append(sum(one.out_channels for one in layers))
        self.needs_pair = layers[0].needs_pair
        self.refinement = refinement(widths, [strides[unit[0]] for unit in self.units])
        self.channels, self.strides = self.refinement.channels, self.refinement.strides

    def reduce(self, levels: Features) -> tuple[Reduced, ...]:
        """Reduce the feature network's levels of some frames: all that a pair needs of them."""
        inputs: list[Tensor] = []
        for unit in self.units:
            taps = [levels[level] for level in unit]
            inputs.extend(taps if self.per_tap else [torch.cat(taps, dim=1)])
        return tuple(layer.reduce(maps) for layer, maps in self._each(inputs))

    def forward(
        self,
        previous: tuple[Reduced, ...],
        current: tuple[Reduced, ...],
        seeds: Tensor | None = None,
    ) -> Features:
        """Return the refined OFF of pairs of frames, fine to coarse.

        Args:
            previous: Of each pair's first frame, per layer.
            current: Of its second frame.
            seeds: (B,) on the CPU, of each pair's draws; None for the global generator.
        """
        off = []
        pairs = zip(previous, current, strict=True)
        for index, (layer, (before, now)) in enumerate(self._each(pairs)):
            own = None if seeds is None else mix(seeds, index)
            off.append(layer.compare(before, now, own))
        if self.per_tap:
            rest = iter(off)
            off = [torch.cat([next(rest) for _ in unit], dim=1) for unit in self.units]
        return self.refinement(tuple(off))

    def _each(self, things: Iterable[T]) -> Iterator[tuple[OffLayer, T]]:
        """Go through the layers with one thing for each."""
        return zip(cast(Iterable[OffLayer], self.layers), things, strict=True)

    if TYPE_CHECKING:

        def __call__(
            self,
            previous: tuple[Reduced, ...],
            current: tuple[Reduced, ...],
            seeds: Tensor | None = None,
        ) -> Features: ...


def convolution(channels: int, out: int, size: int, stride: int, bias: float) -> nn.Conv2d:
    """Build a convolution whose grid measures ceil(size / stride)."""
    conv = nn.Conv2d(channels, out, size, stride, padding=size // 2)
    start(conv, bias)
    return conv


def _check(
    channels: Sequence[int], strides: Sequence[int], sizes: dict[str, Sequence[int]]
) -> None:
    for name, given in sizes.items():
        if len(given) != len(channels):
            raise ValueError(
                f"temporal.refinement.{name}={list(given)}: expected one for each of "
                f"{len(channels)} units, at strides {list(strides)}"
            )
        if min(given) < 1 or ("kernels" in name and any(size % 2 == 0 for size in given)):
            wanted = "odd sizes" if "kernels" in name else "1 or more"
            raise ValueError(f"temporal.refinement.{name}={list(given)}: expected {wanted}")
    if any(coarse % fine for fine, coarse in pairwise(strides)):
        raise ValueError(f"temporal.units: strides {list(strides)} do not divide one another")


def _units(
    strides: Sequence[int], units: Sequence[Sequence[int]] | None
) -> tuple[tuple[int, ...], ...]:
    """Settle which levels feed which unit."""
    if units is None:
        every = sorted(set(strides))
        return tuple(tuple(i for i, s in enumerate(strides) if s == one) for one in every)
    settled = tuple(tuple(int(level) for level in unit) for unit in units)
    known = range(len(strides))
    for unit in settled:
        if not unit or any(level not in known for level in unit):
            raise ValueError(
                f"temporal.units={[list(u) for u in settled]}: expected levels 0 .. {known[-1]}"
            )
        if len({strides[level] for level in unit}) > 1:
            raise ValueError(
                f"temporal.units: levels {list(unit)} have strides "
                f"{[strides[level] for level in unit]}, expected one stride in a unit"
            )
    if not settled:
        raise ValueError("temporal.units=[]: expected at least one unit")
    return settled
