"""Threads that stand for processes, for the metrics of whole videos."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor


@pytest.fixture
def computed_by_ranks() -> Callable[..., list[Any]]:
    """Return a function (make, shares): what each rank computes after its own updates."""

    def run(make: Callable[..., Any], shares: Sequence[Sequence[Any]]) -> list[Any]:
        barrier = threading.Barrier(len(shares), timeout=20)
        board: list[Tensor] = [torch.empty(0)] * len(shares)
        results: list[Any] = [None] * len(shares)

        def work(rank: int) -> None:
            def gather(tensor: Tensor, group: Any = None) -> list[Tensor]:
                board[rank] = tensor
                barrier.wait()
                gathered = list(board)
                barrier.wait()
                return gathered

            metric = make(dist_sync_fn=gather, distributed_available_fn=lambda: True)
            for item in shares[rank]:
                metric.update(item)
            results[rank] = metric.compute()

        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(len(shares))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results

    return run
