"""Delays against counts by hand, with the threshold that the false alarms ask for."""

import pytest
import torch

from flowfeat.interfaces import Detections
from flowfeat.metrics.detection_delay import DetectionDelay
from flowfeat.metrics.snippet import Snippet, snippet_of, tracked_frame


def video(
    found: list[float | None], visible: list[bool], alarms: list[float] | None = None
) -> Snippet:
    """One object, found with a score per frame (None: not), and false alarms in frame 0."""
    frames = []
    for t, (score, there) in enumerate(zip(found, map(int, visible), strict=True)):
        wrong = alarms or [] if t == 0 else []
        scores = ([score] if score is not None else []) + wrong
        boxes = [[0.0, 0, 20, 20]] * (score is not None) + [[200.0, 0, 220, 20]] * len(wrong)
        frames.append(
            tracked_frame(
                Detections(
                    torch.tensor(boxes).reshape(-1, 4),
                    torch.tensor(scores),
                    torch.zeros(len(scores), dtype=torch.int64),
                ),
                torch.tensor([[0.0, 0, 20, 20]] * there).reshape(-1, 4),
                torch.zeros(there, dtype=torch.int64),
                torch.full((there,), 3),
            )
        )
    return snippet_of(frames, [True] * len(frames))


def figures(metric: DetectionDelay) -> dict[str, float]:
    return {name: float(value) for name, value in metric.compute().items()}


LATE = video([None, None, 0.2, 0.6, 0.5], [False, True, True, True, True])  # enters in frame 1
NEVER = video([None, None, None], [True, True, False])


def test_every_detection_counts_where_nothing_is_false() -> None:
    metric = DetectionDelay()
    metric.update(LATE)
    assert figures(metric) == {"delay": 1, "delay_entering": 1}
    metric.update(NEVER)
    assert figures(metric) == {"delay": 1.5, "delay_entering": 1}  # 1, and both its frames


@pytest.mark.parametrize(
    ("rate", "delay"),
    [
        (0.4, 1.0),  # 2 alarms in 5 frames are allowed: no threshold
        (0.2, 2.0),  # one: above 0.3, so from frame 3 on
        (0.0, 4.0),  # none: above 0.7, so never
    ],
)
def test_the_threshold_keeps_false_alarms_rare(rate: float, delay: float) -> None:
    metric = DetectionDelay(rate)
    metric.update(
        video([None, None, 0.2, 0.6, 0.5], [False, True, True, True, True], alarms=[0.7, 0.3])
    )
    assert figures(metric)["delay"] == delay


def test_time_passes_while_an_object_is_hidden() -> None:
    metric = DetectionDelay()
    metric.update(video([None, None, None, 0.4], [True, False, False, True]))
    assert figures(metric) == {"delay": 3}


def test_nothing_seen_says_nothing_and_bad_rates_are_refused() -> None:
    assert DetectionDelay().compute() == {}
    with pytest.raises(ValueError, match=r"false_alarms must be at least 0, found -1"):
        DetectionDelay(-1)


def test_two_ranks_equal_one(computed_by_ranks) -> None:
    for shares in ([[LATE], [NEVER]], [[], [NEVER, LATE]]):
        for result in computed_by_ranks(DetectionDelay, shares):
            assert {n: float(v) for n, v in result.items()} == {"delay": 1.5, "delay_entering": 1}
