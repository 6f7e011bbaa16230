"""Two stages as one command: what the first is composed of, when it runs, and what it leaves."""

import json
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from torch.utils.data import DataLoader

from flowfeat import cli, train
from flowfeat.checkpoint import read_checkpoint
from flowfeat.first_stage import (
    compose_first_stage,
    find_finished,
    first_stage_figures,
    first_stage_folder,
    with_first_stage,
)
from flowfeat.scores import read_scores

TWO = ["task=ucf101", "method=hold", "first_stage=per_frame"]
"""A method that keeps N_feat and its classifier as they are, and is told where they come from."""
OFF = [*TWO, "temporal._target_=flowfeat.temporal.flow_guided.FlowGuided"]


def composed(*words):
    words = [*TWO, *words]
    return compose_first_stage(cli.compose_config(words), words)


def test_the_first_stage_is_the_other_method_with_the_same_overrides():
    words = ["seed=5", "data.crop=64", "trainer.max_steps=7"]
    first = composed(*words)
    plain = cli.compose_config(["task=ucf101", "method=per_frame", *words])
    assert first == plain
    assert not first.first_stage


def test_the_optimisation_is_the_second_stages_where_the_first_trains_its_parts(caplog):
    """Section 5.1: 0.02 for the second stage, TSN's own 0.001 for the first."""
    caplog.set_level("INFO")
    words = ["optim.optimizer.lr=0.5", "optim=sgd_small", "seed=3"]
    plain = cli.compose_config(["task=ucf101", "method=per_frame", "seed=3"])
    assert composed(*words) == plain
    assert (
        "first stage: without optim.optimizer.lr=0.5 optim=sgd_small, which is for" in caplog.text
    )
    for experiment, lr in (("ucf101_off_paper", 0.001), ("ucf101_off_flow_paper", 0.005)):
        words = [f"experiment={experiment}", "optim.optimizer.lr=0.5"]
        whole = cli.compose_config(words)
        assert whole.optim.optimizer.lr == 0.5
        assert compose_first_stage(whole, words).optim.optimizer.lr == lr


def test_a_sibling_to_compare_with_is_trained_as_this_run():
    words = ["task=vimeo90k", "method=off", "optim.optimizer.lr=0.5"]
    assert compose_first_stage(cli.compose_config(words), words).optim.optimizer.lr == 0.5


@pytest.mark.parametrize(
    "word",
    [
        "temporal=feature_flow",
        "key_frames.interval=3",
        "optim.factors.features=0.1",
        "+optim.factors.schedule=2",
        "start_from.head=null",
        "+temporal.threshold=1",
    ],
)
def test_what_belongs_to_the_method_is_left_out(word):
    assert composed(word) == cli.compose_config(["task=ucf101", "method=per_frame"])


def test_the_first_stage_may_have_overrides_of_its_own():
    first = composed(
        "trainer.max_steps=7",
        "first_stage.overrides=['trainer.max_steps=3','optim.optimizer.lr=1']",
    )
    assert (first.trainer.max_steps, first.optim.optimizer.lr) == (3, 1)


def test_a_word_that_only_the_second_method_knows_is_left_out(caplog):
    caplog.set_level("INFO")
    words = [*TWO, "seed=3"]
    first = compose_first_stage(cli.compose_config(words), [*words, "clip.unknown=2"])
    assert first == cli.compose_config(["task=ucf101", "method=per_frame", "seed=3"])
    assert "first stage: without clip.unknown=2" in caplog.text


def test_nothing_to_train_is_refused():
    with pytest.raises(cli.UsageError, match=r"first_stage: optim\.factors\.features=0"):
        composed("first_stage.overrides=['+optim.factors.features=0']")


def test_its_folder_is_a_sibling(tmp_path):
    config = cli.compose_config([*TWO, f"run_root={tmp_path}"])
    own = tmp_path / "ucf101" / "hold"
    expected = tmp_path / "ucf101" / "per_frame"
    assert first_stage_folder(config, own / "2030-01-01_10-00-00") == expected / (
        "2030-01-01_10-00-00"
    )
    assert first_stage_folder(config, own / "2030" / "2") == expected / "2030_2"
    assert first_stage_folder(config, Path("/elsewhere/mine")) == expected / "mine"


def finished(config, name, *, report=True):
    folder = Path(config.run_root) / config.task / config.method / name
    folder.mkdir(parents=True)
    OmegaConf.save(config, folder / "config.yaml")
    (folder / "last.ckpt").touch()
    if report:
        (folder / "results.json").write_text(
            json.dumps({"accuracy": 0.5, "train_seconds": 9, "fps": 1})
        )
    return folder


