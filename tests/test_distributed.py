"""Two processes see what one sees: the same metrics, the same weights after the same batches."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import pytest
import pytorch_lightning as pl
import torch

from data_modules.sampling import assign_snippets
from flowfeat import cli, processes, train
from flowfeat.build import build_data, build_task
from flowfeat.interfaces import Detections
from flowfeat.tasks.detection import DetectionTask
from flowfeat.tasks.segmentation import SegmentationTask
from flowfeat.tasks.video_task import VideoTask
from flowfeat.train import build_trainer

COMMON = (
    "features.model=test_resnet",
    "flow=flownet_half",
    "flow.width=0.0625",
    "warmup=none",
    "data.num_workers=0",
    "logger=none",
    "callbacks=quiet",
    "trainer=ddp",
    "trainer.accelerator=cpu",
)
VID = (
    *COMMON,
    "task=vid",
    "method=dff",
    "head.anchor_sizes=[16,32]",
    "data.short_side=48",
    "data.long_side=64",
    "data.batch_size=4",
    "data.stream_chunk=3",
    "trainer.max_steps=2",
    "++data.synthetic={train_snippets: 1, val_snippets: 3, frames: 8, stills: 1, "
    "scene: {size: [48, 64]}}",
)
CITYSCAPES = (
    *COMMON,
    "task=cityscapes",
    "method=dff",
    "data.batch_size=2",
    "data.short_side=32",
    "data.long_side=64",
    "data.augment.crop=[32,32]",
    "data.synthetic.scene.size=[32,64]",
    "+data.synthetic.train_snippets=2",
    "+data.synthetic.val_snippets=3",
)


def jittered(task: DetectionTask, predictions: Any, truth: Any) -> None:
    """Score boxes near the truth: an untrained detector's mAP of 0 would agree with anything."""
    found = []
    for expected in truth:
        if expected is None:
            found.append(Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long()))
            continue
        sums = expected.boxes.sum(dim=1, keepdim=True)
        boxes = expected.boxes + 6 * torch.sin(7 * sums)
        found.append(Detections(boxes, torch.cos(sums[:, 0]).abs(), expected.labels))
    SCORE(task, found, truth)


def shifted(task: SegmentationTask, predictions: Any, truth: Any) -> None:
    """Score the truth, shifted by two pixels, for the same reason."""
    pairs = zip(predictions, truth, strict=True)
    SCORE_PIXELS(task, [p if t is None else t.roll(2, 1) % 19 for p, t in pairs], truth)


SCORE = DetectionTask.score
SCORE_PIXELS = SegmentationTask.score


