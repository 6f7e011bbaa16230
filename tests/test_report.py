"""What a report says of the memory: that of the device on which the run was."""

import pytest
import torch

from flowfeat.report import peak_memory_gb


def test_a_run_on_the_cpu_of_a_machine_with_a_gpu_names_its_own_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 0)
    assert peak_memory_gb() > 0.01
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 * 10**9)
    assert peak_memory_gb() == 3.0