def test_only_a_finished_run_with_the_same_config_is_used_again(tmp_path):
    def per_frame(*words):
        words = ["task=ucf101", "method=per_frame", f"run_root={tmp_path}", *words]
        return cli.compose_config(words)

    wanted = per_frame("seed=1")
    assert find_finished(wanted) is None
    finished(per_frame("seed=2"), "other")
    finished(wanted, "broken", report=False)
    (tmp_path / "ucf101/per_frame/foreign").mkdir()
    for name, text in (("results.json", "{}"), ("last.ckpt", ""), ("config.yaml", "a: [")):
        (tmp_path / "ucf101/per_frame/foreign" / name).write_text(text)
    assert find_finished(wanted) is None
    # Loggers and progress bars change nothing.
    quiet = per_frame("seed=1", "logger=none", "callbacks.progress=null")
    folder = finished(quiet, "2030_swept/0")
    assert find_finished(wanted) == folder / "last.ckpt"
    assert find_finished(per_frame("seed=1", "callbacks.speed.frames=3")) is None


class Fake:
    """Stands for `train`: notes what it was given and leaves a checkpoint."""

    def __init__(self):
        self.runs = []

    def __call__(self, config, folder):
        self.runs.append((config, folder))
        folder.mkdir(parents=True)
        (folder / "last.ckpt").touch()
        return {}


def test_parts_that_are_given_need_no_first_stage(tmp_path):
    fake = Fake()
    for words in (["first_stage=none"], ["start_from.features=/some.ckpt"]):
        config = cli.compose_config([*TWO, *words])
        assert with_first_stage(config, tmp_path, fake) is config
    assert not fake.runs


def test_a_sibling_gives_its_report_and_no_parts(tmp_path, monkeypatch, caplog):
    root = f"run_root={tmp_path}"
    config = cli.compose_config(["task=vimeo90k", "method=off", root])
    assert list(config.first_stage.parts) == []
    sibling = cli.compose_config(["task=vimeo90k", "method=per_frame", root])
    folder = finished(sibling, "before")
    (folder / "results.json").write_text(json.dumps({"PSNR": 33.25, "train_seconds": 9}))
    fake = Fake()
    monkeypatch.setattr("flowfeat.first_stage.overridden", lambda: [root])
    whole = with_first_stage(config, tmp_path / "vimeo90k/off/now", fake)
    assert fake.runs == []  # a finished one is used again
    assert all(path is None for path in whole.start_from.values())
    expected = {"first_stage_PSNR": 33.25, "first_stage_train_seconds": 9.0}
    assert first_stage_figures(whole, "PSNR") == expected

    (folder / "results.json").write_text("{")
    assert first_stage_figures(whole, "PSNR") == {}  # and this run's own report is not lost
    assert "results.json: expected a report, found no JSON" in caplog.text


def test_without_a_command_line_it_says_what_to_give(tmp_path):
    config = cli.compose_config([*TWO, f"run_root={tmp_path}"])
    with pytest.raises(cli.UsageError, match=r"expected start_from\.<part>=<checkpoint>"):
        with_first_stage(config, tmp_path, Fake())


CLASSES = ("left", "right", "rest")


class Actions(pl.LightningDataModule):
    """Clips of 4 small noisy frames whose colour tells the class, as a data module gives them."""

    classes = CLASSES

    def __init__(self, seed):
        super().__init__()
        self.seed = seed

    def measured(self):
        return {"step_seconds": 0.28}

    def batches(self, count, first):
        out = []
        for number in range(first, first + count):
            draw = torch.Generator().manual_seed(100 * self.seed + number)
            actions = torch.arange(3)
            frames = 0.5 * torch.rand(3, 4, 3, 32, 32, generator=draw)
            frames[actions, :, actions] += 0.5
            steps = torch.arange(4).expand(3, 4)
            out.append(
                {
                    "frames": frames,
                    "sizes": torch.tensor([[32, 32]] * 3),
                    "scales": torch.ones(3, 2),
                    "indices": steps,
                    "targets": steps,
                    "starts": torch.ones(3, dtype=torch.bool),
                    "seeds": torch.arange(3) + number,
                    "snippets": [f"{number}_{n}" for n in range(3)],
                    "actions": actions,
                    "repeats": torch.zeros(3, 4, dtype=torch.bool),
                }
            )
        return DataLoader(out, batch_size=None)

    def train_dataloader(self):
        return self.batches(4, 0)

    def val_dataloader(self):
        return self.batches(2, 10)

    test_dataloader = val_dataloader


TINY = [
    "features.model=test_resnet",
    "features.norm=train",
    "logger=none",
    "callbacks=quiet",
    "callbacks.speed.seconds=0.05",
    "trainer.accelerator=cpu",
    "trainer.max_steps=4",
    "trainer.val_check_interval=4",
]


