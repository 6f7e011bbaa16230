"""Fixtures for every test: where the real samples lie, and one thread per test process."""

import os
import time
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def samples() -> Path:
    """Folder of real dataset pieces; tests that use it skip where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "samples"
    folder = Path(os.environ.get("FLOWFEAT_SAMPLES", default))
    if not folder.is_dir():
        pytest.skip(f"real samples are absent: {folder} (set FLOWFEAT_SAMPLES)")
    return folder


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let time pass in `sleep` alone: no figure depends on how busy the machine is."""
    now = 0.0

    def work(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(time, "sleep", work)
    monkeypatch.setattr(time, "perf_counter", lambda: now)
