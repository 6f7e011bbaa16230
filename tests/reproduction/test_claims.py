"""Claims against sums done by hand."""

import statistics

import pytest

from flowfeat.cli import UsageError
from flowfeat.reproduction.claims import (
    MissingFigure,
    evaluate_number,
    gap,
    judge,
    names_in,
)

SEEDS = [
    {"dff": {"mAP_l10": 0.5, "mAP_l1": 0.6}, "sff": {"mAP_l10": 0.3}, "dff.timed": {"fps": 8.0}},
    {"dff": {"mAP_l10": 0.4, "mAP_l1": 0.6}, "sff": {"mAP_l10": 0.35}, "dff.timed": {"fps": 8.0}},
    {"dff": {"mAP_l10": 0.6, "mAP_l1": 0.6}, "sff": {"mAP_l10": 0.55}, "dff.timed": {"fps": 8.0}},
]


def test_arithmetic_over_figures():
    value = evaluate_number("(dff.mAP_l10 - 2 * sff.mAP_l10) / -4 + dff.timed.fps", SEEDS[0])
    assert value == pytest.approx((0.5 - 0.6) / -4 + 8)


def test_a_claim_is_about_the_means_and_tells_the_seeds_spread():
    verdict = judge("dff.mAP_l10 > sff.mAP_l10", SEEDS)
    assert verdict.holds
    assert verdict.difference == pytest.approx((0.2 + 0.05 + 0.05) / 3)
    assert verdict.spread == pytest.approx(statistics.stdev([0.2, 0.05, 0.05]))
    assert verdict.seeds == 3
    # 0.5 on average: not above 0.85 of 0.6 (0.51), though one seed of three is.
    assert not judge("dff.mAP_l10 >= 0.85 * dff.mAP_l1", SEEDS).holds
    assert judge("dff.mAP_l10 < 0.51", SEEDS).holds
    assert judge("dff.timed.fps >= 8", SEEDS).holds
    assert not judge("dff.timed.fps > 8", SEEDS).holds
    assert judge("dff.timed.fps <= 8", SEEDS[:1]).spread is None


def test_seeds_that_lack_a_figure_are_left_out():
    assert judge("dff.mAP_l10 > 0", [{}, SEEDS[1]]) == (True, 0.4, None, 1)
    with pytest.raises(MissingFigure, match="dff has no results"):
        judge("dff.mAP_l10 > 0", [{}])
    with pytest.raises(MissingFigure, match="no such figure in the results of dff"):
        judge("dff.mAP_l7 > 0", SEEDS)


def test_the_gap_between_two_lines_is_the_area_over_the_x_that_both_cover():
    lower = [(1.0, 0.0), (0.0, 0.0), (4.0, 3.0)]  # any order: y = 0 up to 1, then x - 1
    upper = [(0.5, 1.0), (2.0, 1.0), (9.0, 1.0)]
    # Over 0.5 .. 4: 1 * 0.5, then the triangle of 2 - x from 1 to 4: 1/2 - 2.
    assert gap(upper, lower) == pytest.approx((0.5 + 0.5 - 2) / 3.5)
    assert gap([(0, 1), (0, 3), (1, 2)], [(0, 0), (1, 0)]) == 2  # two points of one x: their mean
    lines = [{"a": upper, "b": lower}]
    assert judge('gap("a", "b") < 0', [{}], lines).holds
    with pytest.raises(MissingFigure, match="share no stretch"):
        gap([(0.0, 1.0), (1.0, 1.0)], [(2.0, 1.0), (3.0, 1.0)])
    with pytest.raises(MissingFigure, match="expected lines of the curve, a, b"):
        judge('gap("a", "c") < 0', [{}], lines)


@pytest.mark.parametrize(
    "text",
    ["dff.mAP_l10", "1 < dff.mAP_l10 < 2", "dff.mAP_l10 == 1", "__import__('os') > 1", "dff > 1",
     "dff.mAP_l10 >", "'a' > 1", "dff.mAP_l10 ** 2 > 1"],
)  # fmt: skip
def test_other_expressions_are_refused_in_one_line(text):
    with pytest.raises(UsageError) as caught:
        judge(text, SEEDS)
    assert str(caught.value).startswith(text)
    assert "\n" not in str(caught.value)


def test_names_that_an_expression_needs():
    assert set(names_in('dff.mAP - sff.mAP > gap("fixed", "learned")')) == {
        "dff", "sff", "fixed", "learned"
    }  # fmt: skip
    assert set(names_in("dff.timed.fps > 1")) == {"dff"}
