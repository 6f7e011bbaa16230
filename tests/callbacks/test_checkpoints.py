"""Checkpoints survive what interrupts a training, and resume it."""

import errno
import logging
import math
import shlex
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks.checkpoints import ASK_EVERY, Checkpoints, resume_command
from flowfeat.cli import CONFIGS, one_line

STEPS = 12


class Tiny(pl.LightningModule):
    """A weight that follows constant data: its path depends on the number of steps alone."""

    monitor, monitor_mode = "score", "max"

    def __init__(self, scores: Sequence[float] = (), fails: BaseException | None = None) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        nn.init.constant_(self.layer.weight, 0.5)
        nn.init.zeros_(self.layer.bias)
        self.scores = list(scores)
        self.fails = fails  # in the eighth step

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        if self.fails is not None and self.global_step == 7:
            raise self.fails
        return (self.layer(batch) - 3).square().mean()

    def validation_step(self, batch: Tensor, index: int) -> None:
        self.log("score", self.scores.pop(0) if self.scores else 0.0)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.02, momentum=0.9)


def fit(
    folder: Path,
    module: pl.LightningModule,
    checkpoints: Checkpoints | None = None,
    validate_every: int = 4,
    resume: Path | None = None,
    steps: int = STEPS,
) -> pl.Trainer:
    trainer = pl.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        val_check_interval=validate_every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[checkpoints or Checkpoints()],
    )
    train, validation = DataLoader(torch.ones(100, 1)), DataLoader(torch.ones(1, 1))
    trainer.fit(module, train, validation, ckpt_path=resume, weights_only=True)
    return trainer


