"""EPE: counted by hand, every known pixel alike."""

import pytest
import torch

from flowfeat.metrics.end_point_error import EndPointError


def test_every_known_pixel_of_the_set_counts_alike():
    metric = EndPointError()
    truth = torch.zeros(1, 2, 2, 3)
    off = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1).expand(1, 2, 2, 3)
    everywhere = torch.ones(1, 2, 3, dtype=torch.bool)
    metric.update(truth + off, truth, everywhere)  # six pixels, five pixels off
    one = torch.zeros(1, 2, 3, dtype=torch.bool)
    one[0, 1, 2] = True
    wild = torch.full_like(truth, 1e6)
    wild[0, :, 1, 2] = torch.tensor([0.0, 12.0])
    metric.update(wild, truth, one)  # one pixel, twelve off
    assert metric.compute().item() == pytest.approx((6 * 5 + 12) / 7)
    metric.reset()
    metric.update(truth, truth, everywhere)
    assert metric.compute().item() == 0.0


def test_two_processes_are_one():
    torch.manual_seed(0)
    flows, truths = torch.randn(2, 4, 2, 5, 6)
    valid = torch.rand(4, 5, 6) > 0.3
    whole, *halves = (EndPointError() for _ in range(3))
    whole.update(flows, truths, valid)
    for rank, half in enumerate(halves):
        half.update(flows[rank::2], truths[rank::2], valid[rank::2])
    joined = sum(h.total for h in halves) / sum(h.known for h in halves)
    assert joined.item() == pytest.approx(whole.compute().item())
