"""Where a training sample cannot be read: end the run, or draw another one and say so."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from torch.utils.data import Dataset, default_collate

from data_modules.sampling import replacement

ON_ERROR = ("raise", "skip")
UNREADABLE = (OSError, ValueError, IndexError)
"""What readers raise for files that are gone, damaged, or shorter than they were."""
MOST = 20
"""Replacements that are tried: what fails more often has another cause than a few files."""

log = logging.getLogger(__name__)


class Read(NamedTuple):
    """A sample, and why others that stood in its place could not be read."""

    sample: Any
    errors: tuple[str, ...]


class ReadBatch(NamedTuple):
    """A batch, and why samples that should be in it could not be read."""

    batch: Any
    errors: list[str]


class Replacing(Dataset[Read]):
    """Takes (epoch, sample id), and gives another sample of the epoch where one cannot be read.

    Which one depends on (seed, epoch, sample id) alone, so that a resumed run and any number of
    ranks see the same.

    Args:
        samples: Takes (epoch, sample id) too.
        pools: Sample ids that may stand for one another.
        seed: Of the draws.
    """

    def __init__(self, samples: Dataset[Any], pools: Sequence[range], seed: int) -> None:
        self.samples, self.pools, self.seed = samples, pools, seed

    def __getitem__(self, key: tuple[int, int]) -> Read:
        epoch, sample = key
        pool = next(pool for pool in self.pools if sample in pool)
        errors: list[str] = []
        for attempt in range(MOST + 1):
            chosen = sample if not attempt else replacement(self.seed, epoch, sample, attempt, pool)
            try:
                return Read(self.samples[epoch, chosen], tuple(errors))
            except UNREADABLE as error:
                errors.append(" ".join(str(error).split()))
        raise ValueError(
            f"data.on_error=skip: a sample and {MOST} others in its place cannot be read, the last "
            f"one because of: {errors[-1]}"
        )


def collate_read(collate: Callable[[Any], Any] | None, items: Sequence[Read]) -> ReadBatch:
    """Collate the samples, and keep the errors beside them."""
    batch = (collate or default_collate)([item.sample for item in items])
    return ReadBatch(batch, [error for item in items for error in item.errors])


def collate_with_errors(collate: Callable[[Any], Any] | None) -> Callable[[Any], ReadBatch]:
    """Return ``collate_read`` with a way to stack samples; picklable."""
    return partial(collate_read, collate)


class Unreadable:
    """Counts what a process could not read, and lists it at the end."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def add(self, errors: Sequence[str]) -> None:
        """Count errors; the first one of a kind is said at once."""
        for error in errors:
            if error not in self.counts:
                log.warning("%s: another sample in its place (data.on_error=skip)", error)
            self.counts[error] = self.counts.get(error, 0) + 1

    def report(self) -> None:
        """List what could not be read, and forget it."""
        if self.counts:
            lines = [f"  {count} x {error}" for error, count in self.counts.items()]
            total = sum(self.counts.values())
            log.warning(
                "%d samples could not be read and were replaced (data.on_error=skip):\n%s",
                *(total, "\n".join(lines)),
            )
        self.counts = {}


def checked_on_error(word: str) -> bool:
    """Say whether what cannot be read is skipped; ValueError for another word than the two."""
    if word not in ON_ERROR:
        raise ValueError(f"data.on_error={word}: expected raise or skip")
    return word == "skip"
