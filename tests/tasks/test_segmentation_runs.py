"""Whole runs of TASK=cityscapes, small: on the embedded set, and on the real stills."""

import json
import sys

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from flowfeat import cli, train
from flowfeat.build import build_data, build_task
from flowfeat.evaluation import evaluate

TINY = (
    "task=cityscapes",
    "features.model=test_resnet",
    "data.num_workers=0",
    "logger=none",
    "callbacks=quiet",
    "callbacks.speed.seconds=0.1",
    "trainer.accelerator=cpu",
    "trainer.max_steps=2",
    "trainer.val_check_interval=2",
)
EMBEDDED = (
    "flow=flownet_half",
    "flow.width=0.0625",
    "data.batch_size=2",
    "data.short_side=32",
    "data.long_side=64",
    "data.augment.crop=[32,32]",
    "warmup=none",
    "evaluation.intervals=[1]",
    "data.synthetic.scene.size=[32,64]",
    "+data.synthetic.train_snippets=2",
    "+data.synthetic.val_snippets=2",
)


def test_a_run_reports_pairs_streams_and_copies(monkeypatch, tmp_path):
    words = [*TINY, *EMBEDDED, "method=dff", f"data.synthetic_root={tmp_path / 'data'}"]
    monkeypatch.setattr(sys, "argv", ["flowfeat-train", *words, f"run_root={tmp_path / 'runs'}"])
    train.main()
    (folder,) = (tmp_path / "runs/cityscapes/dff").iterdir()
    results = json.loads((folder / "results.json").read_text())
    expected = {"mIoU_l1", "mIoU_l5", "mIoU_stream_l1", "mIoU_stream_l5", "mIoU_copy_l5"}
    expected |= {f"mIoU_distance{d}{kind}_l5" for d in range(5) for kind in ("", "_copy")}
    expected |= {"mIoU_worst_l5", "speedup_l5", "speedup_eq7_time_l5", "fps_l5"}
    assert expected <= set(results)
    assert results["mIoU_l1"] == results["mIoU_distance0_l5"] == results["mIoU_stream_l1"]
    distances = [results[f"mIoU_distance{d}_l5"] for d in range(5)]
    assert results["mIoU_l5"] == pytest.approx(np.mean(distances))
    assert results["mIoU_worst_l5"] == min(distances)
    # Streams of 20 frames reach the labelled one at the last of l = 5.
    assert results["mIoU_stream_l5"] == pytest.approx(distances[4])
    assert {p.name.split("_")[0] for p in (folder / "pictures").iterdir()} == {"validation", "test"}
    assert (folder / "best.ckpt").is_file()


def test_the_real_stills_train_and_evaluate(samples, tmp_path):
    config = cli.compose_config(
        [
            *TINY,
            "method=per_frame",
            f"data.root='{samples / 'cityscapes'}'",
            "data.images=leftImg8bit",
            "data.val_split=train",
            "data.short_side=1024",
            "data.long_side=2048",
            "data.augment={crop: [512, 768], flip: 0.5}",
            "data.batch_size=2",
            "features.stride=16",
        ]
    )
    torch.manual_seed(0)
    data = build_data(config)
    task = build_task(config, data.classes)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=2,
        logger=False,
        limit_val_batches=0,
        default_root_dir=tmp_path,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(task, datamodule=data)
    assert 0 < float(trainer.callback_metrics["loss"]) < 4
    report = evaluate(trainer, task, data)
    seen = np.zeros((19, 19))
    with torch.inference_mode():
        for batch in data.test_dataloader():
            assert batch["frames"].shape == (1, 1, 3, 1024, 2048)
            scores = task.head(task.temporal.features(batch["frames"][:, 0]), None)
            full = torch.nn.functional.interpolate(scores, scale_factor=16, mode="bilinear")
            found = full[0].argmax(0).numpy()
            truth = batch["label_maps"][0].numpy().astype(int)
            assert truth.shape == found.shape == (1024, 2048)
            known = truth != 255
            seen += np.bincount(truth[known] * 19 + found[known], minlength=361).reshape(19, 19)
    union = seen.sum(0) + seen.sum(1) - np.diag(seen)
    expected = (np.diag(seen)[union > 0] / union[union > 0]).mean()
    assert report["mIoU"] == pytest.approx(expected, abs=1e-5)
    assert set(report) <= {"mIoU", *map("IoU_{}".format, map(_key, data.classes))}


def _key(name: str) -> str:
    return name.replace(" ", "_")