@pytest.fixture
def command(monkeypatch, tmp_path):
    monkeypatch.setattr(train, "build_data", lambda config: Actions(config.seed))

    def run(*words):
        root = f"run_root={tmp_path / 'runs'}"
        monkeypatch.setattr(sys, "argv", ["flowfeat-train", *TINY, root, *words])
        before = set(tmp_path.glob("runs/*/*/*"))
        train.main()
        new = set(tmp_path.glob("runs/*/*/*")) - before
        return {folder.parent.name: folder for folder in new}

    return run


def weights(folder, prefix):
    stored = read_checkpoint(folder / "last.ckpt").weights
    return {name: value for name, value in stored.items() if name.startswith(prefix)}


def test_one_command_trains_both_stages_and_the_next_one_uses_the_first_again(
    command, capsys, monkeypatch
):
    runs = command(*OFF)
    assert set(runs) == {"per_frame", "hold"}
    assert runs["per_frame"].name == runs["hold"].name
    one, two = (json.loads((runs[m] / "results.json").read_text()) for m in ("per_frame", "hold"))
    assert {"accuracy", "top5", "mean_class_accuracy", "fps", "train_seconds"} <= set(one)
    assert not {"accuracy_off", "first_stage_accuracy"} & set(one)
    assert {"accuracy", "top5", "accuracy_off", "fps"} <= set(two)
    assert two["accuracy_features"] == one["accuracy"] == two["first_stage_accuracy"]
    assert two["first_stage_train_seconds"] == one["train_seconds"]
    for folder in runs.values():  # what predicting needs of the training set
        assert read_checkpoint(folder / "last.ckpt").measured == {"step_seconds": 0.28}

    # The feature network is as the first stage left it, statistics included, and so its classifier.
    features = weights(runs["per_frame"], "temporal.features.")
    assert any(name.endswith("running_mean") for name in features)
    kept = weights(runs["hold"], "temporal.features.")
    assert features.keys() == kept.keys()
    assert all(torch.equal(kept[name], value) for name, value in features.items())
    head = weights(runs["per_frame"], "head.")
    assert set(head) == {"head.classifier.weight", "head.classifier.bias"}
    added = weights(runs["hold"], "head.")
    assert all(torch.equal(added[name], value) for name, value in head.items())
    assert set(added) - set(head) == {
        f"head.motion.{level}.{name}" for level in range(3) for name in ("weight", "bias")
    }
    first, second = (read_scores(runs[m] / "scores.npz") for m in ("per_frame", "hold"))
    assert torch.equal(first.scores[:, 0], second.scores[:, 0])

    capsys.readouterr()
    trained = []  # with what; a third training would show no more
    monkeypatch.setattr(train, "train", lambda config, folder: trained.append(config))
    command(*OFF, "head.loss_weights=null", "+temporal.per_tap=false")
    said = capsys.readouterr()
    assert [config.method for config in trained] == ["hold"]
    assert f"first stage: {runs['per_frame'] / 'last.ckpt'} was trained" in said.out + said.err
    assert trained[0].start_from.features == str(runs["per_frame"] / "last.ckpt")


@pytest.mark.slow
def test_an_interrupted_first_stage_goes_on_where_it_was(command):
    """The checkpoint's farewell names this very command, with the first stage's last.ckpt."""
    same = ("seed=3", "optim.schedule.drops=[]")
    half = command("task=ucf101", "method=per_frame", *same)["per_frame"]
    longer = (*same, "trainer.max_steps=8")
    first = "first_stage.overrides=['optim.schedule.drops=[]']"
    runs = command(*OFF, *longer, first, f"resume={half / 'last.ckpt'}")
    assert set(runs) == {"per_frame", "hold"}
    steps = {
        name: torch.load(folder / "last.ckpt", weights_only=True)["global_step"]
        for name, folder in runs.items()
    }
    assert steps == {"per_frame": 8, "hold": 8}
    whole = command("task=ucf101", "method=per_frame", *longer)["per_frame"]
    ours, theirs = weights(runs["per_frame"], ""), weights(whole, "")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.slow
def test_the_second_stage_resumes_without_the_first(command):
    runs = command(*OFF)
    on = command(*OFF, f"resume={runs['hold'] / 'last.ckpt'}", "trainer.max_steps=5")
    assert set(on) == {"hold"}
    assert torch.load(on["hold"] / "last.ckpt", weights_only=True)["global_step"] == 5


@pytest.mark.slow
def test_a_job_of_a_sweep_has_its_own_first_stage(command):
    runs = command(*OFF, "seed=2", "trainer.max_steps=1", "--multirun")
    assert runs["per_frame"].name == f"{runs['hold'].name}_0"
    assert (runs["hold"] / "0" / "results.json").is_file()
    assert OmegaConf.load(runs["per_frame"] / "config.yaml").seed == 2
