"""Suppression in steady shapes finds what suppression one by one finds, or says that it did not."""

import pytest
import torch

from flowfeat.heads import steady_shapes
from flowfeat.heads.rfcn import RFCN, RFCNMaps
from flowfeat.heads.steady_shapes import best_survivors, survivors


def one_by_one(overlaps: torch.Tensor, wanted: torch.Tensor) -> list[bool]:
    kept: list[bool] = []
    for i, candidate in enumerate(wanted.tolist()):
        kept.append(candidate and not any(kept[j] and overlaps[j, i] for j in range(i)))
    return kept


@pytest.mark.parametrize("share", [0.05, 0.3, 0.9])
def test_the_rounds_end_at_the_greedy_choice(share):
    generator = torch.Generator().manual_seed(0)
    overlaps = torch.rand(4, 40, 40, generator=generator) < share
    wanted = torch.rand(4, 40, generator=generator) < 0.8
    kept, final = survivors(overlaps, wanted)
    assert final
    assert kept.tolist() == [one_by_one(*row) for row in zip(overlaps, wanted, strict=True)]


@pytest.mark.parametrize(("length", "reached"), [(20, True), (60, False)])
def test_a_chain_that_is_too_long_is_said(length, reached):
    """Each box overlaps the next one alone: every other one stays."""
    chain = torch.diag(torch.ones(length - 1), 1).bool()
    kept, final = survivors(chain, torch.ones(length, dtype=torch.bool))
    assert final == reached
    if reached:
        assert kept.tolist() == [n % 2 == 0 for n in range(length)]


def test_too_few_survivors_among_those_looked_at_are_said():
    """Sixteen equal boxes, of which one stays, and others beyond the eight for each wanted."""
    boxes = torch.tensor([[0.0, 0, 9, 9]]).repeat(16, 1)
    more = torch.cat((boxes, boxes + 100))
    wanted = torch.ones(32, dtype=torch.bool)
    assert not best_survivors(more, wanted, 0.7, limit=2).final
    found = best_survivors(boxes, wanted[:16], 0.7, limit=2)
    assert found.final
    assert found.there.tolist() == [True, False]
    assert found.boxes.tolist() == [[0, 0, 9, 9], [0, 0, 0, 0]]


@pytest.mark.parametrize("rounds", [24, 1])
@pytest.mark.parametrize("limits", [(300, 6000, 300), (12, 6000, 9), (300, 70, 300)])
def test_r_fcn_detects_the_same_at_once(monkeypatch, rounds, limits):
    """Two pictures of other sizes; with one round it must go back to the exact way."""
    monkeypatch.setattr(steady_shapes, "ROUNDS", rounds)
    proposals, pre_nms, most = limits
    head = RFCN(
        (8,), (8,), 3, k=2, anchor_sizes=(16, 32, 48), proposals=proposals, pre_nms=pre_nms,
        max_detections=most, score_threshold=0.25,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    maps = [(2, 18, 6, 8), (2, 36, 6, 8), (2, 16, 6, 8), (2, 16, 6, 8)]
    raw = RFCNMaps(*(torch.randn(shape, generator=generator) for shape in maps))
    sizes = torch.tensor([[48, 64], [33, 50]])
    exact = head._postprocess_exactly(raw, sizes)
    found = head._postprocess_at_once(raw, sizes)
    assert all(len(each.scores) > 3 for each in exact)
    for ours, truth in zip(found, exact, strict=True):
        assert torch.equal(ours.labels, truth.labels)
        torch.testing.assert_close(ours.scores, truth.scores)
        torch.testing.assert_close(ours.boxes, truth.boxes)
