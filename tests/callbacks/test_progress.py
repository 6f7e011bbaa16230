"""Progress of real fits and tests of a tiny module: stages, steps of the whole training, losses."""

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks.progress import Progress
from flowfeat.progress import Figures, Stage


class Tiny(pl.LightningModule):
    def __init__(self, fails: bool = False) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.fails = fails

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        if self.fails:
            raise ZeroDivisionError
        return self.layer(batch).square().mean() * 0 + 0.5

    def validation_step(self, batch: Tensor, index: int) -> None: ...

    def test_step(self, batch: Tensor, index: int) -> None: ...

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class Noted:
    """A display that notes what it is told."""

    def __init__(self) -> None:
        self.open: list[Stage] = []
        self.stages: list[tuple[str, str, int | None, int]] = []
        self.seen: list[tuple[str, int]] = []
        self.losses: list[float] = []

    def begin(self, stage: Stage) -> None:
        self.open.append(stage)
        self.stages.append((stage.name, stage.unit, stage.total, stage.done))

    def at(self, done: int, figures: Figures | None = None) -> None:
        self.seen.append((self.open[-1].name, done))
        self.losses += [float(value) for value in (figures or {}).values()]

    def end(self) -> None:
        self.open.pop()

    def close(self) -> None:
        self.open.clear()


BATCHES = DataLoader(torch.ones(4, 1), batch_size=1)


@pytest.fixture
def run(tmp_path: Any) -> Any:
    def build(**settings: Any) -> tuple[pl.Trainer, Noted]:
        progress = Progress()
        noted = progress._display = Noted()
        trainer = pl.Trainer(
            default_root_dir=tmp_path,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            callbacks=[progress],
            **settings,
        )
        return trainer, noted

    return build


def test_steps_are_those_of_the_whole_training(run: Any) -> None:
    """Ten steps in epochs of four, with a validation of two batches behind every second epoch."""
    trainer, noted = run(max_epochs=-1, max_steps=10, limit_val_batches=2, num_sanity_val_steps=1)
    trainer.fit(Tiny(), BATCHES, BATCHES)
    assert noted.stages[:2] == [
        ("validation", "batches", 1, 0),  # the sanity check, before any step
        ("training", "steps", 10, 0),
    ]
    assert noted.stages[2:] == [("validation", "batches", 2, 0)] * 2
    assert [step for name, step in noted.seen if name == "training"] == list(range(1, 11))
    assert noted.losses == [0.5] * 10
    assert noted.open == []


def test_epochs_and_accumulation_count_as_steps(run: Any) -> None:
    trainer, noted = run(max_epochs=3, accumulate_grad_batches=2, limit_val_batches=0)
    trainer.fit(Tiny(), BATCHES, BATCHES)
    assert noted.stages == [("training", "steps", 6, 0)]
    assert noted.seen[-1] == ("training", 6)


def test_a_training_without_an_end_has_no_total(run: Any) -> None:
    class Ending(Tiny):
        def on_train_batch_end(self, *_: Any) -> None:
            self.trainer.should_stop = self.trainer.global_step == 2

    trainer, noted = run(max_epochs=-1, limit_val_batches=0)
    trainer.fit(Ending(), BATCHES, BATCHES)
    assert noted.stages == [("training", "steps", None, 0)]
    assert noted.seen[-1] == ("training", 2)


def test_an_evaluation_counts_its_batches(run: Any) -> None:
    trainer, noted = run(limit_test_batches=3)
    trainer.test(Tiny(), BATCHES, verbose=False)
    assert noted.stages == [("evaluation", "batches", 3, 0)]
    assert noted.seen == [("evaluation", n) for n in (1, 2, 3)]
    assert noted.open == []


def test_an_error_ends_the_display(run: Any) -> None:
    trainer, noted = run(max_steps=3, limit_val_batches=0)
    with pytest.raises(ZeroDivisionError):
        trainer.fit(Tiny(fails=True), BATCHES, BATCHES)
    assert noted.stages == [("training", "steps", 3, 0)]
    assert noted.open == []


def test_other_processes_show_nothing(run: Any) -> None:
    trainer, noted = run(max_steps=2, limit_val_batches=0)
    trainer.callbacks[0].disable()
    trainer.fit(Tiny(), BATCHES, BATCHES)
    assert noted.stages == []


def test_no_time_between_lines_is_refused() -> None:
    with pytest.raises(ValueError, match=r"callbacks\.progress\.every=0"):
        Progress(0)
