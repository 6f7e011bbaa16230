"""A step of several batches is the step of one large batch."""

from pathlib import Path
from typing import Any

import pytest
import torch

from flowfeat import cli
from flowfeat.build import build_data, build_task
from flowfeat.train import build_trainer

TINY = (
    *("task=ucf101", "method=per_frame", "features.model=test_resnet", "head.dropout=0"),
    *("data.crop=32", "data.short_side=32", "data.num_workers=0", "data.val_share=0"),
    *("clip.alpha=2", "trainer.accelerator=cpu", "trainer.val_check_interval=1000"),
    *("optim.schedule.warmup=0", "trainer.gradient_clip_val=0.5"),
    "++data.synthetic={groups: 4, clips: 1, frames: [4, 6], scene: {size: [36, 40]}}",
    "optim.schedule.drops=[0.5]",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("accumulation")


def trained(folder: Path, *words: str) -> Any:
    """Train five steps; return the weights, the steps, their rates and the batches of an epoch."""
    words = (*TINY, f"data.synthetic_root={folder / 'data'}", "trainer.max_steps=5", *words)
    config = cli.compose_config(words)
    torch.manual_seed(0)
    data = build_data(config)
    task = build_task(config, data.classes)
    rates: list[float] = []
    task.on_before_optimizer_step = lambda optimizer: rates.append(optimizer.param_groups[0]["lr"])
    trainer = build_trainer(
        config,
        folder,
        [],
        loggers=[],
        enable_checkpointing=False,
        enable_progress_bar=False,
        limit_val_batches=0,
    )
    trainer.fit(task, datamodule=data)
    return task.state_dict(), trainer.global_step, rates, trainer.num_training_batches


def test_accumulated_batches_give_the_same_update(folder):
    """45 training videos: two steps of 16 an epoch, and the 13 left over are no step."""
    one, steps, rates, batches = trained(folder, "data.batch_size=16")
    accumulated = "+trainer.accumulate_grad_batches=4"
    parts, same_steps, same_rates, in_parts = trained(folder, "data.batch_size=4", accumulated)
    assert (batches, in_parts) == (2, 8)
    assert steps == same_steps == 5  # max_steps counts steps, not batches
    assert rates == same_rates == pytest.approx([0.05, 0.05, 0.05, 0.005, 0.005])
    before, *_ = trained(folder, "data.batch_size=16", "trainer.max_steps=1")
    moved = [(one[n] - before[n]).abs().max() for n in one if one[n].is_floating_point()]
    assert max(moved) > 1e-3
    for name, value in one.items():
        torch.testing.assert_close(parts[name], value, atol=1e-5, rtol=1e-4, msg=name)


def test_the_preset_for_one_gpu_steps_on_the_papers_128_clips():
    paper = cli.compose_config(["experiment=ucf101_off_paper"])
    config = cli.compose_config(["experiment=ucf101_off_paper_one_gpu"])
    parts = config.trainer.accumulate_grad_batches
    assert config.data.batch_size * parts == paper.data.batch_size == 128
    assert config.trainer.val_check_interval == paper.trainer.val_check_interval * parts
    assert config.trainer.max_steps == paper.trainer.max_steps
    assert config.optim == paper.optim
