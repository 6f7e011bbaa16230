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

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # numbers of SplitMix64, signed
_ROUNDS = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64))
_AT_ONCE = 2**22  # words in memory while a mask is drawn: 32 MB, and as much beside it


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


def words(keys: Tensor, count: int) -> Tensor:
    """Return 64 random bits (B, count) i64 for every row's key and position, and for nothing else.

    SplitMix64 (Steele et al., 2014), on the keys' device: whole numbers are the same on all.

    Args:
        keys: (B,) i64, any numbers.
        count: Positions.
    """
    steps = torch.arange(1, count + 1, device=keys.device).mul_(_GOLDEN)  # wraps, as is meant
    bits = keys[:, None] + steps
    for shift, factor in _ROUNDS:
        _fold(bits, shift).mul_(factor)
    return _fold(bits, 31)


def _fold(bits: Tensor, shift: int) -> Tensor:
    """Combine bits with themselves, shifted right, in place."""
    # A shift of signed numbers brings copies of their sign, which do not belong there.
    return bits.bitwise_xor_((bits >> shift).bitwise_and_(2 ** (64 - shift) - 1))


def kept(seeds: Tensor, count: int, share: float, device: torch.device) -> Tensor:
    """Draw which of ``count`` values of every row stay, (B, count) bool on a device.

    Args:
        seeds: (B,) of the rows.
        count: Values of a row.
        share: That is dropped, 0 .. below 1.
        device: Where the values are.
    """
    least = min(round(share * 2**32), 2**32 - 1) - 2**31
    keys = words(seeds.to(device), 1)[:, 0]  # seeds of neighbouring parts are no neighbours then
    half = (count + 1) // 2  # each word serves two values
    some_at_once = keys.split(max(1, _AT_ONCE // half))
    return torch.cat([words(k, half).view(torch.int32)[:, :count] >= least for k in some_at_once])


def drop(maps: Tensor, share: float, seeds: Tensor | None) -> Tensor:
    """Drop single values of maps (B, ...) and scale up the rest, each row by its own seed.

    Args:
        maps: (B, ...).
        share: Of the values, 0 .. below 1.
        seeds: (B,); None for the global generator.
    """
    if not share:
        return maps
    if seeds is None:
        return F.dropout(maps, share)
    stays = kept(seeds, maps[0].numel(), share, maps.device).view(maps.shape)
    return maps * stays / (1 - share)
