"""A whole run, small: what it leaves behind, how it goes on, and every part swapped."""

import json
import sys

import pytest
import torch
import yaml
from pytorch_lightning.utilities import move_data_to_device

from flowfeat import cli, train
from flowfeat.build import build_data, build_task
from flowfeat.checkpoint import read_checkpoint, restore_task

TINY = (
    "features.model=test_resnet",
    "flow.width=16",
    "head.anchor_sizes=[16,32]",
    "data.short_side=64",
    "data.long_side=80",
    "data.batch_size=2",
    "data.num_workers=0",
    "warmup.data.num_workers=0",
    "++data.synthetic={train_snippets: 2, val_snippets: 1, frames: 12, stills: 2, "
    "scene: {size: [64, 80]}}",
    "logger=none",
    "callbacks.progress=null",
    "callbacks.speed.seconds=0.1",
    "trainer.accelerator=cpu",
    "trainer.max_steps=2",
    "trainer.val_check_interval=2",
    "warmup.trainer.max_steps=2",
    "warmup.trainer.val_check_interval=2",
    "evaluation.intervals=[1]",
    "evaluation.pairs_every=6",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("train")


def run(monkeypatch, root, *words):
    arguments = [*TINY, f"data.synthetic_root={root / 'data'}", f"run_root={root / 'runs'}", *words]
    monkeypatch.setattr(sys, "argv", ["flowfeat-train", *arguments])
    before = set(root.glob("runs/*/*/*"))
    train.main()
    (folder,) = set(root.glob("runs/*/*/*")) - before
    return folder


def test_a_run_leaves_its_report_and_can_go_on(monkeypatch, root, capsys):
    folder = run(monkeypatch, root, "method=dff")
    results = json.loads((folder / "results.json").read_text())
    expected = {"mAP_l1", "AP50_l1", "mAP_l10", "AP50_l10", "mAP_copy_l10", "mAP_pairs_l10"}
    expected |= {"speedup_l10", "speedup_eq7_time_l10", "speedup_eq7_flops_l10", "fps_l10"}
    expected |= {"train_seconds", "peak_memory_gb"}
    assert expected <= set(results)
    assert all(0 <= results[key] <= 1 for key in results if key.startswith(("mAP", "AP50")))
    assert not any(key.startswith("speedup_copy") for key in results)
    assert yaml.safe_load((folder / "config.yaml").read_text())["method"] == "dff"
    assert (folder / "metrics.csv").read_text().count("\n") >= 2
    assert list((folder / "pictures").glob("*.png"))
    assert "(copy)" in capsys.readouterr().out

    task = restore_task(read_checkpoint(folder / "last.ckpt"))
    assert task.temporal.key_frames.interval == 10
    assert (folder / "best.ckpt").is_file()

    on = run(monkeypatch, root, f"resume={folder / 'last.ckpt'}", "trainer.max_steps=3")
    assert torch.load(on / "last.ckpt", weights_only=True)["global_step"] == 3


def test_a_method_without_key_frames_has_no_suffix(monkeypatch, root):
    words = [word for word in TINY if not word.startswith(("flow", "warmup"))]
    monkeypatch.setattr(sys.modules[__name__], "TINY", tuple(words))
    folder = run(monkeypatch, root, "method=per_frame")
    results = json.loads((folder / "results.json").read_text())
    assert {"mAP", "AP50", "fps"} <= set(results)
    assert not any("_l1" in key for key in results)


def test_a_checkpoint_of_another_kind_is_refused(monkeypatch, root, capsys):
    torch.save({"state_dict": {}}, root / "other.ckpt")
    with pytest.raises(SystemExit) as left:
        run(monkeypatch, root, f"resume={root / 'other.ckpt'}")
    assert left.value.code == 2
    assert "not a checkpoint of flowfeat" in capsys.readouterr().err


@pytest.mark.parametrize(
    "swap",
    [
        ["features.model=mobilenetv3_small_050", "features.stride=16", "features.levels=[-1]"],
        ["flow=flownet_quarter", "flow.width=0.0625", "flow.groups=null"],
        ["flow=flownet_inception"],
        ["flow=zero", "warmup=none"],
        ["key_frames.interval=3", "clip.max_offset=2"],
        ["head.ohem=true", "head.k=7"],
        ["head.anchor_border=0.0", "head.foreground_prior=null"],
        ["features.norm=frozen", "features.frozen_stages=1"],
        ["data.det_list=DET_train_30classes.txt"],
        ["optim.factors.features=0"],
    ],
    ids=lambda words: words[0],
)
def test_every_swap_trains_one_step(root, swap):
    """One step on real batches lowers nothing yet, but changes what it should and stays finite."""
    swapped = {word.partition("=")[0] for word in swap}  # groups whose own settings go with them
    kept = [word for word in TINY if word.partition(".")[0] not in swapped]
    config = cli.compose_config([*kept, f"data.synthetic_root={root / 'data'}", *swap])
    data = build_data(config)
    data.prepare_data()
    data.setup("fit")
    torch.manual_seed(0)
    task = build_task(config, data.classes).train()
    task.log = lambda *_, **__: None
    batch = move_data_to_device(next(iter(data.train_dataloader())), torch.device("cpu"))
    optimizer, _ = task.optimization.configure(task.parts(), total=10)
    before = {name: value.clone() for name, value in task.named_parameters()}
    loss = task.training_step(batch, 0)
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)
    changed = {n.split(".")[0] for n, v in task.named_parameters() if not torch.equal(v, before[n])}
    assert "head" in changed
    moved = any(
        not torch.equal(value, before[name])
        for name, value in task.named_parameters()
        if name.startswith("temporal.features")
    )
    assert moved == ("optim.factors.features=0" not in swap)


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ("evaluation.intervals=[2,x]", "evaluation.intervals: expected a list of integers >= 1"),
        ("evaluation.intervals=[0]", "evaluation.intervals: expected a list of integers >= 1"),
        ("evaluation.intervals=5", "evaluation.intervals: expected a list of integers >= 1"),
        ("evaluation.pairs_every=-1", "evaluation.pairs_every: expected an integer >= 0, found -1"),
        ("evaluation.copy=maybe", "evaluation.copy: expected true or false, found 'maybe'"),
    ],
)
def test_a_wrong_evaluation_is_refused_before_the_training(monkeypatch, tmp_path, choice, said):
    monkeypatch.setattr(train, "build_data", None)  # which would come next
    with pytest.raises(ValueError, match="evaluation") as error:
        train.train(cli.compose_config([*TINY, choice]), tmp_path)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ("trainer.devices=x", "trainer.accelerator=cpu, trainer.devices=x, trainer.strategy=auto"),
        ("trainer.strategy=dpx", "trainer.strategy=dpx: You selected an invalid strategy name"),
    ],
)
def test_devices_that_are_none_end_in_one_line(tmp_path, choice, said):
    config = cli.compose_config([*TINY, choice])
    with pytest.raises(ValueError, match="trainer") as error:
        train.build_trainer(config, tmp_path, [], loggers=[])
    assert said in str(error.value)
