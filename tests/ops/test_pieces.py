"""Large batches in pieces: the same results from fewer rows at a time, on the CPU alone."""

import pytest
import torch
from torch import Tensor, nn

from flowfeat.interfaces import Flow
from flowfeat.ops import pieces
from flowfeat.ops.pieces import in_pieces


@pytest.fixture
def seen(monkeypatch):
    """Let a piece hold two pictures of 4 x 6, and note how many rows each call gets."""
    monkeypatch.setattr(pieces, "PIXELS", 2 * 4 * 6)
    return []


def batch(rows: int, seed: int = 0) -> Tensor:
    return torch.rand(rows, 3, 4, 6, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("rows", "calls"), [(1, [1]), (2, [2]), (5, [2, 2, 1]), (0, [0])])
def test_levels_are_those_of_one_call(seen, rows, calls):
    conv = nn.Conv2d(3, 2, 1)

    def network(frames):
        seen.append(len(frames))
        return conv(frames), frames.mean(1)

    with torch.no_grad():
        found = in_pieces(network, batch(rows))
        whole = conv(batch(rows)), batch(rows).mean(1)
    assert seen == calls
    assert isinstance(found, tuple)
    for ours, expected in zip(found, whole, strict=True):
        torch.testing.assert_close(ours, expected)


def test_pairs_stay_together_and_nones_stay_nones(seen):
    def network(current, key):
        seen.append(len(current))
        return Flow((current - key)[:, :2], None)

    current, key = batch(3), batch(3, seed=1)
    with torch.no_grad():
        flow = in_pieces(network, current, key)
    assert seen == [2, 1]
    assert isinstance(flow, Flow)
    assert flow.scale is None
    assert torch.equal(flow.displacement, (current - key)[:, :2])


def test_with_gradients_a_batch_stays_whole(seen):
    in_pieces(lambda frames: seen.append(len(frames)), batch(5))
    assert seen == [5]


def test_other_devices_get_the_whole_batch(seen):
    with torch.no_grad():
        in_pieces(lambda frames: seen.append(len(frames)), torch.empty(5, 3, 4, 6, device="meta"))
    assert seen == [5]


def test_pictures_larger_than_a_piece_go_one_by_one(seen):
    with torch.no_grad():
        in_pieces(lambda frames: seen.append(len(frames)), torch.zeros(3, 3, 40, 60))
    assert seen == [1, 1, 1]
