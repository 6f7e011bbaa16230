"""What a modality computes for a segment: counted whole, on real frames, in time that is known."""

import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from data_modules import flow_methods
from data_modules.modalities import choose_modality
from data_modules.modality_cost import opening, time_segment
from data_modules.ucf101 import Ucf101


class Numbers:
    """Frames that show their number."""

    fps, size = 25.0, (16, 24)

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def read(self, indices: list[int]) -> NDArray[np.uint8]:
        return np.stack([np.full((*self.size, 3), n, np.uint8) for n in indices])


def test_rgb_costs_nothing_and_reads_nothing() -> None:
    data = Ucf101(root="nowhere", num_workers=0)
    assert data.segment_seconds(data.modality) == 0


@pytest.mark.parametrize(("length", "shown"), [(9, [0, 1, 2, 3, 4, 5]), (3, [0, 1, 2, 2, 2, 2])])
def test_the_frames_are_a_segments(length: int, shown: list[int]) -> None:
    frames = opening(Numbers(length), choose_modality("flow"))
    assert frames[:, 0, 0, 0].tolist() == shown


@pytest.mark.parametrize(("pair", "segments"), [(0.02, 5), (0.08, 3), (3.0, 1)])
def test_flow_counts_every_pair_and_slow_flow_is_timed_once(
    clock: None, monkeypatch: pytest.MonkeyPatch, pair: float, segments: int
) -> None:
    pairs: list[int] = []

    def slow(preset: str) -> flow_methods.Between:
        def between(frame: flow_methods.Grey, following: flow_methods.Grey) -> NDArray[np.float32]:
            time.sleep(pair)
            pairs.append(int(following[0, 0]) - int(frame[0, 0]))
            return np.zeros((*frame.shape, 2), np.float32)

        return between

    monkeypatch.setattr(flow_methods, "_dis", slow)
    flow = choose_modality("flow", new_length=5)
    assert time_segment(flow, opening(Numbers(9), flow), 16) == pytest.approx(5 * pair)
    assert pairs == [1] * 5 * segments


def test_differences_are_those_of_the_network(monkeypatch: pytest.MonkeyPatch, clock: None) -> None:
    """Of the size that the network sees, five of them."""
    shapes = []

    def finish(self: object, frames: object) -> None:
        time.sleep(0.001)
        shapes.append(tuple(frames.shape))  # type: ignore[attr-defined]

    monkeypatch.setattr("data_modules.modalities.RgbDiff.finish", finish)
    modality = choose_modality("rgb_diff")
    frames = opening(Numbers(9), modality)
    assert time_segment(modality, frames, 12) == pytest.approx(0.001)
    assert set(shapes) == {(1, 18, 12, 12)}


def test_methods_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"data\.flow_method='farneback': expected one of dis, tvl1"
    ):
        choose_modality("flow", method="farneback")
    caches = [choose_modality("flow", None, None, tmp_path / "c", m) for m in ("dis", "tvl1")]
    assert [modality.cache.root.name for modality in caches] == ["c", "c_tvl1"]  # type: ignore[attr-defined]
