"""The flow cache against known motion, and against processes, leftovers and other settings."""

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from data_modules.flow_cache import MANIFEST, FlowCache, quantise


class Shift:
    """A texture that moves by (dx, dy) pixels per frame."""

    fps = 25.0
    size = (48, 64)

    def __init__(self, length: int, dx: int, dy: int) -> None:
        rng = np.random.default_rng(1)
        coarse = rng.integers(0, 255, (60, 60, 3), np.uint8)
        self.texture = cv2.resize(coarse, (360, 360), interpolation=cv2.INTER_CUBIC)
        self.length, self.dx, self.dy = length, dx, dy
        self.reads = 0

    def __len__(self) -> int:
        return self.length

    def read(self, indices: range) -> NDArray[np.uint8]:
        self.reads += 1
        height, width = self.size
        frames = []
        for t in indices:
            y, x = 150 - t * self.dy, 150 - t * self.dx
            frames.append(self.texture[y : y + height, x : x + width])
        return np.stack(frames)


def test_dense_flow_coding() -> None:
    flow = np.array([-30, -20, -10, 0, 10, 20, 30], np.float32)
    assert quantise(flow, 20).tolist() == [0, 0, 64, 128, 191, 255, 255]


def test_known_motion(tmp_path: Path) -> None:
    flow = FlowCache(tmp_path).open("A/a", tmp_path / "a", Shift(40, 3, -2))
    assert len(flow) == 39
    pictures = flow.read([0, 20, 38]).astype(float)
    pixels = (pictures / 255 - 0.5) * 40
    inner = pixels[:, 12:-12, 12:-12]
    assert np.abs(np.median(inner, axis=(1, 2)) - (3, -2)).max() < 0.2


def test_tvl1_sees_the_same_motion_and_keeps_a_cache_of_its_own(tmp_path: Path) -> None:
    video = Shift(3, 3, -2)
    flow = FlowCache(tmp_path, method="tvl1").open("A/a", tmp_path / "a", video)
    assert len(flow) == 2
    pixels = (flow.read([0, 1]).astype(float) / 255 - 0.5) * 40
    inner = pixels[:, 12:-12, 12:-12]
    assert np.abs(np.median(inner, axis=(1, 2)) - (3, -2)).max() < 0.2
    with pytest.raises(ValueError, match=r"made with .*skimage_tvl1.*expected .*opencv_dis"):
        FlowCache(tmp_path).open("A/a", tmp_path / "a", video)


def test_tvl1_without_its_package_says_what_to_install(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.registration", None)
    with pytest.raises(ValueError, match=r"data.flow_method=tvl1: .*pip install -e '.\[tvl1\]'"):
        FlowCache(tmp_path, method="tvl1").open("A/a", tmp_path / "a", Shift(3, 1, 0))


def test_the_settings_of_dis_are_those_of_the_caches_that_exist() -> None:
    assert FlowCache(Path("anywhere")).settings == {
        "method": "opencv_dis",
        "version": 2,
        "preset": "medium",
        "bound": 20.0,
        "quality": 95,
    }


def test_computed_once_and_resumed(tmp_path: Path) -> None:
    cache, video = FlowCache(tmp_path), Shift(4, 1, 0)
    cache.open("A/a", tmp_path / "a", video)
    (tmp_path / "A/.a.writing-killed").mkdir()  # what a killed process leaves
    read, stamps = video.reads, [p.stat().st_mtime_ns for p in sorted(tmp_path.glob("A/a/*"))]
    again = FlowCache(tmp_path)
    assert len(again.open("A/a", tmp_path / "a", video)) == 3
    assert video.reads == read
    assert stamps == [p.stat().st_mtime_ns for p in sorted(tmp_path.glob("A/a/*"))]
    assert len(again.open("A/b", tmp_path / "b", video)) == 3
    assert video.reads > read


def test_a_replaced_video_is_computed_anew(tmp_path: Path) -> None:
    cache, file = FlowCache(tmp_path / "cache"), tmp_path / "a.avi"
    file.write_bytes(b"one")
    right = cache.open("A/a", file, Shift(4, 2, 0)).read([1])
    file.write_bytes(b"another")
    left = cache.open("A/a", file, Shift(4, -2, 0)).read([1])
    assert np.median(right[..., 0]) > 128 > np.median(left[..., 0])


def test_many_at_once(tmp_path: Path) -> None:
    def compute(number: int) -> int:
        return len(FlowCache(tmp_path).open("A/a", tmp_path / "a", Shift(6, 1, 1)))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(compute, range(16))) == [5] * 16
    assert sorted(p.name for p in tmp_path.iterdir()) == ["A", MANIFEST]
    assert [p.name for p in (tmp_path / "A").iterdir()] == ["a"]


def test_refusals(tmp_path: Path) -> None:
    cache, video = FlowCache(tmp_path / "cache"), Shift(4, 1, 0)
    cache.open("A/a", tmp_path / "a", video)
    for change in ({"preset": "fast"}, {"bound": 15.0}, {"quality": 80}):
        with pytest.raises(ValueError, match=f"{MANIFEST}: made with .*expected") as caught:
            replace(cache, **change).open("A/a", tmp_path / "a", video)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
    foreign = tmp_path / "pictures"
    foreign.mkdir()
    (foreign / "holiday.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"expected a flow cache .* found holiday.jpg"):
        FlowCache(foreign).open("A/a", tmp_path / "a", video)
    with pytest.raises(ValueError, match="expected 2 frames or more for flow, found 1"):
        cache.open("A/one", tmp_path / "a", Shift(1, 0, 0))
    with pytest.raises(ValueError, match="preset='best': expected one of ultrafast, fast, medium"):
        FlowCache(tmp_path, preset="best")  # type: ignore[arg-type]


def test_frames_of_another_folder_of_the_same_name_are_another_video(tmp_path: Path) -> None:
    cache, found = FlowCache(tmp_path / "cache"), []
    for place, dx in (("one", 1), ("two", 3)):
        video, folder = Shift(3, dx, 0), tmp_path / place / "frames"
        folder.mkdir(parents=True)
        for number, frame in enumerate(video.read(range(3)), start=1):
            cv2.imwrite(str(folder / f"img_{number:05}.jpg"), frame)
        pictures = cache.open("frames", folder, video).read([0])
        found.append(np.median(pictures[..., 0]) / 255 * 40 - 20)
    assert np.abs(np.array(found) - (1, 3)).max() < 0.3


def test_a_manifest_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=f"{MANIFEST}: expected JSON"):
        FlowCache(tmp_path).open("A/a", tmp_path / "a", Shift(2, 1, 0))