def work(rank: int, world: int, port: int, words: tuple[str, ...], out: Path) -> None:
    """Test the fresh network, then train it: figures and weights of this rank go to ``out``."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
    os.environ |= {"LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    sys.stdout = sys.stderr = (out / f"{rank}.txt").open("w", buffering=1)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    DetectionTask.score, SegmentationTask.score = jittered, shifted  # type: ignore[method-assign]
    config = cli.compose_config([*words, f"trainer.devices={world}"])
    data = build_data(config)
    data.prepare_data()
    data.setup("fit")
    torch.manual_seed(0)
    task = build_task(config, data.classes)
    trainer = build_trainer(config, out, [], loggers=[], enable_checkpointing=False)
    figures = trainer.test(task, datamodule=data, verbose=False)[0]
    if config.task == "vid":
        trainer = build_trainer(
            config, out, [], loggers=[], enable_checkpointing=False, limit_val_batches=0
        )
        trainer.fit(task, datamodule=data)
        assert trainer.world_size == world
    torch.save((dict(figures), task.state_dict()), out / f"{rank}.pt")


def launch(words: tuple[str, ...], world: int, out: Path) -> list[Any]:
    """Run ``work`` in so many processes and return what each of them saved."""
    out.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    ranks = [
        context.Process(target=work, args=(rank, world, port, words, out)) for rank in range(world)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(120)
        rank.kill()
    texts = [(out / f"{rank}.txt").read_text() for rank in range(world)]
    assert all(rank.exitcode == 0 for rank in ranks), texts
    return [torch.load(out / f"{rank}.pt", weights_only=True) for rank in range(world)]


def test_detection_scores_and_learns_as_on_one_device(tmp_path):
    words = (*VID, f"data.synthetic_root={tmp_path / 'data'}")
    ((figures, weights),) = launch(words, 1, tmp_path / "one")
    (first, trained), (second, same) = launch(words, 2, tmp_path / "two")
    assert 0.05 < figures["mAP"] < 0.95
    assert set(first) == set(figures) >= {"mAP", "AP50", "key_share"}
    for name, value in figures.items():
        assert first[name] == second[name] == pytest.approx(value, abs=1e-6), name
    for name, value in weights.items():
        assert torch.equal(trained[name], same[name]), name
        assert torch.allclose(trained[name], value, atol=1e-6), name


@pytest.mark.slow
def test_segmentation_scores_as_on_one_device(tmp_path):
    words = (*CITYSCAPES, f"data.synthetic_root={tmp_path / 'data'}")
    ((figures, _),) = launch(words, 1, tmp_path / "one")
    ((first, _), (second, _)) = launch(words, 2, tmp_path / "two")
    assert 0.05 < figures["mIoU"] < 0.95
    assert set(first) == set(figures)
    for name, value in figures.items():
        assert first[name] == second[name] == pytest.approx(value, abs=1e-6), name


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("trainer.devices=4", "data.batch_size=4", "data.synthetic.train_snippets=4"),
            "more ranks than snippets, expected at most 3 processes for the 3 snippets of this "
            "evaluation, found 4",
        ),
        (
            ("trainer.devices=2", "data.batch_size=3"),
            "data.batch_size=3: expected a positive multiple of the 2 processes",
        ),
    ],
)
def test_what_cannot_be_shared_out_is_said_once_by_one_process(
    words, said, monkeypatch, capsys, tmp_path
):
    places = (f"data.synthetic_root={tmp_path / 'data'}", f"run_root={tmp_path / 'runs'}")
    monkeypatch.setattr(sys, "argv", ["flowfeat-train", *CITYSCAPES, *places, *words])
    monkeypatch.setattr(pl.Trainer, "fit", None)  # which would start the others
    with pytest.raises(SystemExit) as left:
        train.main()
    assert left.value.code == 2
    lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("flowfeat: error: ")]
    assert len(lines) == 1
    assert said in lines[0]


def test_more_ranks_than_snippets_are_refused_before_the_training(monkeypatch):
    trainer = pl.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    monkeypatch.setattr(pl.Trainer, "world_size", 4)

    class Data:
        def val_dataloader(self) -> None:
            assign_snippets([8, 8, 8], trainer.world_size)

    class Waiting:
        pass

    waiting: Any = Waiting()
    waiting.trainer, trainer.datamodule = trainer, Data()
    with pytest.raises(ValueError, match=r"more ranks than snippets.* the 3 snippets.* found 4"):
        VideoTask.on_fit_start(waiting)


@pytest.mark.parametrize("short", ["train", "val", "test"])
def test_every_list_that_the_run_comes_to_is_checked_before_it(short):
    """Three snippets in one list, enough for four processes in the others."""

    class Data(pl.LightningDataModule):
        ready = ("train", "val")

        def setup(self, stage: str) -> None:
            self.ready = (*self.ready, stage)

        def share(self, name: str) -> None:
            assert name in self.ready
            assign_snippets([8] * (3 if name == short else 4), self.trainer.world_size)

        def train_dataloader(self) -> None:
            self.share("train")

        def val_dataloader(self) -> None:
            self.share("val")

        def test_dataloader(self) -> None:
            self.share("test")

    trainer: Any = SimpleNamespace(world_size=4)
    with pytest.raises(ValueError, match=r"more ranks than snippets.* the 3 snippets.* found 4"):
        train.check_shares(Data(), trainer, trains=True)
    trainer.world_size = 3
    train.check_shares(Data(), trainer, trains=True)


@pytest.mark.parametrize("choice", ["task=cityscapes", "experiment=vid_dff_paper"])
def test_devices_are_chosen_apart_from_how_long_is_trained(choice):
    places = ("_target_", "_partial_", "accelerator", "devices", "num_nodes", "strategy")
    plain, ddp = (cli.compose_config([choice, *more]).trainer for more in ((), ("trainer=ddp",)))
    assert {k: v for k, v in plain.items() if k not in places} == {
        k: v for k, v in ddp.items() if k not in places
    }
    assert (plain.devices, ddp.devices) == (1, "auto")


def test_processes_of_torchrun_need_one_run_folder(monkeypatch):
    class Overrides:
        hydra: tuple[str, ...] = ()

    class Config:
        overrides = Overrides

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(processes.HydraConfig, "initialized", lambda: True)
    monkeypatch.setattr(processes.HydraConfig, "get", lambda: Config)
    with pytest.raises(ValueError, match=r"hydra.run.dir: expected one run folder for all 2"):
        processes.require_common_folder()
    Overrides.hydra = ("hydra.run.dir=runs/vid/dff/big",)
    processes.require_common_folder()


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_a_whole_run_on_two_devices_leaves_one_report(tmp_path):
    words = [
        *VID,
        "trainer.devices=2",
        f"data.synthetic_root={tmp_path / 'data'}",
        f"run_root={tmp_path / 'runs'}",
        "trainer.val_check_interval=2",
        "callbacks.speed.seconds=0.1",
        "evaluation.intervals=[]",
        "evaluation.pairs_every=4",
    ]
    script = Path(sys.executable).parent / "flowfeat-train"
    done = subprocess.run([script, *words], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs/vid/dff").iterdir()
    results = json.loads((folder / "results.json").read_text())
    assert {"mAP_l10", "mAP_pairs_l10", "mAP_copy_l10", "speedup_l10"} <= set(results)
    assert (folder / "last.ckpt").is_file()
    assert done.stdout.count("report: ") == done.stdout.count("run folder: ") == 1
