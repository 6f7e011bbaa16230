"""The head's answers in pieces: those of the whole batch, each row with its own size."""

import torch

from flowfeat.heads.restoration import Restoration
from flowfeat.interfaces import Output
from flowfeat.ops import pieces
from flowfeat.results import results_of


def test_large_batches_are_answered_in_pieces(monkeypatch):
    torch.manual_seed(0)
    head = Restoration((4,), (1,), depth=2)
    every = torch.ones(5, 1, dtype=torch.bool)
    output = Output((torch.rand(5, 4, 6, 8),), torch.rand(5, 3, 6, 8), every, every[:, 0])
    sizes = torch.tensor([[6, 8], [5, 8], [6, 7], [1, 1], [4, 4]])
    calls = []
    head.register_forward_hook(lambda module, given, out: calls.append(len(out)))
    with torch.no_grad():
        whole = results_of(head, output, sizes)
        monkeypatch.setattr(pieces, "PIXELS", 2 * 6 * 8)
        found = results_of(head, output, sizes)
    assert calls == [5, 2, 2, 1]
    assert [tuple(r.shape[1:]) for r in found] == [tuple(s) for s in sizes.tolist()]
    assert all(torch.equal(a, b) for a, b in zip(found, whole, strict=True))
