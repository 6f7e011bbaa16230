"""Action recognition: one linear classifier per feature level, which scores each step by itself."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowfeat.draws import drop, mix
from flowfeat.interfaces import Features, TaskHead

_OWN = 2**40  # keeps the head's draws apart from those of a method's layers


class StepScores(NamedTuple):
    """What one picture alone says: pre-softmax scores of every level."""

    levels: Tensor  # (L, C)


class Clips(NamedTuple):
    """The truth about B clips, for the loss."""

    actions: Tensor  # (B,) i64
    known: Tensor  # (B, L) bool: the clip has a step on which the level says something


class Recognition(TaskHead):
    """Average each level over its grid and classify it (sections 4.1.4 and 4.2.2).

    Scored are the feature network's last level (``classifier``) and the levels that a method adds
    behind it (``motion``: those of the OFF sub-network, the finest first), each with a loss of its
    own: intermediate supervision. These are the levels 0, 1, ... of the head and of the reports.
    The head scores steps; ``RecognitionTask`` averages the scores of a clip over time.

    Args:
        channels: Channels per level.
        strides: Network pixels per cell, per level.
        num_classes: C.
        motion_levels: How many of the levels, the last ones, a method adds to the feature network.
        dropout: Share of the pooled features that is dropped in training, 0 .. below 1.
        loss_weights: Of the levels' losses; None: 1 each (in the released code the weights are
            commented out).
        pool_finest: Pool the finest motion level by its maximum (3x3, stride 2) before the average,
            as the released code does.

    Raises:
        ValueError: On a value out of range.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        strides: tuple[int, ...],
        num_classes: int,
        motion_levels: int = 0,
        dropout: float = 0.8,
        loss_weights: Sequence[float] | None = None,
        pool_finest: bool = False,
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes={num_classes}: expected at least 2 to choose between")
        if not 0 <= motion_levels < len(channels):
            raise ValueError(f"motion_levels={motion_levels}: expected 0 .. {len(channels) - 1}")
        if not 0 <= dropout < 1:
            raise ValueError(f"head.dropout={dropout}: expected 0 .. below 1")
        own = len(channels) - 1 - motion_levels
        self.levels = tuple(range(own, len(channels)))  # of the features, those that are scored
        self.dropout = dropout
        self.loss_weights = level_weights(loss_weights, len(self.levels), "head.loss_weights")
        self.classifier = _classifier(channels[own], num_classes)
        self.motion = nn.ModuleList(
            _classifier(width, num_classes) for width in channels[own + 1 :]
        )
        # Of equally fine ones, the first.
        finest = min(self.levels[1:], key=lambda level: strides[level], default=None)
        self.pooled = finest if pool_finest else None

    def forward(self, features: Features, frames: Tensor) -> tuple[Tensor, ...]:
        """Return the scores (B, C) of every level that is scored; the frames are not needed."""
        return self.scores(self.pool(features))

    def pool(self, features: Features) -> tuple[Tensor, ...]:
        """Average the levels that are scored (B, C_l, h, w) over their grids: (B, C_l) each."""
        pooled = []
        for level in self.levels:
            maps = features[level]
            if level == self.pooled:
                maps = F.max_pool2d(maps, 3, stride=2, ceil_mode=True)
            pooled.append(maps.mean(dim=(2, 3)))
        return tuple(pooled)

    def drop(self, pooled: Sequence[Tensor], seeds: Tensor) -> tuple[Tensor, ...]:
        """Drop features of training clips by the clips' own seeds.

        Args:
            pooled: Levels (B * S, C_l), entry ``b * S + s`` for step s of clip b.
            seeds: (B,), 0 or more.
        """
        # The global generator would give other draws after a resume, or on other ranks.
        steps = torch.arange(len(pooled[0]) // len(seeds), device=seeds.device)
        rows = mix(seeds[:, None], steps).flatten()  # (B * S,)
        return tuple(
            drop(maps, self.dropout, mix(rows, _OWN + level)) for level, maps in enumerate(pooled)
        )

    def scores(self, pooled: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Classify pooled levels (B, C_l): (B, C) each."""
        classifiers = (self.classifier, *self.motion)
        return tuple(classify(x) for classify, x in zip(classifiers, pooled, strict=True))

    @torch.no_grad()
    def postprocess(self, raw: Sequence[Tensor], sizes: Tensor) -> list[StepScores]:
        """Return the scores of every picture; nothing is decided before a clip is over."""
        return [StepScores(levels) for levels in torch.stack(list(raw), dim=1).float()]

    def loss(self, raw: Sequence[Tensor], labels: Clips) -> dict[str, Tensor]:
        """Return the cross-entropy of every level that learns (Eq. 9), ``level_0`` ...

        Args:
            raw: The clips' scores (B, C) per level, averaged over time.
            labels: A level that says nothing about a clip costs nothing there; the mean is over
                all clips.
        """
        # A level without a gradient is frozen (stage two): its loss would only be a constant.
        learning = [level for level, scores in enumerate(raw) if scores.requires_grad]
        losses = {}
        for level in learning or range(len(raw)):
            each = F.cross_entropy(raw[level].float(), labels.actions, reduction="none")
            known = labels.known[:, level]
            mean = torch.where(known, each, 0.0).mean()
            losses[f"level_{level}"] = self.loss_weights[level] * mean
        return losses


def level_weights(
    weights: Sequence[float] | None, levels: int, key: str, default: Sequence[float] = ()
) -> tuple[float, ...]:
    """Return one weight per level, the default (1 each) for None.

    Raises:
        ValueError: Another number of weights, or one below 0; names the ``key`` of the config.
    """
    if weights is None:
        return tuple(default) or (1.0,) * levels
    if len(weights) != levels or not all(0 <= weight < math.inf for weight in weights):
        raise ValueError(
            f"{key}={list(weights)}: expected {levels} weights of at least 0, one per level"
        )
    return tuple(float(weight) for weight in weights)


def _classifier(width: int, num_classes: int) -> nn.Linear:
    linear = nn.Linear(width, num_classes)
    nn.init.normal_(linear.weight, std=0.001)  # as in TSN and in the released code
    nn.init.zeros_(linear.bias)
    return linear
