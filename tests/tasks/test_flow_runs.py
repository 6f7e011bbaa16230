"""METHOD=flow from the files to the report, and a DFF run that starts from its checkpoint."""

import json
from pathlib import Path

import pytest
import torch

from flowfeat import cli, overrides
from flowfeat.build import build_task
from flowfeat.checkpoint import read_checkpoint, restore_task
from flowfeat.evaluate import evaluate_stored
from flowfeat.predict import predict
from flowfeat.profile import profile
from flowfeat.start_from import start_parts
from flowfeat.train import train, warms_up

TINY = (
    "task=flying_chairs",
    "method=flow",
    "flow=flownet_quarter",
    "flow.width=0.125",
    "flow.groups=4",
    "data.num_workers=0",
    "data.batch_size=4",
    "data.augment={crop: [48, 64], flip: 0.5}",
    "++data.synthetic={train_pairs: 16, val_pairs: 4, scene: {size: [64, 80]}}",
    "logger=none",
    "callbacks=quiet",
    "trainer.accelerator=cpu",
    "trainer.max_steps=30",
    "trainer.val_check_interval=2",
    "optim.schedule.warmup=2",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("flow")
    words = [*TINY, f"data.synthetic_root={folder / 'data'}", f"run_root={folder}"]
    train(cli.compose_config(words), folder / "run")
    return folder / "run"


def test_the_report_is_epe_beside_that_of_zero_flow(run):
    results = json.loads((run / "results.json").read_text())
    assert {"EPE", "EPE_zero", "train_seconds", "peak_memory_gb"} == set(results)
    assert results["EPE_zero"] > 0.5
    header, *rows = (run / "metrics.csv").read_text().splitlines()
    assert {"EPE", "EPE_zero", "flow_loss"} <= set(header.split(","))
    assert len(rows) > 5


def test_best_is_the_checkpoint_of_least_error(run):
    header, *rows = (run / "metrics.csv").read_text().splitlines()
    column = header.split(",").index("EPE")
    errors = [float(row.split(",")[column]) for row in rows if row.split(",")[column]]
    best = torch.load(run / "best.ckpt", weights_only=True)
    (callback,) = (s for s in best["callbacks"].values() if "best_score" in s)
    # The last row is the report's.
    assert callback["best_score"] == pytest.approx(min(errors[:-1]))


def test_a_stored_run_is_evaluated_again(run, tmp_path):
    checkpoint = read_checkpoint(run / "last.ckpt")
    again = evaluate_stored(overrides.Stored(checkpoint, checkpoint.config.copy()), tmp_path)
    results = json.loads((run / "results.json").read_text())
    assert again["EPE"] == pytest.approx(results["EPE"], rel=1e-4)


def test_a_dff_run_starts_from_it(run):
    words = ("features.model=test_resnet", "method=dff", "flow=flownet_quarter", "flow.groups=4")
    config = cli.compose_config([*words, "flow.width=0.125", f"flow.weights={run / 'best.ckpt'}"])
    task = build_task(config, ("a", "b")).eval()
    start_parts(task, config)
    assert not warms_up(config, task)
    current, key = torch.rand(2, 1, 3, 64, 80)
    alone = restore_task(read_checkpoint(run / "best.ckpt")).flow
    with torch.inference_mode():
        for one, other in zip(
            task.temporal.flow.pyramid(current, key), alone.pyramid(current, key), strict=True
        ):
            assert torch.equal(one, other)
        scale = task.temporal.flow(current, key).scale
    assert torch.equal(scale, torch.ones_like(scale))


def test_another_network_is_refused_with_the_names(run):
    words = ["features.model=test_resnet", "method=dff", "flow=correlation"]
    config = cli.compose_config([*words, f"flow.weights={run / 'best.ckpt'}"])
    said = r"flow.weights: .*best.ckpt does not fit, \d+ parameters differ, first convs.0.0.bias: "
    with pytest.raises(ValueError, match=said) as refusal:
        start_parts(build_task(config, ("a",)), config)
    assert "\n" not in str(refusal.value)


def test_a_flow_network_alone_neither_predicts_nor_profiles(run, tmp_path):
    checkpoint = read_checkpoint(run / "last.ckpt")
    stored = overrides.Stored(checkpoint, checkpoint.config)
    said = "expected a network that runs on videos, found FlowTask"
    with pytest.raises(ValueError, match=said):
        predict(stored, {"video": str(tmp_path)})
    with pytest.raises(ValueError, match="profile: method flow runs on no stream"):
        profile(cli.compose_config(TINY), tmp_path)
