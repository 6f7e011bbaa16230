"""Parts from other runs: weights arrive bit for bit, frozen parts stay, refusals are one line."""

import json
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from data_modules.synthetic.shapes import NAMED
from flowfeat import cli
from flowfeat.build import build_task
from flowfeat.checkpoint import read_checkpoint, restore_task, write_checkpoint
from flowfeat.first_stage import with_first_stage
from flowfeat.optimization import thawed
from flowfeat.start_from import start_parts, untrained
from flowfeat.tasks.video_task import VideoTask
from flowfeat.train import train, warms_up

FLOW = ("flow=flownet_quarter", "flow.width=0.0625", "flow.groups=null")
CLASSES = tuple(NAMED)
TINY = (
    "features.model=test_resnet",
    "head.anchor_sizes=[16,32]",
    "data.short_side=32",
    "data.long_side=64",
    "data.num_workers=0",
    "logger=none",
    "callbacks=quiet",
    "callbacks.speed=null",
    "callbacks.pictures=null",
    "trainer.accelerator=cpu",
    "evaluation.intervals=[]",
    "evaluation.pairs_every=0",
    "evaluation.copy=false",
)


def compose(*words: str) -> DictConfig:
    return cli.compose_config([*TINY, *words])


def dff(method: str, *words: str) -> DictConfig:
    return compose(f"method={method}", *FLOW, *words)


def build(config: DictConfig, seed: int) -> VideoTask:
    torch.manual_seed(seed)
    return build_task(config, CLASSES)


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> dict[str, Path]:
    """Return checkpoints of a per-frame run and of two DFF runs, with random weights."""
    folder = tmp_path_factory.mktemp("stored")
    configs = {
        "per_frame": compose("method=per_frame"),
        "dff": dff("dff"),
        "no_scale": dff("dff_no_scale"),
    }
    paths = {}
    for seed, (name, config) in enumerate(configs.items()):
        task = build(config, seed + 10)
        for parameter in task.parameters():
            torch.nn.init.uniform_(parameter)
        paths[name] = folder / f"{name}.ckpt"
        write_checkpoint(paths[name], task, config)
    return paths


def task_of(path: Path) -> VideoTask:
    return restore_task(read_checkpoint(path))


def test_all_gives_every_part_that_no_other_key_names(stored):
    config = dff("dff", f"start_from.all={stored['dff']}")
    whole = build(config, 1)
    start_parts(whole, config)
    assert same(whole, task_of(stored["dff"]))
    assert not warms_up(config, whole)

    mixed = dff(
        "dff", f"start_from.all={stored['dff']}", f"start_from.features={stored['per_frame']}"
    )
    task = build(mixed, 1)
    start_parts(task, mixed)
    assert same(task.parts()["features"], task_of(stored["per_frame"]).parts()["features"])
    assert same(task.parts()["head"], task_of(stored["per_frame"]).parts()["head"])
    assert same(task.parts()["flow"], task_of(stored["dff"]).parts()["flow"])


def test_all_parts_need_to_be_there(stored):
    config = dff("dff", f"start_from.all={stored['per_frame']}")
    with pytest.raises(ValueError, match=r"per_frame\.ckpt has no flow, only features, head"):
        start_parts(build(config, 1), config)


def test_off_goes_on_end_to_end(tmp_path):
    """The optional third stage of OFF (section 4.2.1): everything starts where stage two ended."""
    words = ("task=ucf101", "method=off", "features.model=test_resnet", "logger=none")
    second = cli.compose_config([*words, "first_stage=none"])
    before = build(second, 1)
    write_checkpoint(tmp_path / "off.ckpt", before, second)
    config = cli.compose_config(
        [
            *words,
            f"start_from.all={tmp_path / 'off.ckpt'}",
            "optim.factors.features=1",
            "optim.factors.head=1",
        ]
    )
    config = with_first_stage(config, tmp_path, lambda *_: pytest.fail("stage one is not needed"))
    after = build(config, 2)
    assert not same(before, after)
    start_parts(after, config)
    after.begin()
    assert same(before, after)
    assert all(parameter.requires_grad for parameter in after.parameters())


def test_separate_is_put_together_from_two_checkpoints(stored):
    n, f = stored["per_frame"], stored["dff"]
    config = dff("dff_separate", f"start_from.features={n}", f"flow.weights={f}")
    task = build(config, 0)
    start_parts(task, config)
    assert same(task.temporal.features, task_of(n).temporal.features)
    assert same(task.head, task_of(n).head)
    assert same(task.temporal.flow, task_of(f).temporal.flow)
    assert untrained(task)


@pytest.mark.parametrize(
    ("method", "learning", "still"),
    [
        ("dff", {"features", "flow", "head"}, set()),
        ("dff_no_scale", {"features", "flow", "head"}, set()),
        ("dff_fix_n", {"flow"}, {"features", "head"}),
        ("dff_fix_f", {"features", "head"}, {"flow"}),
    ],
)
def test_who_learns_is_table_3(method, learning, still):
    task = build(dff(method), 0).train()
    parts = task.parts()
    assert parts.keys() == learning | still
    for name in learning:
        assert any(p.requires_grad for p in parts[name].parameters())
        assert parts[name].training
    for name in still:
        assert not any(p.requires_grad for p in parts[name].parameters())
        assert not any(module.training for module in parts[name].modules())
    optimizer, _ = task.optimization.configure(parts, 10)
    assert {group["name"] for group in optimizer.param_groups} == learning


