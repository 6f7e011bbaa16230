"""OFF for maps that a head reads (Figure 5 of OFF): units, residual blocks with SE, the merge.

Per level an OFF unit, a convolution that brings it to the next level's grid together with what the
finer level gave, and bottlenecks with squeeze-excitation. What the last level gives is merged into
the last level's maps, which it leaves as they are at the start of the training.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import SqueezeExcitation

from flowfeat.interfaces import Features
from flowfeat.ops.upload import upload
from flowfeat.temporal.flow_guided import choose
from flowfeat.temporal.off_layer import OffLayer, Reduced
from flowfeat.temporal.off_network import Bottleneck, convolution

Layer = Callable[[int], OffLayer]
"""Builds an OFF layer for so many channels."""

Merge = Literal["add", "concat"]


class Pair(NamedTuple):
    """Frames of B rows, and their neighbours before or after them."""

    previous: tuple[Reduced, ...]  # per level, of each pair's first frame
    current: tuple[Reduced, ...]  # of its second frame
    there: Tensor  # (B,) bool on the CPU: the row has this neighbour


class SqueezedBottleneck(Bottleneck):
    """A bottleneck whose inner result is weighted per channel before the sum (Hu et al., 2018).

    Args:
        channels: Of the maps that come in.
        width: Of the convolutions inside.
        out: Channels of the result.
        ratio: ``out`` over the channels between the two layers of the excitation.
    """

    def __init__(self, channels: int, width: int, out: int, ratio: int = 16) -> None:
        super().__init__(channels, width, out)
        self.excitation = SqueezeExcitation(out, max(1, out // ratio))

    def forward(self, maps: Tensor) -> Tensor:
        inner = F.relu(self.second(F.relu(self.first(maps))))
        total: Tensor = self.project(maps) + self.excitation(self.third(inner))
        return F.relu(total)


class MotionMerge(nn.Module):
    """OFF units on one level (SS of Table 6) or several (MS), whose motion changes the last one.

    The paper gives no size, no SE ratio and no way to merge: all of them are choices of ours.

    Args:
        channels: Of the levels that come in, fine to coarse; those of the last stay as they are.
        strides: Of the levels.
        layer: Builds an OFF layer for so many channels.
        width: Inside the bottlenecks; 4 times as many channels come out.
        blocks: Bottlenecks behind each unit.
        ratio: Of the squeeze-excitation; 16 is SE-Net's.
        merge: ``add``: a 1x1 convolution of the motion, which starts at 0, is added to the maps.
            ``concat``: a 1x1 convolution of both, which starts as the identity of the maps.

    Raises:
        ValueError: A size below 1, an unknown merge, a stride that does not divide the next one.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        layer: Layer = OffLayer,
        width: int = 128,
        blocks: int = 2,
        ratio: int = 16,
        merge: Merge = "add",
    ) -> None:
        super().__init__()
        if min(width, blocks, ratio) < 1:
            raise ValueError(
                f"temporal.motion: width={width}, blocks={blocks}, ratio={ratio}: "
                "expected 1 or more"
            )
        if merge not in ("add", "concat"):
            raise ValueError(f"temporal.motion.merge={merge}: expected add or concat")
        self.units = nn.ModuleList([layer(level) for level in channels])
        if not all(unit.needs_pair for unit in self._units()):
            raise ValueError(
                "temporal.layer: spatial and temporal are both false, so no pair is compared: "
                "expected one of them to be true"
            )
        self.levels, below = nn.ModuleList(), 0
        for unit, stride, after in zip(
            self._units(), strides, (*strides[1:], strides[-1]), strict=True
        ):
            if after % stride:
                raise ValueError(
                    f"temporal.stages: stride {stride} does not divide {after}, the next level's"
                )
            opening = convolution(unit.out_channels + below, width, 3, after // stride, 0.0)
            bottlenecks, inner = [], width
            for _ in range(blocks):
                bottlenecks.append(SqueezedBottleneck(inner, width, 4 * width, ratio))
                inner = 4 * width
            self.levels.append(nn.Sequential(opening, nn.ReLU(), *bottlenecks))
            below = inner
        # Without biases: what a frame without motion looks like is the feature network's matter.
        self.join = nn.Conv2d(
            below + (merge == "concat") * channels[-1], channels[-1], 1, bias=False
        )
        nn.init.zeros_(self.join.weight)
        self.concatenates = merge == "concat"
        if self.concatenates:
            nn.init.dirac_(self.join.weight)  # channel c of the result is channel c of the maps

    def reduce(self, levels: Features) -> tuple[Reduced, ...]:
        """Reduce the levels of some frames: all that a pair needs of them."""
        pairs = zip(self._units(), levels, strict=True)
        return tuple(unit.reduce(maps) for unit, maps in pairs)

    def motion(self, previous: tuple[Reduced, ...], current: tuple[Reduced, ...]) -> Tensor:
        """Return the refined OFF (B, 4 * width, h, w) of pairs of frames, on the last grid."""
        refined: Tensor | None = None
        for unit, level, before, now in zip(
            self._units(), self.levels, previous, current, strict=True
        ):
            off = unit.compare(before, now)
            refined = level(off if refined is None else torch.cat((off, refined), dim=1))
        if refined is None:
            raise ValueError("temporal.motion: expected at least one level")
        return refined

    def forward(self, maps: Tensor, pairs: Sequence[Pair]) -> Tensor:
        """Merge the sum of the pairs' motion into the last level.

        Args:
            maps: (B, channels[-1], h, w), the last level of the current frames.
            pairs: With the neighbours on each side.

        Returns:
            Maps of the same shape; rows without any neighbour are what they were.
        """
        known = torch.stack([pair.there for pair in pairs]).any(dim=0)
        if not known.any():
            return self._unchanged(maps)
        motion = sum(self._of_rows(pair) for pair in pairs if pair.there.any())
        if not isinstance(motion, Tensor):
            raise TypeError("motion: expected maps")
        if self.concatenates:
            merged: Tensor = self.join(torch.cat((maps, motion), dim=1))
        else:
            merged = maps + self.join(motion)
        if known.all():
            return merged
        return torch.where(upload(known, maps.device)[:, None, None, None], merged, maps)

    def _of_rows(self, pair: Pair) -> Tensor:
        """Return the motion of the rows that have the neighbour; 0 for the others."""
        if pair.there.all():
            return self.motion(pair.previous, pair.current)
        device = next(m.device for m in (*pair.current[-1],) if m is not None)
        rows = upload(pair.there.nonzero().flatten(), device)
        some = self.motion(choose(pair.previous, rows), choose(pair.current, rows))
        return some.new_zeros(len(pair.there), *some.shape[1:]).index_copy(0, rows, some)

    def _unchanged(self, maps: Tensor) -> Tensor:
        if not self.training:
            return maps
        # Ranks that average gradients expect one of every part, even an unused one.
        return maps + 0.0 * sum(p.sum() for p in self.parameters() if p.requires_grad)

    def _units(self) -> list[OffLayer]:
        return cast(list[OffLayer], list(self.units))

    if TYPE_CHECKING:

        def __call__(self, maps: Tensor, pairs: Sequence[Pair]) -> Tensor: ...


Motion = Callable[[Sequence[int], Sequence[int], Layer], MotionMerge]
"""Builds the sub-network for levels' channels and strides, with such OFF layers."""
