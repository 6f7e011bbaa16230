"""The few real clips of UCF-101 and HMDB-51: frame-exact where they are sampled, and trainable."""

from contextlib import nullcontext
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from data_modules.action_clips import open_action, read_pictures
from data_modules.clips import ConsistentInterval, Segments
from data_modules.hmdb51 import Hmdb51
from data_modules.modalities import Rgb
from data_modules.ucf101 import Ucf101

CLIPS = (
    "UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi",
    "UCF-101/Biking/v_Biking_g05_c02.avi",
    "UCF-101/SoccerJuggling/v_SoccerJuggling_g23_c01.avi",
    "hmdb51/wave/RATRACE_wave_f_nm_np1_fr_goo_37.avi",
    "hmdb51/wave/SchoolRulesHowTheyHelpUs_wave_f_nm_np1_ba_med_0.avi",
)


@pytest.mark.parametrize("clip", CLIPS)
def test_sampled_frames_are_those_of_sequential_decoding(samples, clip):
    path = samples / clip
    if not path.is_file():
        pytest.skip(f"{clip} is absent")
    with av.open(str(path)) as container:
        sequential = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    source = open_action(path)
    assert len(source) == len(sequential)
    rng = np.random.default_rng(0)
    for sampler in (ConsistentInterval(7, 25), Segments(3, 25)):
        tested = sampler.testing(len(source))
        for indices in (tested, *(sampler(len(source), 0, rng)[0] for _ in range(2))):
            found = read_pictures(Rgb(), clip, path, source, indices)
            wanted = np.stack([sequential[index] for index in indices])
            # Colours are converted by two libraries; the next frame differs by far more.
            assert int(cv2.absdiff(found.reshape(-1), wanted.reshape(-1)).max()) <= 3


def lists(folder: Path, names: list[str]) -> Path:
    folder.mkdir()
    classes = sorted({name.partition("/")[0] for name in names})
    lines = [f"{n} {name}" for n, name in enumerate(classes, 1)]
    (folder / "classInd.txt").write_text("\n".join(lines))
    for part in ("train", "test"):
        (folder / f"{part}list01.txt").write_text("\n".join(names))
    return folder


def test_batches_of_the_real_clips(samples, tmp_path):
    names = [clip.removeprefix("UCF-101/") for clip in CLIPS if clip.startswith("UCF-101/")]
    options = {"root": samples, "val_share": 0, "num_workers": 0}
    data = Ucf101(**options, lists=lists(tmp_path / "lists", names), batch_size=3)
    data.setup("fit")
    (batch,) = data.train_dataloader()
    assert batch["frames"].shape == (3, 7, 3, 224, 224)
    assert sorted(batch["actions"].tolist()) == [0, 1, 2]
    assert len(list(data.val_dataloader())) == 3


@pytest.mark.parametrize(
    ("kind", "name", "action"),
    [
        (Ucf101, "SoccerJuggling/v_SoccerJuggling_g23_c01", 83),
        (Hmdb51, "wave/RATRACE_wave_f_nm_np1_fr_goo_37", 50),
    ],
)
def test_the_official_lists_with_what_is_there(samples, kind, name, action):
    data = kind(root=samples, val_share=0, num_workers=0, batch_size=1, on_error="skip")
    assert len(data.classes) in (51, 101)
    with (
        pytest.raises(FileNotFoundError, match="nothing is left")
        if kind is Hmdb51
        else nullcontext()
    ):
        data.setup("fit")  # none of the few clips of HMDB-51 is in its test list
    assert [(video.name, video.action) for video in data.parts["train"]] == [(name, action)]
    (batch,) = data.train_dataloader()
    assert batch["snippets"] == [name]
