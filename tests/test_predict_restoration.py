"""Restoring a whole video: every frame at its place, both ends, odd sizes, before beside after."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from data_modules.video import open_video
from flowfeat import predict
from flowfeat.build import build_task
from flowfeat.checkpoint import KEY, Provenance
from flowfeat.cli import compose_config
from flowfeat.tasks.video_task import VideoTask

HEIGHT, WIDTH = 61, 83  # odd: nothing is halved, and the video keeps its size
SETTINGS = (
    "task=vimeo90k",
    "method=per_frame",
    "features.width=6",
    "head.depth=2",
    "head.residual_gain=0.15",
    "trainer.accelerator=cpu",
)
OFF = ("temporal=off_vimeo90k", "clip=off_vimeo90k")


def stored(path: Path, *words: str) -> tuple[Path, VideoTask]:
    """Save a small network with random weights as a checkpoint, and return both."""
    config = compose_config([*SETTINGS, *words])
    torch.manual_seed(0)
    task = build_task(config, ()).eval()
    for name, value in task.named_parameters():
        if name.startswith("temporal.refinement"):  # so that neighbours are seen in the result
            value.data *= 2
    record = Provenance(config, ()).record
    torch.save({"state_dict": task.state_dict(), KEY: record}, path)
    return path, task


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> tuple[Path, VideoTask]:
    return stored(tmp_path_factory.mktemp("run") / "best.ckpt", *OFF)


def clip(folder: Path, count: int) -> tuple[Path, np.ndarray]:
    """Write a pan as a folder of frames; return it, and the frames (T, H, W, 3)."""
    noise = np.random.default_rng(0).integers(60, 196, (10, 14, 3), np.uint8)
    ground = cv2.resize(noise, (WIDTH + 3 * count, HEIGHT))
    frames = np.stack([ground[:, 3 * t : 3 * t + WIDTH] for t in range(count)])
    folder.mkdir()
    for t, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"im{t + 1:02}.png"), frame[:, :, ::-1])
    return folder, frames


def run(monkeypatch, ckpt: Path, video: Path, *words: str) -> None:
    monkeypatch.setattr("sys.argv", ["flowfeat-predict", f"ckpt={ckpt}", f"video={video}", *words])
    predict.main()


@torch.no_grad()
def restored(task: VideoTask, frames: np.ndarray) -> np.ndarray:
    """Restore all frames (T, H, W, 3) at once, as training runs a clip."""
    clip = torch.from_numpy(frames).permute(0, 3, 1, 2)[None].float() / 255
    targets = torch.arange(len(frames))[None]
    output = task.temporal(clip, torch.ones(targets.shape, dtype=torch.bool), targets)
    pictures = task.head(output.features, output.frames).clamp(0, 1)
    return (pictures * 255).round().byte().permute(0, 2, 3, 1).numpy()


def light(frames: np.ndarray) -> np.ndarray:
    """Return the luma of frames (T, H, W, 3): H.264 halves the colours, not the light."""
    return frames @ np.array([0.299, 0.587, 0.114])


@pytest.mark.parametrize(("frames", "count"), [(3, 1), (3, 2), (3, 11), (2, 11)])
def test_every_frame_is_restored_and_none_is_out_of_place(monkeypatch, tmp_path, frames, count):
    ckpt, task = stored(tmp_path / "best.ckpt", *OFF, f"temporal.frames={frames}")
    video, before = clip(tmp_path / "pan", count)
    run(monkeypatch, ckpt, video, f"out={tmp_path / 'out'}")
    expected = restored(task, before)
    written = open_video(tmp_path / "out" / "pan.mp4")
    assert (len(written), written.size) == (count, (HEIGHT + 1, WIDTH + 1))  # yuv420p is even
    found = written.read(range(count))[:, :HEIGHT, :WIDTH]
    grey = [light(v) for v in (expected, found, before)]
    assert np.abs(grey[0] - grey[1]).mean() < 2
    assert np.abs(grey[0] - grey[2]).mean() > 6
    for t in range(count):  # each frame is most like its own
        errors = [np.abs(grey[0][s] - grey[1][t]).mean() for s in range(count)]
        assert int(np.argmin(errors)) == t
    lines = (tmp_path / "out" / "pan.jsonl").read_text().splitlines()
    assert [json.loads(line)["frame"] for line in lines] == list(range(count))


def test_before_and_after_side_by_side(monkeypatch, tmp_path, network):
    ckpt, task = network
    video, before = clip(tmp_path / "pan", 4)
    run(monkeypatch, ckpt, video, f"out={tmp_path / 'out'}", "side_by_side=true", "crf=1")
    written = open_video(tmp_path / "out" / "pan.mp4")
    assert written.size == (HEIGHT + 1, 2 * WIDTH)
    found = light(written.read(range(4))[:, :HEIGHT])
    left, right = found[:, :, :WIDTH], found[:, :, WIDTH:]
    assert np.abs(left - light(before)).mean() < 1.5
    assert np.abs(right - light(restored(task, before))).mean() < 1.5


def test_less_is_lost_than_with_the_usual_quality(monkeypatch, tmp_path, network):
    video, _ = clip(tmp_path / "pan", 2)
    sizes = []
    for words in ((), ("crf=20",)):
        run(monkeypatch, network[0], video, f"out={tmp_path / 'out'}", *words)
        sizes.append((tmp_path / "out" / "pan.mp4").stat().st_size)
    assert sizes[0] > 1.3 * sizes[1]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("crf=52", "crf=52: expected a whole number, 0 .. 51"),
        ("crf=1.5", "crf=1.5: expected a whole number, 0 .. 51"),
        ("side_by_side=yes", "side_by_side=yes: expected true or false"),
        ("label_maps=true", "label_maps=true: task vimeo90k"),
    ],
)
def test_bad_input_ends_in_one_line(monkeypatch, capsys, tmp_path, network, word, said):
    video, _ = clip(tmp_path / "pan", 1)
    with pytest.raises(SystemExit):
        run(monkeypatch, network[0], video, f"out={tmp_path / 'out'}", word)
    [line] = [w for w in capsys.readouterr().err.splitlines() if w.startswith("flowfeat: ")]
    assert said in line
