"""Modalities against hand-made pictures: order of channels, mirrors, ends of the video, errors."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from data_modules.modalities import MODALITIES, RgbDiff, StackedFlow, choose_modality


class Video:
    """Frames whose red value is 10 t, green 3 t, blue 7."""

    fps = 25.0
    size = (16, 24)

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def read(self, indices: list[int]) -> NDArray[np.uint8]:
        values = [(10 * t, 3 * t, 7) for t in indices]
        return np.broadcast_to(
            np.array(values, np.uint8)[:, None, None], (len(values), *self.size, 3)
        )


def write_flow(folder: Path, count: int, skip: int = 0) -> None:
    """Write x = 10 + n, y = 200 - n (n from 1), so that every picture is known by its value."""
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(1, count + 1):
        for axis, value in (("x", 10 + n), ("y", 200 - n)):
            if n != skip:
                flat = np.full((16, 24), value, np.uint8)
                cv2.imwrite(str(folder / f"flow_{axis}_{n:05}.jpg"), flat)


def test_sizes() -> None:
    found = {name: choose_modality(name) for name in MODALITIES}
    assert [m.channels for m in found.values()] == [3, 15, 10]
    assert [m.new_length for m in found.values()] == [1, 5, 5]
    assert [m.frames_needed for m in found.values()] == [1, 6, 6]


def test_rgb_is_the_frames() -> None:
    modality, video = choose_modality("rgb"), Video(20)
    assert modality.plan([3, 7, 19], 20) == [3, 7, 19]
    pictures = video.read([3, 7, 19])
    stacked = modality.stack(pictures, flipped=True)
    assert np.array_equal(stacked, pictures)
    frames = torch.from_numpy(stacked.copy()).permute(0, 3, 1, 2) / 255
    assert torch.equal(modality.finish(frames), frames)


def test_differences_are_next_minus_this() -> None:
    modality, video = RgbDiff(), Video(20)
    assert modality.open("A/a", Path("a.avi"), video) is video
    wanted = modality.plan([2, 9], 20)
    assert wanted == [2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14]
    stacked = modality.stack(video.read(wanted))
    assert stacked.shape == (2, 16, 24, 18)
    batch = torch.from_numpy(stacked).permute(0, 3, 1, 2)[None].float() / 255
    found = modality.finish(batch)  # (1, 2, 15, 16, 24)
    expected = torch.tensor([10.0, 3.0, 0.0] * 5) / 255
    assert found.shape == (1, 2, 15, 16, 24)
    assert torch.allclose(found, expected[:, None, None].expand_as(found), atol=1e-6)


def test_differences_are_signed_and_stop_at_the_end() -> None:
    modality = RgbDiff(2)
    wanted = modality.plan([3], 5)
    assert wanted == [3, 4, 4]
    falling = np.stack([np.full((2, 2, 3), value, np.uint8) for value in (255, 0, 0)])
    stacked = torch.from_numpy(modality.stack(falling)).permute(0, 3, 1, 2) / 255
    found = modality.finish(stacked)[0, :, 0, 0]
    assert found.tolist() == [-1, -1, -1, 0, 0, 0]


@pytest.mark.parametrize("beside", [True, False])
def test_flow_is_interleaved_and_counts_from_one(tmp_path: Path, beside: bool) -> None:
    write_flow(tmp_path / "A/a.b", 11)
    if beside:  # next to raw frames
        modality, path = StackedFlow(3), tmp_path / "A/a.b"
        cv2.imwrite(str(path / "img_00001.jpg"), np.zeros((99, 99, 3), np.uint8))
    else:
        modality, path = StackedFlow(3, root=tmp_path), tmp_path / "videos/A/a.b.avi"
    source = modality.open("A/a.b", path, Video(12))
    assert len(source) == 11
    assert source.size == (16, 24)
    wanted = modality.plan([0, 9], len(source))
    assert wanted == [0, 1, 2, 9, 10, 10]
    stacked = modality.stack(source.read(wanted))
    assert stacked.shape == (2, 16, 24, 6)
    assert stacked[:, 5, 7].tolist() == [
        [11, 199, 12, 198, 13, 197],
        [20, 190, 21, 189, 21, 189],
    ]
    mirrored = modality.stack(source.read(wanted), flipped=True)
    assert mirrored[0, 5, 7].tolist() == [244, 199, 243, 198, 242, 197]


def test_mirrored_flow_is_the_flow_of_the_mirrored_video() -> None:
    """Computed on both, with OpenCV: x changes its sign."""
    rng = np.random.default_rng(0)
    noise = cv2.GaussianBlur(rng.integers(0, 255, (60, 90), np.uint8), (7, 7), 2)
    noise = cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX)
    first, second = noise[:, 10:74].copy(), noise[:, 7:71].copy()  # moves right by 3
    search = cv2.DISOpticalFlow.create(2)
    plain = search.calc(first, second, None)
    mirror = search.calc(first[:, ::-1].copy(), second[:, ::-1].copy(), None)
    assert abs(np.median(plain[..., 0]) - 3) < 0.2
    modality = StackedFlow(1)

    def coded(flow: NDArray[np.float32]) -> NDArray[np.uint8]:
        return np.rint((flow + 20) / 40 * 255).astype(np.uint8)[None]

    ours = modality.stack(coded(plain[:, ::-1]), flipped=True).astype(int)
    theirs = modality.stack(coded(mirror)).astype(int)
    inner = (0, slice(8, -8), slice(8, -8))
    assert np.abs(np.median(ours[inner] - theirs[inner], axis=(0, 1))).max() <= 1


def test_flow_that_does_not_belong(tmp_path: Path) -> None:
    write_flow(tmp_path / "A/a", 11)
    modality = StackedFlow(root=tmp_path)
    path = tmp_path / "a.avi"
    for frames in (11, 12):
        assert len(modality.open("A/a", path, Video(frames))) == 11
    for frames in (10, 13, 40):
        message = f"11 pictures of flow, expected {frames - 1} .or {frames}. for the {frames}"
        with pytest.raises(ValueError, match=message):
            modality.open("A/a", path, Video(frames))
    with pytest.raises(FileNotFoundError, match=r"flow_x_00001.jpg.*data.flow_cache="):
        modality.open("A/b", path, Video(12))
    (tmp_path / "A/a/flow_y_00011.jpg").unlink()
    with pytest.raises(ValueError, match=r"11 pictures flow_x .* and 10 flow_y"):
        modality.open("A/a", path, Video(12))
    write_flow(tmp_path / "A/gap", 5, skip=3)
    with pytest.raises(ValueError, match=r"flow_x_00003.jpg"):
        modality.open("A/gap", path, Video(6))


def test_bad_settings(tmp_path: Path) -> None:
    for arguments, message in (
        ({"name": "depth"}, "data.modality='depth': expected one of rgb, rgb_diff, flow"),
        ({"name": "rgb", "new_length": 5}, "data.new_length=5: expected 1"),
        ({"name": "rgb_diff", "new_length": 0}, "data.new_length=0"),
    ):
        with pytest.raises(ValueError, match=message):
            choose_modality(**arguments)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match=r"data.flow_root="):
        choose_modality("flow", flow_root=tmp_path / "absent")
    with pytest.raises(ValueError, match="expected 6 for every segment"):
        RgbDiff().stack(np.zeros((7, 2, 2, 3), np.uint8))
