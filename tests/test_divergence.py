"""A training that diverges stops at once, says where, and keeps its last good checkpoint."""

import multiprocessing
import os
import socket
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from callbacks.checkpoints import Checkpoints
from flowfeat import cli, train
from flowfeat.checkpoint import KEY, read_checkpoint
from flowfeat.divergence import LOOK_EVERY, DivergedError, FiniteTraining
from flowfeat.finite import first_not_finite

BAD = float("nan")


class Line(pl.LightningModule):
    """A weight of 1 whose loss is ``bad`` in one step; its gradient stays finite."""

    def __init__(self, at: int, bad: float = BAD, lr: float = 0.1, rank: int | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.at, self.bad, self.lr, self.rank = at, bad, lr, rank

    def training_step(self, batch, index):
        mine = self.rank is None or self.global_rank == self.rank
        bad = self.bad if mine and self.global_step + 1 == self.at else 0.0
        return (self.weight * batch).mean() + bad

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.lr)


def fit(module, folder, steps=30, every=100, looks=None, **changes):
    trainer = pl.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[looks or FiniteTraining(), Checkpoints(every_n_steps=every)],
        **changes,
    )
    trainer.fit(module, DataLoader(torch.ones(100, 1)))
    return trainer


@pytest.mark.parametrize("bad", [BAD, float("inf"), -float("inf")])
def test_the_first_loss_that_is_not_finite_ends_the_training(tmp_path, bad):
    with pytest.raises(DivergedError) as caught:
        fit(Line(at=7, bad=bad), tmp_path, every=5)
    line = str(caught.value)
    kept = tmp_path / "last.ckpt"
    assert line.startswith(f"the training diverged at step 7: the loss is {bad:g}; {kept} is from")
    assert torch.load(kept, weights_only=True)["global_step"] == 5
    assert not list(tmp_path.glob("*.tmp"))


def test_a_first_step_that_diverges_leaves_no_checkpoint(tmp_path):
    with pytest.raises(DivergedError, match="step 1: the loss is nan; there is no checkpoint"):
        fit(Line(at=1), tmp_path)
    assert not list(tmp_path.glob("*.ckpt"))


def test_weights_are_looked_at_before_they_replace_good_ones(tmp_path):
    """The loss is finite in the step that breaks the weight: lr * gradient overflows."""
    with pytest.raises(DivergedError, match="step 1: weight is no longer finite"):
        fit(Line(at=0, lr=float("inf")), tmp_path, steps=1)
    assert not list(tmp_path.glob("*.ckpt"))


class OnDevice(FiniteTraining):
    """Looks as rarely as where a look waits for a device, and counts the looks."""

    def __init__(self):
        super().__init__()
        self.looked = []

    def _look(self, trainer, losses, weights=None):
        self.looked.append((trainer.global_step, len(losses), weights is not None))
        super()._look(trainer, losses, weights)


@pytest.fixture
def as_on_a_device(monkeypatch):
    monkeypatch.setattr(Line, "device", torch.device("meta"))


def test_a_device_is_waited_for_seldom_and_before_every_checkpoint(tmp_path, as_on_a_device):
    looks = OnDevice()
    fit(Line(at=0), tmp_path, steps=26, every=13, looks=looks)
    newest = LOOK_EVERY - 1
    assert looks.looked == [
        (10, newest, False),
        (13, 4, True),
        (20, 6, False),
        (26, 7, True),
        (26, 0, True),
    ]


def test_no_checkpoint_slips_between_two_looks(tmp_path, as_on_a_device):
    with pytest.raises(DivergedError, match=r"step 12: the loss is nan; .*last\.ckpt is from"):
        fit(Line(at=12), tmp_path, every=4, looks=OnDevice())
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 8


def work(rank: int, port: int, out: Path) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
    os.environ |= {"LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    sys.stdout = sys.stderr = (out / f"{rank}.txt").open("w", buffering=1)
    torch.set_num_threads(1)
    try:
        fit(Line(at=12, rank=1), out, every=4, strategy="ddp", devices=2)
    except DivergedError as error:
        (out / f"{rank}.line").write_text(str(error))


def test_all_ranks_end_where_one_of_them_diverges(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=work, args=(rank, port, tmp_path)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(120)
        rank.kill()
    lines = [(tmp_path / f"{rank}.line").read_text() for rank in range(2)]
    assert lines[0] == lines[1]
    assert lines[0].startswith("the training diverged at step 12: the loss is nan; ")
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 8


TINY = (
    *("logger=none", "callbacks=quiet", "trainer=cpu", "features=resnet18", "features.reduce_to=8"),
    *("method=per_frame", "features.norm=group", "trainer.max_steps=4"),
    *("data.short_side=48", "data.long_side=64", "data.batch_size=1", "data.num_workers=0"),
    *("++data.synthetic.train_snippets=1", "++data.synthetic.val_snippets=1"),
    *("++data.synthetic.frames=10", "++data.synthetic.stills=1", "trainer.val_check_interval=100"),
)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("optim.optimizer.lr=1e30",), "the loss is "),
        (
            ("method=dff", "warmup.module.optimization.optimizer.lr=1e30"),
            "the training diverged at step ",
        ),
    ],
)
def test_a_learning_rate_without_measure_ends_in_one_line_and_status_1(
    tmp_path, monkeypatch, capsys, words, said
):
    arguments = [*TINY, f"run_root={tmp_path}/runs", f"data.synthetic_root={tmp_path}/data"]
    monkeypatch.setattr(sys, "argv", ["flowfeat-train", *arguments, *words])
    with pytest.raises(SystemExit) as left:
        train.main()
    assert left.value.code == 1
    errors = [x for x in capsys.readouterr().err.splitlines() if x.startswith("flowfeat: error: ")]
    assert len(errors) == 1
    assert said in errors[0]
    assert not list(tmp_path.rglob("results.json"))


def test_the_first_weight_that_is_not_finite_is_named():
    fine, counts = torch.ones(2, dtype=torch.bfloat16), torch.tensor([1 << 40])
    assert first_not_finite({}) is None
    assert first_not_finite({"a": fine, "n": counts, "s": torch.ones(())}) is None
    bad = {"a": fine, "b": torch.tensor([1.0, -float("inf")]), "c": torch.tensor(BAD)}
    assert first_not_finite(bad) == "b"


def test_weights_that_are_not_finite_are_refused_with_the_first_name(tmp_path):
    config = cli.compose_config(["logger=none"])
    weights = {"temporal.a": torch.ones(1), "temporal.b": torch.tensor([1.0, BAD])}
    record = {"config": cli.OmegaConf.to_yaml(config), "classes": ["cat"]}
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": weights, KEY: record}, path)
    with pytest.raises(ValueError, match=r"last\.ckpt: temporal\.b is not finite"):
        read_checkpoint(path)
