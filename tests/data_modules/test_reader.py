"""`predict` reads a video as the config says, in every data module."""

from pathlib import Path

import numpy as np
import pytest

from flowfeat.build import build_data
from flowfeat.cli import compose_config
from flowfeat.video_writer import VideoWriter


@pytest.mark.parametrize("task", ["vid", "cityscapes", "ucf101"])
def test_any_video_is_opened_by_the_reader_of_the_config(task: str, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with VideoWriter(path, 25.0, (32, 48)) as writer:
        for _ in range(3):
            writer.write(np.zeros((32, 48, 3), np.uint8))
    words = [f"task={task}", "method=per_frame"]
    for reader in ("decord", "pyav"):
        data = build_data(compose_config([*words, f"data.reader={reader}"]))
        assert data.open(path).reader == reader
    data = build_data(compose_config([*words, "data.reader=abc"]))
    with pytest.raises(ValueError, match="reader 'abc': expected one of"):
        data.open(path)
