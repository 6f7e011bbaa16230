"""The bare loop learns what the training loop learns, and waiting for slow data is seen."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.utils.data import DataLoader

from flowfeat.benchmarking.training import bare_steps, training_figures

CONFIG = OmegaConf.create(
    {
        "trust": [],
        "trainer": {
            "_target_": "pytorch_lightning.Trainer",
            "_partial_": True,
            "accelerator": "cpu",
            "devices": 1,
            "precision": "32-true",
            "gradient_clip_val": 0.5,
            "enable_model_summary": False,
        },
    }
)


NOW = [0.0]
"""Seconds that have passed: a busy machine must not change what is expected."""


class Plain:
    """Stands for ``optimization.Optimization``."""

    def configure(self, parts: dict[str, nn.Module], total: int) -> tuple[Any, Any]:
        optimizer = torch.optim.SGD(parts["line"].parameters(), lr=0.1)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)


class Line(pl.LightningModule):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.line, self.seconds = nn.Linear(2, 1), seconds
        self.optimization = Plain()

    def parts(self) -> dict[str, nn.Module]:
        return {"line": self.line}

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        NOW[0] += self.seconds
        return (self.line(batch) - 3).square().mean()

    def configure_optimizers(self) -> Any:
        optimizer, scheduler = self.optimization.configure(self.parts(), 0)
        return [optimizer], [scheduler]


class Data(pl.LightningDataModule):
    batch_size = 2

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def train_dataloader(self) -> Any:
        return DataLoader(torch.arange(24.0).view(12, 2) / 12, 2, collate_fn=self.gather)

    def gather(self, rows: list[Tensor]) -> Tensor:
        NOW[0] += self.seconds
        return torch.stack(rows)


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr("time.perf_counter", lambda: NOW[0])


def test_both_loops_are_timed_and_the_wait_for_data_is_seen(tmp_path: Path) -> None:
    figures = training_figures(CONFIG, Line(0.03), Data(0.01), 3, 1, tmp_path)  # type: ignore[arg-type]
    assert figures["training/ms_step_bare"] == pytest.approx(40)
    assert figures["training/ms_step_loop"] == pytest.approx(40)
    assert figures["training/waiting"] == pytest.approx(0.25)
    assert figures["training/of_bare"] == pytest.approx(1)
    assert figures["training/clips_per_second"] == pytest.approx(2 / 0.04)


def test_the_bare_loop_learns_what_the_trainer_learns(tmp_path: Path) -> None:
    tuned = Line(0.0)
    begin = tuned.line.weight.detach().clone()
    plain = Line(0.0)
    plain.load_state_dict(tuned.state_dict())
    options = {k: v for k, v in CONFIG.trainer.items() if not k.startswith("_")}
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(max_steps=8, default_root_dir=tmp_path, **options, **quiet)
    trainer.fit(tuned, datamodule=Data(0.0))
    bare_steps(CONFIG, plain, Data(0.0), 6, torch.device("cpu"))  # type: ignore[arg-type]
    assert not torch.equal(tuned.line.weight, begin)  # it went somewhere
    torch.testing.assert_close(plain.state_dict(), tuned.state_dict(), rtol=0, atol=1e-6)


def test_a_precision_that_the_bare_loop_cannot_do() -> None:
    config = OmegaConf.merge(CONFIG, {"trainer": {"precision": "16-mixed"}})
    with pytest.raises(ValueError, match=r"trainer.precision=16-mixed: the bare loop"):
        bare_steps(config, Line(0.0), Data(0.0), 1, torch.device("cpu"))  # type: ignore[arg-type]
