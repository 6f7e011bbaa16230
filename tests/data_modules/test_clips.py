"""Clip samplers keep to their papers' ranges for every length, position and seed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_modules.clips import ConsistentInterval, Pair, Segments, Single, Window
from flowfeat.batches import ClipSampler


@st.composite
def places(draw: st.DrawFn) -> tuple[int, int, np.random.Generator]:
    length = draw(st.integers(1, 400))
    labelled = draw(st.integers(0, length - 1))
    return length, labelled, np.random.default_rng(draw(st.integers(0, 2**32)))


@given(places(), st.integers(0, 12))
def test_pair_looks_only_back_and_never_before_the_start(place, max_offset):
    length, labelled, rng = place
    (key, current), targets = Pair(max_offset)(length, labelled, rng)
    assert current == labelled
    assert targets == [1]
    assert max(0, labelled - max_offset) <= key <= labelled


def test_pair_offsets_are_uniform_and_pile_up_at_the_start():
    rng = np.random.default_rng(0)
    offsets = [20 - Pair()(100, 20, rng)[0][0] for _ in range(5000)]
    counts = np.bincount(offsets, minlength=10)
    assert len(counts) == 10
    assert counts.min() > 400  # 500 expected, standard deviation 21
    assert counts.max() < 600
    # At frame 3 the offsets 3 .. 9 are all clipped to key 0: 7 of 10.
    at_start = [Pair()(100, 3, rng)[0][0] == 0 for _ in range(5000)]
    assert np.mean(at_start) == pytest.approx(0.7, abs=0.03)


@given(places(), st.integers(0, 9), st.integers(0, 9), st.data())
def test_window_holds_the_labelled_frame_among_its_neighbours(place, before, after, data):
    length, labelled, rng = place
    random = data.draw(st.none() | st.integers(0, before + after))
    indices, (target,) = Window(before, after, random)(length, labelled, rng)
    assert len(indices) == 1 + (before + after if random is None else random)
    assert indices[target] == labelled
    assert indices == sorted(indices)
    assert min(indices) >= max(0, labelled - before)
    assert max(indices) <= min(length - 1, labelled + after)
    if random is None and before <= labelled < length - after:
        assert indices == list(range(labelled - before, labelled + after + 1))
    elif random is not None and before <= labelled < length - after:
        assert len(set(indices)) == len(indices)


@given(st.integers(1, 3000), st.integers(1, 40), st.data())
def test_interval_is_the_same_in_training_and_testing(length, beta, data):
    alpha = data.draw(st.integers(1, beta))
    seed = data.draw(st.integers(0, 2**32))
    sampler = ConsistentInterval(alpha, beta)
    indices, targets = sampler(length, 0, np.random.default_rng(seed))
    tested = sampler.testing(length)
    assert len(indices) == alpha
    assert len(tested) == beta
    assert targets == list(range(alpha))
    step = max(1, length // beta)
    if length >= beta:  # the paper's case: nothing is repeated, the interval is exact
        assert indices == [indices[0] + j * step for j in range(alpha)]
        assert tested == [tested[0] + j * step for j in range(beta)]
    for frames in (indices, tested):
        assert frames == [min(frames[0] + j * step, length - 1) for j in range(len(frames))]
        assert 0 <= min(frames) <= max(frames) < length


def test_interval_seed_covers_its_whole_range():
    # L = 20, beta = 5: step 4; alpha = 3: p in 0 .. 20 - 1 - 2 * 4 = 11.
    rng = np.random.default_rng(1)
    seeds = {ConsistentInterval(3, 5)(20, 7, rng)[0][0] for _ in range(500)}
    assert seeds == set(range(12))


def test_short_video_repeats_its_last_frame():
    assert ConsistentInterval(4, 6)(2, 0, np.random.default_rng(0))[0] == [0, 1, 1, 1]
    assert ConsistentInterval(4, 6).testing(3) == [0, 1, 2, 2, 2, 2]


@pytest.mark.parametrize(
    "clip", [Single(), Pair(), Window(3, 3), ConsistentInterval(3, 5), Segments()]
)
def test_a_still_is_its_own_neighbour(clip: ClipSampler):
    indices, targets = clip(1, 0, np.random.default_rng(0))
    assert set(indices) == {0}
    assert all(0 <= target < len(indices) for target in targets)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Pair(-1), "clip.max_offset=-1"),
        (lambda: Window(1, 1, 3), "clip.random=3"),
        (lambda: Window(-1, 1), "window -1, 1"),
        (lambda: ConsistentInterval(8, 7), "clip.alpha=8"),
        (lambda: Segments(0, 7), "clip.alpha=0"),
        (lambda: Single()(5, 5, np.random.default_rng(0)), "labelled frame 5: expected 0 .. 4"),
    ],
)
def test_bad_numbers_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_share_of_pairs_is_its_own_key_frame():
    rng = np.random.default_rng(0)
    clips = [Pair(max_offset=9, same=0.5)(100, 50, rng)[0] for _ in range(2000)]
    share = np.mean([key == current for key, current in clips])
    assert abs(share - (0.5 + 0.5 / 10)) < 0.04
    with pytest.raises(ValueError, match=r"clip\.same=1\.5"):
        Pair(same=1.5)


@given(st.integers(1, 3000), st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32))
def test_segments_take_a_frame_of_each_and_test_their_centres(length, alpha, beta, seed):
    sampler = Segments(alpha, beta)
    indices, targets = sampler(length, 0, np.random.default_rng(seed))
    assert targets == list(range(alpha))
    span = length // alpha
    for j, index in enumerate(indices):
        if span:
            assert j * span <= index < (j + 1) * span
        else:
            assert 0 <= index < length
    # tsn-pytorch: int(tick / 2 + tick * x) with tick = L / beta.
    tested = sampler.testing(length)
    assert len(tested) == beta
    assert max(abs(t - (j + 0.5) * length / beta) for j, t in enumerate(tested)) < 1
    assert tested == sorted(tested)
    assert 0 <= tested[0] <= tested[-1] < length


def test_segments_of_a_hand_made_video():
    assert Segments(3, 5).testing(100) == [10, 30, 50, 70, 90]
    assert Segments(3, 4).testing(2) == [0, 0, 1, 1]
    rng = np.random.default_rng(2)
    drawn = np.array([Segments(3, 5)(9, 0, rng)[0] for _ in range(300)])
    assert [set(column) for column in drawn.T.tolist()] == [{0, 1, 2}, {3, 4, 5}, {6, 7, 8}]
