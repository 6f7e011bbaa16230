"""Segments of any length stay inside any video, at one interval in training and testing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_modules.action_sampling import action_sampler, positions, repeats
from data_modules.clips import ConsistentInterval, Segments, Window
from data_modules.modalities import Modality, Rgb, RgbDiff, StackedFlow


@given(st.integers(1, 2000), st.integers(1, 40), st.sampled_from([1, 5]), st.data())
def test_segments_stay_inside_the_video_at_one_interval(length, beta, stacked, data):
    modality: Modality = (
        Rgb()
        if stacked == 1
        else data.draw(st.sampled_from([RgbDiff(stacked), StackedFlow(stacked)]))
    )
    alpha = data.draw(st.integers(1, beta))
    sampler = ConsistentInterval(alpha, beta)
    room = positions(length, modality.frames_needed)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    trained, tested = sampler(room, 0, rng)[0], sampler.testing(room)
    step = max(1, room // beta)
    pictures = length - 1 if isinstance(modality, StackedFlow) else length
    for indices in (trained, tested):
        fresh = [n for n, again in zip(indices, repeats(indices), strict=True) if not again]
        assert set(np.diff(fresh)) <= {step}
        assert len(fresh) == len(indices) or room < beta
        if length >= modality.frames_needed and pictures:
            planned = np.reshape(modality.plan(indices, pictures), (len(indices), -1))
            assert planned.max() < pictures
            assert (planned == planned[:, :1] + np.arange(planned.shape[1])).all()


def test_only_repeated_steps_are_marked():
    assert repeats([0, 4, 8]) == [False, False, False]
    assert repeats([0, 1, 2, 2, 2]) == [False, False, False, True, True]
    assert repeats([3]) == [False]
    assert (positions(30, 6), positions(6, 6), positions(3, 6), positions(9, 1)) == (25, 1, 1, 9)


def test_samplers_around_a_labelled_frame_are_refused():
    assert action_sampler(Segments(3, 9)) == Segments(3, 9)
    with pytest.raises(ValueError, match=r"clip: Window samples around .* clip=segments"):
        action_sampler(Window(1, 1))
