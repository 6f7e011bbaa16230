"""The order of samples is a function of (seed, epoch), whatever the number of ranks."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_modules.sampling import EpochSampler, assign_snippets, draws, mixed_order, share


def order(epoch: int, size: int = 53, seed: int = 0) -> np.ndarray:
    return mixed_order(seed, epoch, size)


def test_draws_depend_on_seed_epoch_and_sample_alone():
    first, again = draws(1, 2, 3), draws(1, 2, 3)
    assert (first.augment, first.seed) == (again.augment, again.seed)
    assert first.clip.integers(1 << 60) == again.clip.integers(1 << 60)
    seeds = {draws(s, e, i).seed for s in range(3) for e in range(3) for i in range(100)}
    assert len(seeds) == 900
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62  # all 63 bits are used


@given(st.integers(0, 5), st.integers(0, 5), st.sampled_from([1, 2, 3, 4, 6]))
def test_ranks_together_see_what_one_rank_sees(seed, epoch, world_size):
    def batches(rank: int, world: int) -> list[list[int]]:
        sampler = EpochSampler(partial(order, seed=seed), 12, rank, world)
        sampler.set_epoch(epoch)
        pairs = list(sampler)
        assert len(pairs) == len(sampler)
        assert {e for e, _ in pairs} == {epoch}
        part = 12 // world
        return [[i for _, i in pairs[n : n + part]] for n in range(0, len(pairs), part)]

    alone = batches(0, 1)
    ranks = [batches(rank, world_size) for rank in range(world_size)]
    assert len(alone) == 53 // 12
    for n, batch in enumerate(alone):
        assert sorted(batch) == sorted(i for rank in ranks for i in rank[n])
    seen = [i for batch in alone for i in batch]
    assert len(set(seen)) == len(seen)


def test_epochs_and_seeds_shuffle_differently():
    orders = [order(0), order(1), order(0, seed=1)]
    assert all(sorted(o) == list(range(53)) for o in orders)
    assert len({tuple(o) for o in orders}) == 3


def test_resumed_epoch_holds_the_rest_and_the_next_is_whole():
    sampler = EpochSampler(order, 10, rank=1, world_size=2)
    sampler.set_epoch(3)
    whole = list(sampler)
    sampler.resume(3, 2)
    assert list(sampler) == whole[10:]
    sampler.set_epoch(4)
    assert len(list(sampler)) == len(sampler) == 25


def test_stills_keep_their_ratio_and_take_turns():
    # 40 video frames at 2:1 take 20 stills per epoch; 30 stills come round every 1.5 epochs.
    epochs = [mixed_order(5, epoch, 40, 30, 2.0) for epoch in range(3)]
    for ids in epochs:
        assert sorted(ids[ids < 40]) == list(range(40))
        assert len(ids) == 60
    stills = np.concatenate([ids[ids >= 40] for ids in epochs]) - 40
    assert (np.bincount(stills, minlength=30) == 2).all()
    # Shuffled together, not one after the other.
    assert 5 < (epochs[0][:30] >= 40).sum() < 15


def test_few_stills_come_more_than_once():
    ids = mixed_order(0, 1, 10, 2, 2.0)
    assert sorted(ids[ids >= 10] - 10) in ([0, 0, 0, 1, 1], [0, 0, 1, 1, 1])
    assert mixed_order(0, 0, 4, 0, 2.0).shape == (4,)


def test_snippets_go_whole_to_the_emptiest_rank():
    # Frames so far: 5/0, 5/3, 5/5 -> the tie goes to rank 0, 9/5, 9/6, 9/12.
    assert assign_snippets([5, 3, 2, 4, 1, 6], 2) == [[0, 3], [1, 2, 4, 5]]
    with pytest.raises(ValueError, match=r"at most 2 processes for the 2 snippets.* found 3"):
        assign_snippets([7, 7], 3)


def test_bad_batch_sizes_are_refused():
    with pytest.raises(ValueError, match=r"batch_size=6.* multiple of the 4 processes"):
        share(6, 4)
    with pytest.raises(ValueError, match=r"batch_size=60: expected at most 53"):
        EpochSampler(order, 60)


def test_steps_of_several_batches_are_whole_and_of_the_same_samples():
    """8 x 2 accumulated sees what 16 sees, step by step; what is left over is no smaller step."""
    order = partial(mixed_order, 3, labelled=43)
    one = EpochSampler(order, 16)
    parts = EpochSampler(order, 2, accumulated=8)
    assert (one.batches, parts.batches) == (2, 16)  # not 21
    assert list(parts) == list(one)
    with pytest.raises(ValueError, match=r"expected at most 5, .* / 8 \(trainer.accumulate_grad"):
        EpochSampler(order, 6, accumulated=8)
