"""Which reader opens a video: by the pattern of access, or as the config says."""

from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from data_modules.video import open_video
from data_modules.video.decord_source import decord_missing
from flowfeat.build import build_data
from flowfeat.cli import compose_config


def write(path: Path, codec: str = "libx264") -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        for level in range(3):
            picture = np.full((32, 48, 3), 50 * level, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def test_auto_goes_by_the_pattern_of_access(tmp_path: Path) -> None:
    if decord_missing():
        pytest.skip("decord has no wheel for this machine")
    h264, mpeg4 = write(tmp_path / "a.mp4"), write(tmp_path / "a.avi", "mpeg4")
    assert open_video(h264).reader == open_video(h264, access="near").reader == "pyav"
    assert open_video(h264, access="sparse").reader == "decord"
    assert open_video(mpeg4, access="sparse").reader == "pyav"  # Xvid: never cheaper
    assert "costs less" in open_video(mpeg4, access="sparse").reason
    for path in (h264, mpeg4):
        assert open_video(path, "decord").reader == "decord"
    with pytest.raises(ValueError, match="access 'far': expected one of near, sparse"):
        open_video(h264, access="far")  # type: ignore[arg-type]


@pytest.mark.parametrize("task", ["vid", "cityscapes", "ucf101", "hmdb51"])
@pytest.mark.parametrize("reader", ["auto", "pyav", "decord"])
def test_a_folder_of_frames_is_opened_whatever_decodes_files(
    task: str, reader: str, tmp_path: Path
) -> None:
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((32, 48, 3), number, np.uint8))
    data = build_data(compose_config([f"task={task}", "method=per_frame", f"data.reader={reader}"]))
    source = data.open(tmp_path)
    assert source.reader == "folder"
    assert source.read([2, 0])[:, 0, 0, 0].tolist() == [2, 0]


@pytest.mark.parametrize("task", ["ucf101", "hmdb51"])
def test_actions_are_read_by_the_rule(task: str) -> None:
    assert build_data(compose_config([f"task={task}", "method=off"])).reader == "auto"


@pytest.mark.parametrize("task", ["vid", "cityscapes", "ucf101"])
def test_any_video_is_opened_by_the_reader_of_the_config(task: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4")
    words = [f"task={task}", "method=per_frame"]
    for reader in ("decord", "pyav"):
        data = build_data(compose_config([*words, f"data.reader={reader}"]))
        assert data.open(path).reader == reader
    data = build_data(compose_config([*words, "data.reader=abc"]))
    with pytest.raises(ValueError, match="reader 'abc': expected one of"):
        data.open(path)