def test_no_scale_has_no_scale_field():
    frames = torch.rand(1, 3, 64, 64)
    assert build(dff("dff_no_scale"), 0).temporal.flow(frames, frames).scale is None
    assert build(dff("dff"), 0).temporal.flow(frames, frames).scale is not None


def test_frozen_norm_statistics_do_not_move():
    config = dff("dff_fix_n", "features.norm=train")
    task = build(config, 0).train()
    before = {n: b.clone() for n, b in task.temporal.features.named_buffers()}
    assert any(name.endswith("running_mean") for name in before)
    task.temporal(
        torch.rand(2, 2, 3, 64, 64), torch.tensor([[True, False]] * 2), torch.ones(2, 1).long()
    )
    for name, buffer in task.temporal.features.named_buffers():
        assert torch.equal(buffer, before[name]), name


def test_the_scale_field_may_be_missing_on_either_side(stored):
    config = dff("dff", f"flow.weights={stored['no_scale']}")
    task = build(config, 0)
    start_parts(task, config)
    frames = torch.rand(1, 3, 64, 64)
    scale = task.temporal.flow(frames, frames).scale
    assert torch.equal(scale, torch.ones_like(scale))
    config = dff("dff_no_scale", f"flow.weights={stored['dff']}")
    task = build(config, 0)
    start_parts(task, config)
    predict = task_of(stored["dff"]).temporal.flow.predict
    assert same(task.temporal.flow.predict, predict)


@pytest.mark.parametrize(
    ("method", "part", "run"),
    [
        ("dff_fix_n", "features", "METHOD=per_frame"),
        ("dff_separate", "features", "METHOD=per_frame"),
    ],
)
def test_a_frozen_part_without_weights_names_the_run_that_trains_it(method, part, run):
    config = dff(method)
    with pytest.raises(
        ValueError, match=rf"start_from\.{part}=null: {method} .*best.ckpt of {run}"
    ):
        start_parts(build(config, 0), config)


def test_a_fixed_flow_needs_a_warm_up_or_a_checkpoint(stored):
    config = dff("dff_fix_f")
    start_parts(build(config, 0), config)  # the warm-up is its pre-training
    for method in ("dff_fix_f", "dff_separate"):
        config = dff(method, "warmup=none", f"start_from.features={stored['per_frame']}")
        with pytest.raises(ValueError, match=r"flow\.weights=null: .* METHOD=flow \(or add warmup"):
            start_parts(build(config, 0), config)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("flow.weights={per_frame}",), "flow.weights: .* has no flow, only features, head"),
        (
            ("flow.weights={dff}", "flow.width=0.125"),
            r"flow.weights: .* does not fit, \d+ parameters differ, first .*: expected \(",
        ),
        (
            ("+start_from.tail={dff}",),
            "start_from.tail: unknown part, expected one of features, flow",
        ),
        (("flow.weights=/no/such.ckpt",), "/no/such.ckpt: no such checkpoint"),
    ],
)
def test_what_does_not_fit_is_one_line(stored, words, said):
    words = [word.format(**stored) for word in words]
    config = dff("dff", *words)
    with pytest.raises((ValueError, FileNotFoundError), match=said) as refusal:
        start_parts(build(config, 0), config)
    assert "\n" not in str(refusal.value)


def test_weights_of_a_diverged_run_are_refused(stored, tmp_path):
    content = torch.load(stored["per_frame"], weights_only=True)
    name = next(n for n in content["state_dict"] if n.startswith("temporal.features."))
    content["state_dict"][name].view(-1)[0] = float("inf")
    torch.save(content, tmp_path / "last.ckpt")
    config = dff("dff", f"start_from.features={tmp_path / 'last.ckpt'}")
    with pytest.raises(ValueError, match=rf"last\.ckpt: {name} is not finite"):
        start_parts(build(config, 0), config)


def test_a_head_of_other_classes_is_refused(stored):
    config = dff("dff", f"start_from.features={stored['per_frame']}")
    task = build_task(config, ("a", "b", "c", "d"))
    with pytest.raises(ValueError, match=r"start_from\.head: .* knows the classes striped disc"):
        start_parts(task, config)
    config.start_from.head = None
    start_parts(task, config)


def test_thawing_ends_where_it_began():
    frozen, learning = (
        torch.nn.Conv2d(1, 1, 1).requires_grad_(False).eval(),
        torch.nn.Conv2d(1, 1, 1),
    )
    learning.bias.requires_grad_(False)
    with thawed(frozen), thawed(learning):
        assert frozen.weight.requires_grad
        assert frozen.training
        assert not learning.bias.requires_grad
    assert not frozen.weight.requires_grad
    assert not frozen.training
    assert learning.weight.requires_grad


def test_what_is_not_trained_is_evaluated_and_kept(stored, tmp_path):
    """`flowfeat-train method=dff_separate`: no training step, a report and a checkpoint."""
    config = dff(
        "dff_separate",
        f"start_from.features={stored['per_frame']}",
        f"flow.weights={stored['dff']}",
        "++data.synthetic={train_snippets: 1, val_snippets: 1, frames: 4, stills: 0}",
        f"data.synthetic_root={tmp_path / 'data'}",
    )
    train(config, tmp_path / "run")
    assert "mAP_l10" in json.loads((tmp_path / "run" / "results.json").read_text())
    kept = task_of(tmp_path / "run" / "best.ckpt")
    assert same(kept.temporal.flow, task_of(stored["dff"]).temporal.flow)
    assert same(kept.head, task_of(stored["per_frame"]).head)
