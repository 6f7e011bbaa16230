"""Who sees which sample when: a pure function of (seed, epoch), the same for any number of ranks.

Global batch n of an epoch is ``order[n * G : (n + 1) * G]`` with the global batch size G. Rank r of
W takes every W-th element of it, from r on, so that the ranks together always see the set that one
rank would see. What a sample draws comes from (seed, epoch, sample id) and from nothing else.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

Order = Callable[[int], NDArray[np.int64]]
"""Epoch -> sample ids in the order in which they are seen."""

_ORDER, _STILLS, _REPLACED = 3, 4, 5  # spawn keys; 0 .. 2 belong to a sample's own draws


class Draws(NamedTuple):
    """Independent sources of chance for one sample in one epoch."""

    clip: np.random.Generator  # which frames
    augment: int  # seed of the one augmentation draw, 63 bits
    seed: int  # seed of every later draw (anchors, RoIs, dropout), 63 bits


def draws(seed: int, epoch: int, sample: int) -> Draws:
    """Return the draws of sample id ``sample`` in ``epoch``; all three are 0 or more."""
    clip, augment, later = np.random.SeedSequence([seed, epoch, sample]).spawn(3)
    return Draws(np.random.default_rng(clip), _integer(augment), _integer(later))


def replacement(seed: int, epoch: int, sample: int, attempt: int, pool: range) -> int:
    """Return the sample id in ``pool`` that stands for one that cannot be read.

    Args:
        seed: Of the run.
        epoch: 0 or more.
        sample: That cannot be read.
        attempt: 1 for the first replacement, 2 for that of a replacement, ...
        pool: Sample ids that may stand for it.
    """
    sequence = np.random.SeedSequence([seed, epoch, sample], spawn_key=(_REPLACED, attempt))
    return pool[int(np.random.default_rng(sequence).integers(len(pool)))]


def _integer(sequence: np.random.SeedSequence) -> int:
    return int(sequence.generate_state(1, np.uint64)[0]) >> 1


def _permutation(seed: int, epoch: int, key: int, size: int) -> NDArray[np.int64]:
    # The spawn key keeps this apart from a sample's draws: [s, e] and [s, e, 0] alone are equal.
    sequence = np.random.SeedSequence([seed, epoch], spawn_key=(key,))
    return np.random.default_rng(sequence).permutation(size).astype(np.int64)


def mixed_order(
    seed: int, epoch: int, labelled: int, stills: int = 0, ratio: float = 2.0
) -> NDArray[np.int64]:
    """Return an epoch's sample ids: video frames are 0 .. labelled - 1, stills come after them.

    An epoch holds every labelled video frame once and ``round(labelled / ratio)`` stills, shuffled
    together: the share is exact in every epoch, not only in expectation. The stills are the next
    stretch of an endless row of their permutations, so that all of them are seen equally often over
    the epochs. (DFF, section 4, mixes 2:1; the released code concatenates the lists, 1.08:1.)
    """
    count = round(labelled / ratio) if stills else 0
    first, last = epoch * count // max(stills, 1), (epoch + 1) * count // max(stills, 1)
    row = [_permutation(seed, block, _STILLS, stills) for block in range(first, last + 1)]
    offset = epoch * count - first * stills
    chosen = np.concatenate(row)[offset : offset + count] + labelled
    ids = np.concatenate([np.arange(labelled, dtype=np.int64), chosen])
    return ids[_permutation(seed, epoch, _ORDER, len(ids))]


def share(batch_size: int, world_size: int) -> int:
    """Return one rank's part of the global batch; ValueError where it cannot be divided."""
    if batch_size < 1 or batch_size % world_size:
        raise ValueError(
            f"data.batch_size={batch_size}: expected a positive multiple of the {world_size} "
            "processes (it is the global batch size)"
        )
    return batch_size // world_size


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields this rank's (epoch, sample id) pairs; the last incomplete step is left out.

    The trainer calls ``set_epoch`` and must run with ``use_distributed_sampler=False``.

    Args:
        order: The sample ids of an epoch.
        batch_size: Of a global batch.
        rank: Of this process.
        world_size: Processes.
        accumulated: Global batches in one step of the optimiser. An epoch that ended inside a step
            would make it smaller: the trainer divides by their number in any case.
    """

    def __init__(
        self,
        order: Order,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        accumulated: int = 1,
    ) -> None:
        share(batch_size, world_size)
        self.order = order
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.batches = len(order(0)) // (batch_size * accumulated) * accumulated
        self._done = (-1, 0)
        if not self.batches:
            parts = f" / {accumulated} (trainer.accumulate_grad_batches)" if accumulated > 1 else ""
            raise ValueError(
                f"data.batch_size={batch_size}: expected at most {len(order(0)) // accumulated}, "
                f"the number of training samples{parts}"
            )

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration follows."""
        self.epoch = epoch

    def resume(self, epoch: int, batches: int) -> None:
        """Leave out the first ``batches`` global batches of ``epoch``: the run has seen them."""
        self._done = (epoch, batches)

    @property
    def start(self) -> int:
        """The global batch at which the current epoch begins."""
        epoch, batches = self._done
        return batches if epoch == self.epoch else 0

    def __len__(self) -> int:
        return self.batches * self.batch_size // self.world_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        ids = self.order(self.epoch)[self.start * self.batch_size : self.batches * self.batch_size]
        for sample in ids[self.rank :: self.world_size]:
            yield self.epoch, int(sample)


def assign_snippets(lengths: Sequence[int], world_size: int) -> list[list[int]]:
    """Give every snippet whole to the rank that has the fewest frames so far (ties: lowest rank).

    Returns one ascending list of snippet numbers per rank.

    Raises:
        ValueError: More ranks than snippets. A rank without any would skip the evaluation, and the
            others would wait for its part of the metrics for ever.
    """
    if world_size > max(len(lengths), 1):
        raise ValueError(
            f"trainer.devices: more ranks than snippets, expected at most {len(lengths)} "
            f"processes for the {len(lengths)} snippets of this evaluation, found {world_size}"
        )
    ranks: list[list[int]] = [[] for _ in range(world_size)]
    frames = [0] * world_size
    for snippet, length in enumerate(lengths):
        rank = frames.index(min(frames))
        ranks[rank].append(snippet)
        frames[rank] += length
    return ranks
