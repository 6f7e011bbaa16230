"""The decoders that are timed see the same clips, and a wrong one is found out."""

import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from omegaconf import OmegaConf

from data_modules.action_augment import Crop, cut
from data_modules.action_clips import open_action
from data_modules.benchmark import OpencvSource, measure, run
from data_modules.clips import ConsistentInterval
from data_modules.ucf101 import Ucf101
from flowfeat.cli import compose_config

SETTINGS = {"groups": 4, "clips": 1, "frames": [12, 14], "scene": {"size": [32, 40]}}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Ucf101:
    folder = tmp_path_factory.mktemp("benchmark")
    data = Ucf101(
        clip=ConsistentInterval(3, 4),
        synthetic_root=folder / "ucf",
        synthetic=SETTINGS,
        **{"crop": 16, "short_side": 20, "num_workers": 0},
    )
    data.prepare_data()
    data.setup("fit")
    cut(np.zeros((1, 8, 8, 3), np.uint8), Crop(0, 0, 8, 8), 4)  # the import takes a while
    return data


def test_all_decoders_give_the_same_clips(data):
    given = data.open_video
    timed = measure(data, clips=3, seconds=5)
    assert list(timed) == ["pyav", "decord", "opencv"]
    assert all(row.clips_per_second > 0 for row in timed.values())
    assert [row.same for row in timed.values()] == [1, 1, 1]
    assert data.open_video is given


def test_opencv_reads_an_embedded_video_in_any_order(data):
    path = data.parts["train"][0].path
    wrong, right = OpencvSource(path), open_action(path, "pyav")
    assert (len(wrong), wrong.size, wrong.fps) == (len(right), right.size, right.fps)
    for indices in ([0, 3, 6], [7, 2, 2, 9]):
        difference = wrong.read(indices).astype(int) - right.read(indices)
        assert np.abs(difference).max() <= 6
    with pytest.raises(ValueError, match="OpenCV cannot open it"):
        OpencvSource(Path("nowhere.avi"))


def test_other_data_are_refused(tmp_path):
    config = OmegaConf.create(
        {
            "task": "flying_chairs",
            "method": "flow",
            "module": {"_target_": "flowfeat.tasks.flow_task.FlowTask", "_partial_": True},
            "temporal": None,
            "clip": None,
            "seed": 0,
            "trust": [],
            "data": {"_target_": "data_modules.flying_chairs.FlyingChairs", "_partial_": True},
        }
    )
    with pytest.raises(ValueError, match="task=flying_chairs: expected ucf101 or hmdb51"):
        run(config, tmp_path)


def test_clips_that_no_decoder_reads_are_refused(data, tmp_path):
    words = ["task=ucf101", "method=per_frame", f"data.root={tmp_path}"]
    with pytest.raises(ValueError, match=r"data\.modality=flow: .* no decoder reads"):
        run(compose_config([*words, "modality=flow"]), tmp_path)
    shutil.copytree(data.list_folder, tmp_path / "ucfTrainTestlist")
    for video in (*data.parts["train"], *data.parts["val"]):
        folder = tmp_path / "rawframes" / video.name
        folder.mkdir(parents=True)
        cv2.imwrite(str(folder / "img_00001.jpg"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match=r"g\d\d_c\d\d: a folder of raw frames, .* video files"):
        run(compose_config(words), tmp_path)


def test_make_benchmark_data_takes_the_task():
    root = Path(__file__).resolve().parents[2]
    for word, task in (("TASK=hmdb51", "hmdb51"), ("TASK=vid", "ucf101"), ("VENV=.venv", "ucf101")):
        made = subprocess.run(
            ["make", "--dry-run", "benchmark-data", word],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
        assert f"flowfeat-benchmark-data task={task} method=per_frame" in made.stdout