def load(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Lightning ignores SIGINT after Ctrl-C; give it back to the tests."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("mode", "best"), [("max", 8), ("min", 4)])
def test_best_and_last_are_the_right_states(tmp_path: Path, mode: str, best: int) -> None:
    module = Tiny(scores=[0.9, 0.3, 0.5, math.nan])  # the first one is of the sanity check
    module.monitor_mode = mode
    trainer = fit(tmp_path, module, steps=14)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.ckpt", "last.ckpt"]
    assert load(tmp_path / "best.ckpt")["global_step"] == best
    last = load(tmp_path / "last.ckpt")
    assert last["global_step"] == 14  # two steps after the last validation
    assert torch.equal(last["state_dict"]["layer.weight"], module.layer.weight)
    assert trainer.checkpoint_callback is not None


def test_writing_last_leaves_best_alone(tmp_path: Path) -> None:
    fit(tmp_path, Tiny(scores=[0, 0.9, 0.1, 0.2]))
    assert load(tmp_path / "best.ckpt")["global_step"] == 4
    assert load(tmp_path / "last.ckpt")["global_step"] == 12


def test_a_module_without_monitor_has_only_last(tmp_path: Path) -> None:
    module = Tiny()
    module.monitor = None  # type: ignore[assignment]
    fit(tmp_path, module)
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_metric_that_is_not_logged_is_named(tmp_path: Path) -> None:
    module = Tiny()
    module.monitor = "mAP"
    with pytest.raises(ValueError, match=r"best.ckpt is chosen by mAP, .* logged is score"):
        fit(tmp_path, module)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_saves_the_state_and_says_how_to_resume(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = tmp_path / "whole"
    uninterrupted = Tiny()
    fit(whole, uninterrupted)
    module = Tiny(scores=[0, 0.6], fails=KeyboardInterrupt())
    with caplog.at_level(logging.WARNING), pytest.raises(SystemExit) as ended:
        fit(tmp_path, module)
    assert ended.value.code not in (0, None)
    last = tmp_path / "last.ckpt"
    assert load(last)["global_step"] == 7
    (line,) = [r.getMessage() for r in caplog.records if r.name == "callbacks.checkpoints"]
    assert str(last) in line
    assert f'make train ARGS="resume={last}"' in line
    assert "\n" not in line

    resumed, checkpoints = Tiny(), Checkpoints()
    resumed.scores = [0.0, 0.5, 0.55]
    fit(tmp_path / "resumed", resumed, checkpoints, resume=last)
    assert checkpoints.best_score == pytest.approx(0.6)  # of before the interruption
    assert torch.equal(resumed.layer.weight, uninterrupted.layer.weight)  # momentum too


def test_an_error_saves_the_newest_state_and_goes_on(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="out of memory"):
        fit(tmp_path, Tiny(fails=RuntimeError("out of memory")))
    assert load(tmp_path / "last.ckpt")["global_step"] == 7


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_before_the_first_step_saves_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Early(Tiny):
        def on_train_start(self) -> None:
            raise KeyboardInterrupt

    with pytest.raises(SystemExit):
        fit(tmp_path, Early())
    assert not list(tmp_path.iterdir())
    assert "interrupted before the first checkpoint" in caplog.text


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_failing_disk_gives_one_line_and_keeps_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    save = pl.Trainer.save_checkpoint
    calls: list[int] = []

    def full(self: pl.Trainer, path: Path, weights_only: bool) -> None:
        calls.append(self.global_step)
        if self.global_step > 4:
            path.write_bytes(b"half of a checkpoint")
            raise OSError(code, "No room", str(path))
        save(self, path, weights_only)

    monkeypatch.setattr(pl.Trainer, "save_checkpoint", full)
    with pytest.raises(OSError, match=r"last\.ckpt") as failed:
        fit(tmp_path, Tiny())
    assert calls == [4, 4, 8]  # before and after a validation, and not once more while leaving
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.ckpt", "last.ckpt"]
    assert load(tmp_path / "last.ckpt")["global_step"] == 4
    line = one_line(failed.value)
    assert line.startswith(str(tmp_path / "last.ckpt"))
    assert "\n" not in line


def test_a_save_that_lightning_dropped_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning swallows the PermissionError of a read-only folder."""
    monkeypatch.setattr(pl.Trainer, "save_checkpoint", lambda self, path, weights_only: None)
    with pytest.raises(PermissionError, match=r"last\.ckpt"):
        fit(tmp_path, Tiny())


def test_the_resume_command_repeats_the_runs_own_overrides() -> None:
    overrides = [
        "task=vid",
        "method=dff",
        "key_frames.interval=5",
        "data.root='/a folder/ILSVRC2015'",
        "evaluation.intervals=[1, 2]",
        "resume=runs/before/last.ckpt",
    ]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        HydraConfig.instance().set_config(
            compose("config", overrides=overrides, return_hydra_config=True)
        )
    try:
        command = shlex.split(resume_command(Path("runs/vid/dff/x/last.ckpt")))
    finally:
        HydraConfig.instance().cfg = None
    assert command[:4] == ["make", "train", "TASK=vid", "METHOD=dff"]
    assert shlex.split(command[4].removeprefix("ARGS=")) == [
        *overrides[2:-1],
        "resume=runs/vid/dff/x/last.ckpt",
    ]


def test_several_ranks_leave_together_and_seldom_wait_to_ask() -> None:
    asked = list[bool]()

    def any_rank(mine: bool, all: bool) -> bool:  # as the strategy calls it
        asked.append(mine)
        return True  # another rank was told

    strategy = SimpleNamespace(reduce_boolean_decision=any_rank)
    trainer: Any = SimpleNamespace(world_size=2, strategy=strategy, global_step=0)
    checkpoints, module = Checkpoints(), pl.LightningModule()
    for batch in range(1, ASK_EVERY):
        checkpoints.on_train_batch_end(trainer, module, None, None, batch)
    assert asked == []
    with pytest.raises(SystemExit) as left:
        checkpoints.on_train_batch_end(trainer, module, None, None, ASK_EVERY)
    assert (left.value.code, asked) == (128 + signal.SIGTERM, [False])
