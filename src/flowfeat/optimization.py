"""Optimiser and learning-rate schedule, with a factor per part of the model."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

OF_SOME_METHODS = {"flow", "features", "head", "off_network"}
"""Parts that a preset may give a factor although the chosen method lacks them."""


@dataclass(frozen=True)
class StepDecay:
    """Multiply the learning rate by ``gamma`` at given shares of the training, after a warm-up.

    Args:
        drops: Shares of all steps, each in 0..1; the paper drops at 2/3 (VID) and 3/4 (Cityscapes).
        gamma: Factor of each drop.
        warmup: Steps over which the rate rises linearly from 0.
    """

    drops: Sequence[float] = (2 / 3,)
    gamma: float = 0.1
    warmup: int = 0

    def __call__(self, step: int, total: int) -> float:
        """Return the factor at ``step`` of ``total``."""
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return rise * self.gamma ** sum(step >= share * total for share in self.drops)


@dataclass(frozen=True)
class CosineDecay:
    """Lower the learning rate to 0 along half a cosine, after a warm-up.

    Args:
        warmup: Steps over which the rate rises linearly from 0.
    """

    warmup: int = 0

    def __call__(self, step: int, total: int) -> float:
        """Return the factor at ``step`` of ``total``."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        progress = min(1.0, (step - self.warmup) / max(1, total - self.warmup))
        return 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class Optimization:
    """How a task's parameters are trained.

    Args:
        optimizer: Called with parameter groups.
        schedule: (step, total steps) -> factor of the learning rate.
        factors: Factor of the learning rate by part (features, flow, head, ...); 0 freezes it.
    """

    optimizer: Callable[[Iterable[dict[str, Any]]], Optimizer]
    schedule: Callable[[int, int], float]
    factors: Mapping[str, float] = field(default_factory=dict)

    def configure(self, parts: Mapping[str, nn.Module], total: int) -> tuple[Optimizer, LambdaLR]:
        """Build both for ``total`` steps.

        Raises:
            ValueError: A factor for a part that the model does not have, or nothing left to train.
        """
        unknown = sorted(set(self.factors) - set(parts) - OF_SOME_METHODS)
        if unknown:
            raise ValueError(
                f"optim.factors: unknown part {unknown[0]!r}, expected one of {sorted(parts)}"
            )
        groups = []
        for name, module in parts.items():
            parameters = [p for p in module.parameters() if p.requires_grad]
            if parameters and self.factors.get(name, 1.0) != 0:
                groups.append({"params": parameters, "name": name})
        if not groups:
            raise ValueError("optim.factors: every part is frozen, nothing is left to train")
        optimizer = self.optimizer(groups)
        for group in optimizer.param_groups:
            group["lr"] *= self.factors.get(group["name"], 1.0)
        return optimizer, LambdaLR(optimizer, lambda step: self.schedule(step, total))


def frozen(parts: Mapping[str, nn.Module], factors: Mapping[str, float]) -> list[nn.Module]:
    """Return the parts whose factor is 0."""
    return [module for name, module in parts.items() if factors.get(name, 1.0) == 0]


def freeze(parts: Mapping[str, nn.Module], factors: Mapping[str, float]) -> None:
    """Take the gradient from every part whose factor is 0."""
    for module in frozen(parts, factors):
        module.requires_grad_(False)


@contextmanager
def thawed(module: nn.Module) -> Iterator[None]:
    """Let a frozen module learn inside the block; one that learns anyway is left alone."""
    still = not any(p.requires_grad for p in module.parameters())
    if still:
        module.requires_grad_(True).train()
    try:
        yield
    finally:
        if still:
            module.requires_grad_(False).eval()
