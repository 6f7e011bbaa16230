"""Rows beside peers: that they appear, and that the turns make the ratio."""

from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch

from data_modules.video.open import open_video
from flowfeat.benchmarking import peers
from flowfeat.benchmarking.page import page

CPU = torch.device("cpu")
ROWS = {
    "peers/votes_over_ps_roi_pool",
    "peers/votes_over_ps_roi_pool_training",
    "peers/warp_over_grid_sample",
    "peers/warp_over_grid_sample_training",
    "peers/dis_over_opencv",
    "peers/resize_labels_over_opencv",
}


def test_every_row_appears_and_is_positive() -> None:
    found = peers.peer_figures((48, 64), 1, CPU)
    assert set(found) == ROWS
    assert min(found.values()) > 0
    assert "| votes_over_ps_roi_pool | " in page("t", "a", found)


def test_a_ratio_is_the_median_over_turns_without_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The machine is three times as slow in the third turn: both of it are."""
    spent = iter([100.0, 1.0, 1.0, 2.0, 3.0, 6.0, 4.0, 2.0])
    monkeypatch.setattr(peers, "seconds_of", lambda function, device: next(spent))
    assert peers.ratio((lambda: None, lambda: None), 3, CPU) == 0.5


def test_reading_stands_beside_pyav_and_a_folder_has_no_peer(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(6):
            picture = np.full((48, 64, 3), 40 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    data = SimpleNamespace(open=open_video)
    found = peers.reading_beside_pyav(data, str(path), 4, 1)
    assert set(found) == {"peers/read_over_pyav"}
    assert found["peers/read_over_pyav"] > 0
    assert peers.reading_beside_pyav(data, str(tmp_path), 4, 1) == {}
