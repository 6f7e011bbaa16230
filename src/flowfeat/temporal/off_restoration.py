"""DnCNN_OFF: the motion between adjacent frames, refined, is added to the current features."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from flowfeat.features.dncnn import convolutions
from flowfeat.interfaces import FeatureNetwork, Output
from flowfeat.metering import part
from flowfeat.ops.upload import upload
from flowfeat.temporal.off_layer import OffLayer, Reduced
from flowfeat.temporal.pictures import neighbours, number_pictures
from flowfeat.temporal.windowed import Windowed

PAIRS = {1: ((0, 0),), 2: ((-1, 0),), 3: ((-1, 0), (0, 1))}
"""Frames in use -> the pairs whose OFF is taken, as offsets from the current frame."""


class Slot(NamedTuple):
    """One time step of B streams."""

    frames: Tensor  # (B, 3, H, W)
    maps: Tensor  # (B, C, h, w), N_feat's trunk on them
    reduced: Reduced  # of the maps
    videos: Tensor  # (B,) i64 on the CPU, numbers of the streams' videos


class OffRestoration(Windowed[Slot]):
    """OFF after the third convolution, five convolutions, an identity around both (Figure 6).

    N_feat and the OFF layer's reduction run once per frame. Where a video begins or ends, the frame
    itself stands for the neighbour that it lacks: no change in time, so the difference is 0, and
    the spatial gradients are its own. Results are as real there as elsewhere.

    Args:
        features: N_feat, of one level: the convolutions before the OFF.
        layer: Builds the OFF layer for that level's channels. One layer serves both pairs of three
            frames; the paper does not say.
        frames: 3 (t-1, t, t+1; one frame late), 2 (t-1, t), or 1: the same network without
            neighbours, to tell what they bring from what more layers bring.
        depth: Convolutions on the OFF, each with ReLU, as the text says of every one.

    Raises:
        ValueError: On a value out of range, or features of several levels.
    """

    def __init__(
        self,
        features: FeatureNetwork,
        layer: Callable[[int], OffLayer],
        frames: int = 3,
        depth: int = 5,
    ) -> None:
        if frames not in PAIRS:
            raise ValueError(f"temporal.frames={frames}: expected 1, 2 or 3")
        super().__init__(before=1, after=max(0, frames - 2))
        if depth < 1:
            raise ValueError(f"temporal.depth={depth}: expected at least 1 convolution")
        if len(features.trunk_channels) != 1:
            count = len(features.trunk_channels)
            raise ValueError(f"features: {count} levels: OFF in restoration expects one")
        self.features = features
        (width,) = features.trunk_channels
        self.off = layer(width)
        self.offsets = PAIRS[frames]
        self.refinement = convolutions(len(self.offsets) * self.off.out_channels, width, depth)
        self.channels, self.strides = features.channels, features.strides

    def _remember(self, frames: Tensor, videos: Tensor) -> Slot:
        return Slot(frames, *self._prepare(frames), videos)

    def _output(self, slots: tuple[Slot, ...], centre: int) -> Output:
        own = slots[centre]
        pairs = [
            (_neighbour(slots, centre, before), _neighbour(slots, centre, after))
            for before, after in self.offsets
        ]
        return self._finish(own.frames, own.maps, pairs)

    def forward(
        self, clip: Tensor, is_key: Tensor, targets: Tensor, indices: Tensor | None = None
    ) -> Output:
        batch, length = clip.shape[:2]
        # Only the frames in use, each once, whatever the clip's sampler gives beside them.
        first = length * torch.arange(batch)[:, None]
        steps = targets.cpu()
        offsets = sorted({0, *(offset for pair in self.offsets for offset in pair)})
        pictures = number_pictures(indices, clip)
        places = {o: first + neighbours(pictures, steps, o)[0] for o in offsets}  # (B, S) each
        used, position = torch.unique(torch.stack(list(places.values())), return_inverse=True)
        frames = clip.flatten(0, 1)[upload(used, clip.device)]
        maps, reduced = self._prepare(frames)
        rows = {o: upload(p.flatten(), clip.device) for o, p in zip(offsets, position, strict=True)}
        of = {o: Reduced(*(_rows(level, r) for level in reduced)) for o, r in rows.items()}
        pairs = [(of[before], of[after]) for before, after in self.offsets]
        return self._finish(frames[rows[0]], maps[rows[0]], pairs)

    def _prepare(self, frames: Tensor) -> tuple[Tensor, Reduced]:
        with part("N_feat"):
            (maps,) = self.features.trunk(frames)
        with part("OFF"):
            return maps, self.off.reduce(maps)

    def _finish(self, frames: Tensor, maps: Tensor, pairs: list[tuple[Reduced, Reduced]]) -> Output:
        with part("OFF"):
            motion = torch.cat([self.off.compare(*pair) for pair in pairs], dim=1)
            merged = maps + self.refinement(motion)
        with part("tail"):
            features = self.features.tail((merged,))
        valid = torch.ones(len(frames), 1, dtype=torch.bool, device=frames.device)
        return Output(features, frames, valid, torch.ones(len(frames), dtype=torch.bool))


def _neighbour(slots: tuple[Slot, ...], centre: int, offset: int) -> Reduced:
    """Return the reduced maps of a neighbour, row by row the frame's own where its video ends."""
    own, place = slots[centre], centre + offset
    if offset == 0 or not 0 <= place < len(slots):
        return own.reduced
    other = slots[place]
    same = other.videos == own.videos
    if bool(same.all()):
        return other.reduced
    there = upload(same, own.maps.device)[:, None, None, None]
    levels = zip(other.reduced, own.reduced, strict=True)
    return Reduced(*(_either(there, theirs, ours) for theirs, ours in levels))


def _rows(level: Tensor | None, rows: Tensor) -> Tensor | None:
    return None if level is None else level[rows]


def _either(where: Tensor, one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return None if one is None or other is None else torch.where(where, one, other)
