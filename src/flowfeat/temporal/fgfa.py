"""Flow-guided feature aggregation: each frame's features, averaged with those of its neighbours.

Zhu et al., ICCV 2017: the features of every frame in a window are carried to the current one by the
flow, and weighted per position by how much their embeddings agree with the current one's.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowfeat.interfaces import FeatureNetwork, Features, Flow, FlowNetwork, Output
from flowfeat.metering import part
from flowfeat.ops.upload import upload
from flowfeat.ops.warp import warp_levels
from flowfeat.temporal.pictures import number_pictures
from flowfeat.temporal.windowed import Windowed

AT_ONCE = 6  # neighbours that are carried together: bounds the memory, whatever the window


class Slot(NamedTuple):
    """One time step of B streams."""

    frames: Tensor  # (B, 3, H, W)
    features: Features  # N_feat's trunk on them, and its embedding where that is carried too
    videos: Tensor  # (B,) i64 on the CPU, numbers of the streams' videos


class Neighbours(NamedTuple):
    """Frames that are carried to some of R current frames."""

    rows: Tensor  # (r,) i64 on the device: to which
    frames: Tensor  # (r, 3, H, W)
    features: Features  # (r, C, h, w) per level


class FlowGuidedAggregation(Windowed[Slot]):
    """Aggregates a window around every frame; N_feat runs once per frame, the flow once per pair.

    Args:
        features: N_feat; its trunk is aggregated.
        flow: F; a scale field, which the method does not need, is applied where there is one.
        before: Earlier frames in the window; fewer where the video begins.
        after: Later frames; outputs come so many frames late. 0 makes the method causal.
        embed_warped: Embed what was carried, as in the paper and its released training code. Else
            carry the embedding too, as in its testing code: cheaper, since each is made once.
        own_in_training: Whether a frame enters its own average in training, as in the paper; the
            released code leaves it out there, not in testing.

    Raises:
        ValueError: A negative window, or one without neighbours.
    """

    def __init__(
        self,
        features: FeatureNetwork,
        flow: FlowNetwork,
        before: int = 9,
        after: int = 9,
        embed_warped: bool = True,
        own_in_training: bool = True,
    ) -> None:
        super().__init__(before, after)
        if before < 0 or after < 0 or before + after == 0:
            raise ValueError(
                f"temporal: before={before}, after={after}: expected 0 or more, not both 0"
            )
        self.features = features
        self.flow = flow
        self.embeddings = nn.ModuleList(Embedding(c) for c in features.trunk_channels)
        self.embed_warped, self.own_in_training = embed_warped, own_in_training
        self.channels, self.strides = features.channels, features.strides

    def _remember(self, frames: Tensor, videos: Tensor) -> Slot:
        return Slot(frames, self._prepare(frames), videos)

    def _output(self, slots: tuple[Slot, ...], centre: int) -> Output:
        own = slots[centre]
        first, last = max(0, centre - self.before), centre + self.after
        neighbours = []
        for index, slot in enumerate(slots[first : last + 1], start=first):
            same = upload((slot.videos == own.videos).nonzero().flatten(), own.frames.device)
            if index != centre and len(same):
                levels = tuple(level[same] for level in slot.features)
                neighbours.append(Neighbours(same, slot.frames[same], levels))
        return self._finish(own.frames, self._aggregate(own.frames, own.features, neighbours))

    def forward(
        self, clip: Tensor, is_key: Tensor, targets: Tensor, indices: Tensor | None = None
    ) -> Output:
        batch, length = clip.shape[:2]
        prepared = self._prepare(clip.flatten(0, 1))
        maps = tuple(level.unflatten(0, (batch, length)) for level in prepared)
        steps = targets.cpu().flatten()  # (B * S,)
        videos = torch.arange(batch).repeat_interleave(targets.shape[1])
        pictures = number_pictures(indices, clip)
        repeated = torch.diff(pictures, prepend=pictures[:, :1] - 1) == 0
        neighbours = []
        for step in range(length):
            away = pictures[videos, step] - pictures[videos, steps]
            near = (-self.before <= away) & (away <= self.after) & (away != 0)
            near &= ~repeated[videos, step]  # a picture counts once, as in a stream
            rows = upload(near.nonzero().flatten(), clip.device)
            if len(rows):
                of = upload(videos[near], clip.device)
                levels = tuple(level[of, step] for level in maps)
                neighbours.append(Neighbours(rows, clip[of, step], levels))
        own, of = upload(steps, clip.device), upload(videos, clip.device)
        current = clip[of, own]
        aggregated = self._aggregate(current, tuple(level[of, own] for level in maps), neighbours)
        return self._finish(current, aggregated)

    def _prepare(self, frames: Tensor) -> Features:
        """Run N_feat, once per frame; and the embedding, unless it is made of what was carried."""
        with part("N_feat"):
            trunk = self.features.trunk(frames)
        if self.embed_warped:
            return trunk
        with part("W"):
            return (*trunk, *self._embed(trunk))

    def _finish(self, frames: Tensor, trunk: Features) -> Output:
        with part("tail"):
            features = self.features.tail(trunk)
        valid = torch.ones(len(frames), len(features), dtype=torch.bool, device=frames.device)
        return Output(features, frames, valid, torch.ones(len(frames), dtype=torch.bool))

    def _aggregate(
        self, current: Tensor, own: Features, neighbours: Sequence[Neighbours]
    ) -> Features:
        """Average prepared features of R current frames with those of their neighbours.

        The weights are a softmax over the window of the cosines between embeddings (-1 .. 1), so
        their exponentials are summed up as they come, in units of a frame's agreement with itself.
        Sums are float32 under autocast, too; the average comes in the type of ``own``.
        """
        count = len(self.embeddings)
        with part("W"):
            wanted = self._embed(own) if self.embed_warped else own[count:]
        own = own[:count]
        alone = torch.ones(len(current), dtype=torch.bool, device=current.device)
        for some in neighbours:
            alone = alone.index_fill(0, some.rows, False)
        counts = alone | (self.own_in_training or not self.training)
        start = counts[:, None, None, None].to(torch.promote_types(own[0].dtype, torch.float32))
        totals = [start.expand(-1, 1, *level.shape[-2:]) for level in own]
        sums = [start * level for level in own]
        for rows, key, features in _some_at_once(neighbours):
            with part("F"):
                flow = self.flow(current[rows], key)
            with part("W"):
                carried, found = self._carry(features, flow)
                for index, (level, embedding) in enumerate(zip(carried, found, strict=True)):
                    here = wanted[index][rows].to(start.dtype)
                    agreement = F.cosine_similarity(embedding.to(start.dtype), here, dim=1)
                    weight = (agreement[:, None] - 1).exp()
                    sums[index] = sums[index].index_add(0, rows, weight * level)
                    totals[index] = totals[index].index_add(0, rows, weight)
        if self.training and not neighbours:
            # Ranks that average gradients expect one of every part, even an unused one.
            idle = [*self.flow.parameters(), *self.embeddings.parameters()]
            sums = [level + 0.0 * sum(p.sum() for p in idle if p.requires_grad) for level in sums]
        averages = zip(own, sums, totals, strict=True)
        return tuple((level / total).to(mine.dtype) for mine, level, total in averages)

    def _carry(self, features: Features, flow: Flow) -> tuple[Features, Features]:
        """Carry prepared features to their current frames; return them and their embeddings."""
        count, strides = len(self.embeddings), self.features.trunk_strides
        carried = warp_levels(features[:count], flow, strides)
        if self.embed_warped:
            return carried, self._embed(carried)
        return carried, warp_levels(features[count:], Flow(flow.displacement, None), strides)

    def _embed(self, features: Features) -> Features:
        return tuple(e(level) for e, level in zip(self.embeddings, features, strict=True))

    def motion(self, current: Tensor, key: Tensor) -> Tensor:
        return self.flow(current, key).displacement


class Embedding(nn.Sequential):
    """1x1, 3x3 and 1x1 convolutions; 512, 512 and 2048 channels for the original's 1024."""

    def __init__(self, channels: int) -> None:
        inner = max(1, channels // 2)
        super().__init__(
            nn.Conv2d(channels, inner, 1),
            nn.ReLU(),
            nn.Conv2d(inner, inner, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(inner, 2 * channels, 1),
        )


def _some_at_once(neighbours: Sequence[Neighbours]) -> Iterator[Neighbours]:
    """Put a few neighbours together: what runs as one batch."""
    for first in range(0, len(neighbours), AT_ONCE):
        some = neighbours[first : first + AT_ONCE]
        levels = zip(*(n.features for n in some), strict=True)
        yield Neighbours(
            torch.cat([n.rows for n in some]),
            torch.cat([n.frames for n in some]),
            tuple(torch.cat(level) for level in levels),
        )
