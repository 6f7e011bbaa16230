"""Jitter of boxes with known errors, and of none."""

import numpy as np
import pytest
import torch

from flowfeat.interfaces import Detections
from flowfeat.metrics.box_jitter import BoxJitter
from flowfeat.metrics.snippet import Collector, Snippet, snippet_of, tracked_frame

NO_LABEL = torch.zeros(1, dtype=torch.int64)


def video(found: np.ndarray, true: np.ndarray, is_key: list[bool]) -> Snippet:
    frames = [
        tracked_frame(
            Detections(torch.tensor(f[None]), torch.ones(1), NO_LABEL),
            torch.tensor(t[None]),
            NO_LABEL,
            NO_LABEL,
        )
        for f, t in zip(found, true, strict=True)
    ]
    return snippet_of(frames, is_key)


def moving(frames: int) -> np.ndarray:
    return np.array([[5.0 * t, 7, 5 * t + 100, 57] for t in range(frames)])


def figures(metric: BoxJitter) -> dict[str, float]:
    return {name: float(value) for name, value in metric.compute().items()}


def test_a_constant_error_is_steady() -> None:
    metric = BoxJitter()
    metric.update(video(moving(8) + np.array([4, 2, 4, 2]), moving(8), [True, False] * 4))
    assert figures(metric) == pytest.approx({"jitter_inside": 0, "jitter_across": 0}, abs=1e-6)


def test_jumps_count_where_they_happen() -> None:
    """The box is shifted by 10 of 100 pixels from the second key frame on, and widened there."""
    found = moving(8)
    found[4:] += [10, 0, 10, 0]
    metric = BoxJitter()
    metric.update(video(found, moving(8), [True, False, False, False] * 2))
    # One step leads to a key frame, by 0.1 widths: sqrt(0.1^2 / 1 / 2).
    expected = {"jitter_inside": 0, "jitter_across": 0.1 / np.sqrt(2)}
    assert figures(metric) == pytest.approx(expected, abs=1e-6)


def test_independent_errors_give_their_standard_deviation() -> None:
    rng = np.random.default_rng(0)
    shift = rng.normal(0, [3, 1], (4000, 2))
    true = np.tile(moving(1), (4000, 1))
    metric = BoxJitter()
    metric.update(video(true + np.tile(shift, 2), true, [True] * 4000))
    assert figures(metric) == pytest.approx({"jitter_across": 3 / 100 + 1 / 50}, rel=0.05)


def test_sizes_and_aspects_count() -> None:
    """Every other box is 1.21 times as wide, about its centre: scale by 1.1, aspect by 1.21."""
    found = moving(5)
    found[::2] += [-10.5, 0, 10.5, 0]
    metric = BoxJitter()
    metric.update(video(found, moving(5), [False] * 5))
    assert figures(metric) == pytest.approx({"jitter_inside": (0.1 + 0.21) / np.sqrt(2)}, rel=1e-5)


def test_gaps_make_no_steps_and_streams_are_kept_apart() -> None:
    """Two streams at once, one of which begins anew: four videos of two frames each."""
    collector, metric = Collector(), BoxJitter()
    ended = []
    for t in range(4):
        frames = video(moving(4), moving(4), [True] * 4).frames
        ended += collector.add([frames[t], None], [t == 2, False], [t % 2 == 0, False])
    ended += collector.finish()
    assert [len(snippet.frames) for snippet in ended] == [2, 2, 4]
    for snippet in ended:
        metric.update(snippet)
    assert metric.steps.tolist() == [2, 0]


def test_two_ranks_equal_one(computed_by_ranks) -> None:
    found = moving(4)
    found[2] += [10, 0, 10, 0]
    videos = [video(found, moving(4), [True, False] * 2), video(moving(3), moving(3), [True] * 3)]
    alone = BoxJitter()
    for one in videos:
        alone.update(one)
    for shares in ([videos[:1], videos[1:]], [videos, []]):
        for result in computed_by_ranks(BoxJitter, shares):
            assert result == alone.compute()
