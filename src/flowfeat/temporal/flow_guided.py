"""Optical-Flow-guided Features: N_feat on every frame, and the OFF sub-network on pairs of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flowfeat.draws import mix, sample_seeds
from flowfeat.interfaces import FeatureNetwork, Features, Output, TemporalModule
from flowfeat.metering import part
from flowfeat.ops.upload import upload
from flowfeat.temporal.off_layer import OffLayer, Reduced
from flowfeat.temporal.off_network import OffNetwork, Refinement
from flowfeat.temporal.pictures import neighbours, number_pictures


@dataclass(frozen=True)
class Remembered:
    """State of B streams: the previous frames' reduced maps."""

    reduced: tuple[Reduced, ...]
    size: tuple[int, int]  # height, width of the frames


class FlowGuided(TemporalModule):
    """Gives the feature network's last level, then the OFF levels, the finest first.

    The pair (t - 1, t) belongs to t, and its spatial gradients are those of t - 1, as in the
    released code. A stream's first frame has no pair: its OFF levels are not ``valid`` (and 0).
    Where no weight of the feature network learns, it runs without gradients.

    Args:
        features: N_feat, with all levels that the OFF units shall see.
        layer: Builds an OFF layer for so many channels.
        refinement: Builds the residual blocks for the units' channels and strides.
        units: Which levels feed which unit; see :class:`OffNetwork`.
        per_tap: One OFF layer per level, not per unit.
    """

    def __init__(
        self,
        features: FeatureNetwork,
        layer: Callable[[int], OffLayer] = OffLayer,
        refinement: Callable[[Sequence[int], Sequence[int]], Refinement] = Refinement,
        units: Sequence[Sequence[int]] | None = None,
        per_tap: bool = False,
    ) -> None:
        super().__init__()
        self.features = features
        # "off" alone would be read as false where a YAML names it as a part.
        self.off_network = OffNetwork(
            features.channels, features.strides, layer, refinement, units, per_tap
        )
        self.channels = (features.channels[-1], *self.off_network.channels)
        self.strides = (features.strides[-1], *self.off_network.strides)

    def step(
        self, frames: Tensor, starts: Tensor, state: Remembered | None
    ) -> tuple[Output, Remembered]:
        size = (frames.shape[-2], frames.shape[-1])
        levels = self._features(frames)
        with part("OFF"):  # once per step: meters take a call for the whole cost
            current = self.off_network.reduce(levels)
            if state is None or state.size != size:  # of another size nothing remembered fits
                state, starts = Remembered(current, size), torch.ones_like(starts)
            paired = torch.ones_like(starts) if not self.off_network.needs_pair else ~starts
            output = self._output(frames, levels[-1], state.reduced, current, paired)
        return output, Remembered(current, size)

    def training_keys(self, indices: Tensor) -> Tensor:
        return torch.ones(indices.shape, dtype=torch.bool)

    def forward(
        self, clip: Tensor, is_key: Tensor, targets: Tensor, indices: Tensor | None = None
    ) -> Output:
        batch, length = clip.shape[:2]
        steps, first = targets.cpu(), torch.arange(batch)[:, None] * length
        own = (first + steps).flatten()  # (B * S,)
        paired, before = torch.ones(own.shape, dtype=torch.bool), own
        if self.off_network.needs_pair:
            previous, paired = neighbours(number_pictures(indices, clip), steps, -1)
            before, paired = (first + previous).flatten(), paired.flatten()
        needed = torch.cat((own, before)).unique()  # N_feat runs once per frame
        flat = clip.flatten(0, 1)
        levels = self._features(flat[upload(needed, clip.device)])
        places = (torch.searchsorted(needed, s) for s in (own, before))
        row, row_before = (upload(place, clip.device) for place in places)
        with part("OFF"):
            reduced = self.off_network.reduce(levels)
            return self._output(
                flat[upload(own, clip.device)],
                levels[-1][row],
                choose(reduced, row_before),
                choose(reduced, row),
                paired,
                _pair_seeds(steps),
            )

    def _features(self, frames: Tensor) -> Features:
        learns = any(p.requires_grad for p in self.features.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
            with part("N_feat"):
                trunk = self.features.trunk(frames)
            with part("tail"):
                return self.features.tail(trunk)

    def _output(
        self,
        frames: Tensor,
        last: Tensor,
        previous: tuple[Reduced, ...],
        current: tuple[Reduced, ...],
        paired: Tensor,
        seeds: Tensor | None = None,
    ) -> Output:
        """Run the OFF sub-network on the rows that are ``paired`` (B,), on the CPU."""
        if paired.all():
            off = self.off_network(previous, current, seeds)
        else:
            off = self._some(frames, last, previous, current, paired, seeds)
        valid = torch.ones(len(frames), 1 + len(off), dtype=torch.bool)
        valid[:, 1:] = paired[:, None]
        is_key = torch.ones(len(frames), dtype=torch.bool)
        return Output((last, *off), frames, upload(valid, frames.device), is_key)

    def _some(
        self,
        frames: Tensor,
        last: Tensor,
        previous: tuple[Reduced, ...],
        current: tuple[Reduced, ...],
        paired: Tensor,
        seeds: Tensor | None,
    ) -> Features:
        """Run it on some rows; the others, which nobody reads, are 0."""
        if paired.any():
            rows = upload(paired.nonzero().flatten(), frames.device)
            own = None if seeds is None else seeds[paired]
            some = self.off_network(choose(previous, rows), choose(current, rows), own)
            return tuple(
                level.new_zeros(len(frames), *level.shape[1:]).index_copy(0, rows, level)
                for level in some
            )
        height, width = frames.shape[-2:]
        shapes = zip(self.off_network.channels, self.off_network.strides, strict=True)
        off = [
            last.new_zeros(len(frames), channels, -(-height // stride), -(-width // stride))
            for channels, stride in shapes
        ]
        if self.training:
            # Ranks that average gradients expect one of every part, even an unused one.
            idle = sum(p.sum() for p in self.off_network.parameters() if p.requires_grad)
            off = [level + 0.0 * idle for level in off]
        return tuple(off)


def _pair_seeds(steps: Tensor) -> Tensor | None:
    """Return a seed (B * S,) for the draws of every target's pair; steps (B, S)."""
    seeds = sample_seeds()
    return None if seeds is None else mix(seeds[:, None], steps).flatten()


def choose(reduced: tuple[Reduced, ...], rows: Tensor) -> tuple[Reduced, ...]:
    """Return the given rows of reduced maps."""
    return tuple(Reduced(*(None if m is None else m[rows] for m in one)) for one in reduced)
