"""OFF in detection and segmentation: motion between frames, merged into the map the head reads."""

import copy
from typing import NamedTuple

import torch
from torch import Tensor

from flowfeat.interfaces import FeatureNetwork, Features, Output
from flowfeat.metering import part
from flowfeat.ops.upload import upload
from flowfeat.temporal.flow_guided import choose
from flowfeat.temporal.off_layer import OffLayer, Reduced
from flowfeat.temporal.off_motion import Layer, Motion, MotionMerge, Pair
from flowfeat.temporal.pictures import neighbours, number_pictures
from flowfeat.temporal.windowed import Windowed

SIDE = 256  # of the frame on which a stage is measured


class Slot(NamedTuple):
    """One time step of B streams."""

    frames: Tensor  # (B, 3, H, W)
    features: Features  # N_feat on them
    reduced: tuple[Reduced, ...]  # for the OFF units
    videos: Tensor  # (B,) i64 on the CPU, numbers of the streams' videos


class OffFusion(Windowed[Slot]):
    """Adds the motion between a frame and its neighbours to the last level (Tables 6 and 7).

    N_feat and the units' reductions run once per frame. A frame that has no neighbour, as the first
    of a video, keeps its features. A fresh module gives what N_feat gives.

    Args:
        features: N_feat; all its levels are handed on, the last one changed.
        layer: Builds an OFF layer for so many channels.
        motion: Builds the sub-network for the levels' channels and strides.
        before: How far back the earlier neighbour lies, in frames; 0 for none. The paper does not
            say how far, nor on which side.
        after: How far ahead the later one lies, so many frames late; 0 for none: causal.
        stages: Units on the last level alone (None, SS) or also on the maps of this stage of the
            backbone (MS; 2 is res3 with its 512 channels, counted from stride 4).

    Raises:
        ValueError: No neighbour, a stage that the network lacks, a split before the head.
    """

    def __init__(
        self,
        features: FeatureNetwork,
        layer: Layer = OffLayer,
        motion: Motion = MotionMerge,
        before: int = 1,
        after: int = 0,
        stages: int | None = None,
    ) -> None:
        super().__init__(before, after)
        if min(before, after) < 0 or before == after == 0:
            raise ValueError(
                f"temporal.before={before}, temporal.after={after}: expected 0 or more, not both 0"
            )
        check_split(features)
        self.features = features
        self.channels, self.strides = features.channels, features.strides
        self.stages = stages
        channels, strides = [features.channels[-1]], [features.strides[-1]]
        if stages is not None:
            fine = measure_stage(features, stages)
            channels, strides = [fine[0], *channels], [fine[1], *strides]
        # "off" alone would be read as false where a YAML names it as a part.
        self.off_network = motion(channels, strides, layer)
        self._fine_stride = strides[0]

    def _remember(self, frames: Tensor, videos: Tensor) -> Slot:
        return Slot(frames, *self._prepare(frames), videos)

    def _output(self, slots: tuple[Slot, ...], centre: int) -> Output:
        own, pairs = slots[centre], []
        for offset in self._offsets():
            place = centre + offset
            other = slots[place] if 0 <= place < len(slots) else None
            there = torch.zeros_like(own.videos, dtype=torch.bool)
            if other is not None:
                there = other.videos == own.videos
            reduced = own.reduced if other is None else other.reduced
            pairs.append(_pair(own.reduced, reduced, offset, there))
        return self._merge(own.frames, own.features, pairs)

    def forward(
        self, clip: Tensor, is_key: Tensor, targets: Tensor, indices: Tensor | None = None
    ) -> Output:
        batch, length = clip.shape[:2]
        first, pictures = torch.arange(batch)[:, None] * length, number_pictures(indices, clip)
        own = (first + targets.cpu()).flatten()  # (B * S,)
        rows, there = [own], []
        for offset in self._offsets():
            steps, inside = neighbours(pictures, targets.cpu(), offset)
            there.append(inside.flatten())
            rows.append((first + steps).flatten())
        # Only the frames in use, each once, whatever the clip's sampler gives beside them.
        needed, places = torch.stack(rows).unique(return_inverse=True)
        flat = clip.flatten(0, 1)
        features, reduced = self._prepare(flat[upload(needed, clip.device)])
        own_place, *others = upload(places, clip.device)
        current = choose(reduced, own_place)
        pairs = [
            _pair(current, choose(reduced, place), offset, inside)
            for place, offset, inside in zip(others, self._offsets(), there, strict=True)
        ]
        chosen = tuple(level[own_place] for level in features)
        return self._merge(flat[upload(own, clip.device)], chosen, pairs)

    def _offsets(self) -> tuple[int, ...]:
        return tuple(offset for offset in (-self.before, self.after) if offset)

    def _prepare(self, frames: Tensor) -> tuple[Features, tuple[Reduced, ...]]:
        """Run N_feat and the units' reductions on frames (B, 3, H, W)."""
        with part("N_feat"):
            fine: Features = ()
            if self.stages is None:
                trunk = self.features.trunk(frames)
            else:
                maps = self.features.shallow(frames, self.stages)
                trunk = self.features.deepen(maps, frames, self.stages)
                # Of padded frames: what lies behind the picture is not the units' business.
                height, width = (-(-side // self._fine_stride) for side in frames.shape[-2:])
                fine = (maps[..., :height, :width],)
        with part("tail"):
            features = self.features.tail(trunk)
        with part("OFF"):
            return features, self.off_network.reduce((*fine, features[-1]))

    def _merge(self, frames: Tensor, features: Features, pairs: list[Pair]) -> Output:
        with part("OFF"):
            merged = self.off_network(features[-1], pairs)
        valid = torch.ones(len(frames), len(features), dtype=torch.bool, device=frames.device)
        is_key = torch.ones(len(frames), dtype=torch.bool)
        return Output((*features[:-1], merged), frames, valid, is_key)


def _pair(own: tuple[Reduced, ...], other: tuple[Reduced, ...], offset: int, there: Tensor) -> Pair:
    """Put a frame and its neighbour in the order of time."""
    return Pair(other, own, there) if offset < 0 else Pair(own, other, there)


def check_split(features: FeatureNetwork) -> None:
    """See that there are features to merge motion into.

    Raises:
        ValueError: A feature network that ends with the head's convolutions.
    """
    if features.split == 0 and not isinstance(features.split, bool):
        raise ValueError(
            "features.split=0: motion is merged before the head's convolutions, expected 1 or more"
        )


def measure_stage(features: FeatureNetwork, stages: int) -> tuple[int, int]:
    """Return channels and stride of what ``shallow`` gives, without running it.

    Raises:
        ValueError: A network that cannot stop there.
    """
    unreal = copy.deepcopy(features).to("meta").eval()
    with torch.no_grad():
        maps = unreal.shallow(torch.empty(1, 3, SIDE, SIDE, device="meta"), stages)
    return maps.shape[1], round(SIDE / maps.shape[2])
