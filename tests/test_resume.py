"""A run that was killed or terminated goes on to the very weights of the uninterrupted one."""

import multiprocessing
import os
import signal
import sys
from pathlib import Path

import cv2
import pytest
import torch
from omegaconf import OmegaConf

from flowfeat import train
from flowfeat.resume import check_resumed, differences, find_last
from flowfeat.tasks.video_task import VideoTask

STEPS = 8
TINY = (
    "method=dff",
    "trainer=cpu",
    "features.model=test_resnet",
    "head.anchor_sizes=[16,32]",
    "flow=flownet_half",
    "flow.width=0.0625",
    "warmup=none",
    "data.short_side=48",
    "data.long_side=64",
    "data.batch_size=2",
    "data.num_workers=0",
    "++data.synthetic={train_snippets: 1, val_snippets: 1, frames: 10, stills: 1, "
    "scene: {size: [48, 64]}}",
    "logger=none",
    "callbacks=quiet",
    "callbacks.speed=null",
    "callbacks.pictures=null",
    "callbacks.checkpoints.every_n_steps=2",
    f"trainer.max_steps={STEPS}",
    "trainer.val_check_interval=4",
    "evaluation.intervals=[]",
    "evaluation.copy=false",
    "evaluation.pairs_every=0",
)


def words(root: Path, name: str, *more: str) -> list[str]:
    return [
        "flowfeat-train",
        *TINY,
        f"data.synthetic_root={root / 'data'}",
        f"hydra.run.dir={root / name}",
        f"run_root={root}",
        *more,
    ]


def interrupted(root: Path, name: str, number: signal.Signals, step: int) -> int | None:
    """Train in a process that gets the signal inside its n-th step; return its exit status."""

    def work() -> None:
        os.setsid()
        sys.stdout = sys.stderr = (root / f"{name}.txt").open("w", buffering=1)
        cv2.setNumThreads(0)
        sys.argv = words(root, name)
        done, calls = VideoTask.training_step, [0]

        def training_step(self, batch, index):
            calls[0] += 1
            if calls[0] == step:
                os.kill(os.getpid(), number)
            return done(self, batch, index)

        VideoTask.training_step = training_step
        train.main()

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(200)
    return process.exitcode


def weights(folder: Path) -> dict[str, torch.Tensor]:
    content = torch.load(folder / "last.ckpt", weights_only=True)
    assert content["global_step"] == STEPS
    return content["state_dict"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Folders of an uninterrupted run and of two that were not so lucky."""
    root = tmp_path_factory.mktemp("resume")
    # Before this process trains: a fork should not inherit more threads than it must.
    (root / "codes.txt").write_text(
        f"{interrupted(root, 'killed', signal.SIGKILL, 4)} "
        f"{interrupted(root, 'terminated', signal.SIGTERM, 5)}"
    )
    before, sys.argv = sys.argv, words(root, "whole")
    try:
        train.main()
    finally:
        sys.argv = before
    return root


def test_signals_leave_what_they_should(root):
    killed, terminated = map(int, (root / "codes.txt").read_text().split())
    assert (killed, terminated) == (-signal.SIGKILL, 128 + signal.SIGTERM)
    steps = {
        name: torch.load(root / name / "last.ckpt", weights_only=True)["global_step"]
        for name in ("killed", "terminated")
    }
    # Killed in the fourth step: the state after two is there. Terminated in the fifth, the last of
    # its epoch: after it.
    assert steps == {"killed": 2, "terminated": 5}
    lines = (root / "terminated.txt").read_text().splitlines()
    assert lines[-1].startswith("interrupted; ")
    assert "resume=" in lines[-1]
    assert not any("Traceback" in line for line in lines)


@pytest.mark.parametrize("name", ["killed", "terminated"])
def test_the_resumed_run_ends_with_the_same_weights(monkeypatch, root, name):
    monkeypatch.setattr(sys, "argv", words(root, f"{name}_on", f"resume={root / name}"))
    train.main()
    expected, found = weights(root / "whole"), weights(root / f"{name}_on")
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    start = torch.load(root / name / "last.ckpt", weights_only=True)["state_dict"]
    assert any(not torch.equal(start[key], value) for key, value in expected.items())


def test_a_changed_config_is_refused_with_its_differences(monkeypatch, root, capsys):
    changed = ("data.batch_size=4", "seed=3", "trainer.max_steps=9", "data.num_workers=1")
    monkeypatch.setattr(sys, "argv", words(root, "no", f"resume={root / 'whole'}", *changed))
    with pytest.raises(SystemExit) as left:
        train.main()
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "data.batch_size=4 (was 2), seed=3 (was 0) (resume=" in line


def test_another_task_and_method_come_first_among_the_differences():
    def config(**changes):
        return OmegaConf.create({"clip": 1, "method": "dff", "task": "vid", **changes})

    found = differences(config(), config(clip=2, method="hold", task="cityscapes"))
    assert found == ["method=hold (was dff)", "task=cityscapes (was vid)", "clip=2 (was 1)"]


def test_weights_alone_are_no_training_to_go_on_with(tmp_path):
    path = tmp_path / "best.ckpt"  # as a method leaves it that trains nothing
    config = OmegaConf.create({"task": "vid", "trust": [], "resume": str(path)})
    record = {"config": OmegaConf.to_yaml(config), "classes": []}
    torch.save({"state_dict": {}, "flowfeat": record}, path)
    said = r"best.ckpt: expected the last.ckpt of a training, found weights alone \(start_from"
    with pytest.raises(ValueError, match=said):
        check_resumed(config)


def test_a_run_folder_without_a_checkpoint_is_refused(tmp_path):
    (tmp_path / "config.yaml").touch()
    with pytest.raises(FileNotFoundError, match=r"expected a last.ckpt in it, found config.yaml"):
        find_last(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no such checkpoint or run folder"):
        find_last(tmp_path / "nothing")
    for number in range(9):
        (tmp_path / f"{number}.txt").touch()
    with pytest.raises(FileNotFoundError, match=r"found 0\.txt, .*, 5\.txt and 4 more$"):
        find_last(tmp_path)
    (tmp_path / "last.ckpt").touch()
    assert find_last(tmp_path) == find_last(tmp_path / "last.ckpt") == tmp_path / "last.ckpt"


def test_data_may_move_but_not_come_or_go():
    def config(root):
        return OmegaConf.create({"data": {"root": root}, "trainer": {"gradient_clip_val": 1}})

    assert differences(config("/a"), config("/b")) == []
    assert differences(config(None), config("/b")) == ["data.root=/b (was null)"]
    other = OmegaConf.merge(config("/a"), {"trainer": {"gradient_clip_val": 2, "devices": 8}})
    assert differences(config("/a"), other) == ["trainer.gradient_clip_val=2 (was 1)"]
