"""Where a method wins at equal time, against crossings computed by hand."""

import pytest

from flowfeat.tradeoff import Point, best_at, draw, sentence, stretches


def point(line, interval, fps, accuracy, baseline=False):
    return Point(line, line, interval, fps, accuracy, None, baseline)


# Ours falls from 0.8 at 10 fps to 0.6 at 50 fps, theirs rises not: 0.7 at up to 60 fps.
OURS = [point("dff", 1, 10, 0.8), point("dff", 10, 50, 0.6)]
THEIRS = [point("every frame", None, 60, 0.7, True)]


def test_a_faster_network_serves_slower_needs_and_lines_go_on_between_points():
    assert best_at(OURS, 30, 1) == pytest.approx(0.7)
    assert best_at(OURS, 5, 1) == 0.8
    assert best_at(THEIRS, 20, 1) == 0.7
    assert best_at(THEIRS, 61, 1) == float("-inf")


def test_the_crossing_is_found():
    found = stretches(OURS + THEIRS)
    kinds = [s.outcome for s in found if s.outcome != "ties"]
    assert kinds == ["wins", "loses", "absent"]
    wins, loses, absent = [s for s in found if s.outcome != "ties"]
    assert wins.low == 10
    assert wins.high == pytest.approx(30, abs=0.3)
    assert (wins.at, wins.difference) == (10, pytest.approx(0.1))
    assert (loses.at, loses.difference) == (50, pytest.approx(-0.1))
    assert loses.high == 50
    assert absent.high == 60
    said = sentence(OURS + THEIRS, "dff", "mAP")
    assert "wins at 10.0 .. 29.9 fps (most by 0.100 mAP at 10.0 fps)" in said
    assert "loses at" in said
    assert "\n" not in said


def test_scores_that_are_better_low_turn_it_around():
    kinds = [s.outcome for s in stretches(OURS + THEIRS, higher_is_better=False)]
    assert kinds[0] == "wins"  # 0.6 at 50 fps or slower is the lowest
    assert stretches(OURS) == []
    assert "nothing to compare" in sentence(OURS, "dff", "mAP")


def test_the_picture_is_small(tmp_path):
    assert draw(OURS + THEIRS, "a title", "mAP", tmp_path / "t.png")
    assert 1000 < (tmp_path / "t.png").stat().st_size < 100_000
    assert not draw([], "a title", "mAP", tmp_path / "none.png")
