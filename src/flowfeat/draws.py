"""Draws of a training step that are the samples' own: `with seeded(batch["seeds"])`.

The global generator would give other draws after a resume, or on other ranks. Modules that draw
deep inside a method find the seeds here; outside such a block they use the global generator.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.nn import functional as F

_seeds: ContextVar[Tensor | None] = ContextVar("flowfeat_seeds", default=None)

PRIME = 1_000_003  # spreads seeds that lie close to one another


@contextmanager
def seeded(seeds: Tensor) -> Iterator[None]:
    """Let the draws inside the block come from the samples' seeds (B,), 0 or more."""
    token = _seeds.set(seeds.cpu())
    try:
        yield
    finally:
        _seeds.reset(token)


def sample_seeds() -> Tensor | None:
    """Return the seeds (B,) of the samples in work, on the CPU; None outside ``seeded``."""
    return _seeds.get()


def mix(seeds: Tensor, part: Tensor | int) -> Tensor:
    """Return other seeds for a part of each sample, such as a step or a layer."""
    return (seeds * PRIME + part) % 2**62


def drop(maps: Tensor, share: float, seeds: Tensor | None) -> Tensor:
    """Drop single values of maps (B, C, h, w) and scale up the rest, each row by its own seed.

    Args:
        maps: (B, C, h, w).
        share: Of the values, 0 .. below 1.
        seeds: (B,) on the CPU; None for the global generator.
    """
    if not share:
        return maps
    if seeds is None:
        return F.dropout(maps, share)
    draws = []
    for seed in seeds.tolist():
        generator = torch.Generator(maps.device).manual_seed(seed)
        draws.append(torch.rand(maps.shape[1:], generator=generator, device=maps.device))
    return maps * (torch.stack(draws) >= share) / (1 - share)
