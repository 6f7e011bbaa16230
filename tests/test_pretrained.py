"""A paper's training does not begin with random weights unless it is told to."""

import logging
import re
import sys

import pytest
import torch

from data_modules.flow_augment import FlowAugment
from data_modules.flying_chairs import ChairPairs
from flowfeat import cli, train
from flowfeat.build import build_task
from flowfeat.pretrained import require_pretrained
from flowfeat.trust import build

FLOW = (
    r"flow.weights=null: the paper's training begins with weights of Flying Chairs, .* "
    r"flow.weights=<best.ckpt of experiment=flying_chairs_flownet .*allow_random=true"
)
TIMM = (
    r"features.pretrained=false: .* weights of ImageNet, .* features.pretrained=true "
    r"\(fetches timm's\) or features.checkpoint_path=<file>, or allow_random=true"
)
INCEPTION = (
    r"features.checkpoint_path=null: .* weights of ImageNet, .* "
    r"features.checkpoint_path=<BN-Inception's public weights .*, or allow_random=true"
)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("experiment=vid_dff_paper", FLOW),
        ("experiment=vid_dff_released", FLOW),
        ("experiment=cityscapes_dff_paper", FLOW),
        ("experiment=vid_dff_paper flow=flownet_inception", FLOW),
        ("experiment=vid_dff_paper method=fgfa", FLOW),
        ("experiment=vid_dff_paper features.pretrained=false flow.weights=/f", TIMM),
        ("experiment=vid_off_paper features.pretrained=false", TIMM),
        ("experiment=ucf101_off_paper", INCEPTION),
        ("experiment=ucf101_off_paper method=per_frame", INCEPTION),
    ],
)
def test_what_is_lacking_is_one_line_with_the_key_to_set(words, said):
    config = cli.compose_config(words.split())
    with pytest.raises(ValueError, match=said) as refusal:
        require_pretrained(config)
    assert "\n" not in str(refusal.value)
    config.allow_random = True
    require_pretrained(config)


@pytest.mark.parametrize(
    "words",
    [
        "experiment=vid_dff_paper flow.weights=/f",
        "experiment=vid_dff_paper start_from.all=/f",
        "experiment=vid_dff_paper warmup=synthetic_flow",
        "experiment=vid_dff_paper method=per_frame",  # has no F
        "experiment=vid_dff_paper method=sff",  # F has no weights
        "experiment=vid_dff_paper resume=/last.ckpt",
        "experiment=vid_off_paper",
        "experiment=vid_off_paper features.pretrained=false features.checkpoint_path=/n",
        "experiment=ucf101_off_paper features.checkpoint_path=/n",
        "experiment=ucf101_off_paper start_from.features=/n",
        "experiment=vimeo90k_off_paper",
        "experiment=flying_chairs_flownet",
        "task=vid method=dff flow=flownet features=resnet101",  # no paper's
    ],
)
def test_what_has_its_weights_goes_on(words):
    require_pretrained(cli.compose_config(words.split()))


def test_frozen_statistics_of_random_weights_are_said(caplog):
    caplog.set_level(logging.WARNING)
    require_pretrained(cli.compose_config(["task=vid"]))
    assert not caplog.text
    require_pretrained(cli.compose_config(["experiment=ucf101_off_paper", "allow_random=true"]))
    assert "features.norm=frozen: statistics of random weights normalise nothing" in caplog.text


@pytest.mark.parametrize(
    ("experiment", "said"), [("vid_dff_paper", FLOW), ("ucf101_off_paper", INCEPTION)]
)
def test_the_command_ends_before_anything_is_read(monkeypatch, capsys, tmp_path, experiment, said):
    """The second one in its first stage, which is what would begin with random weights."""
    words = [f"experiment={experiment}", "data.root=/nowhere", f"run_root={tmp_path}"]
    monkeypatch.setattr(sys, "argv", ["flowfeat-train", *words])
    with pytest.raises(SystemExit) as left:
        train.main()
    assert left.value.code == 2
    [line] = capsys.readouterr().err.strip().splitlines()[-1:]
    assert re.search(f"^flowfeat: error: {said}", line)


@pytest.mark.parametrize("flow", ["flownet", "flownet_half", "flownet_inception"])
def test_flownets_are_trained_as_flownet_2_publishes_it(flow):
    """S_short: 600k iterations of 8 pairs at 1e-4, halved every 100k after 300k."""
    config = cli.compose_config([f"experiment=flying_chairs_{flow}"])
    assert (config.task, config.method) == ("flying_chairs", "flow")
    assert config.flow == cli.compose_config([f"flow={flow}"]).flow
    assert (config.trainer.max_steps, config.data.batch_size) == (600_000, 8)
    assert config.trainer.gradient_clip_val is None
    optimization = build(config.optim)
    rates = [
        1e-4 * optimization.schedule(step, 600_000)
        for step in (0, 299_999, 300_000, 399_999, 400_000, 499_999, 500_000, 599_999)
    ]
    assert rates == pytest.approx([1e-4, 1e-4, 5e-5, 5e-5, 2.5e-5, 2.5e-5, 1.25e-5, 1.25e-5])
    assert config.optim.optimizer.lr == 1e-4
    assert config.optim.optimizer._target_ == "torch.optim.Adam"
    augment = dict(config.data.augment)
    assert (augment["rotation"], augment["translation"], augment["scale"]) == (17, 0.2, [0.9, 2.0])
    assert augment["photometric"] == {
        "channels": [0.5, 2.0],
        "gamma": [0.7, 1.5],
        "brightness": 0.2,
        "contrast": [-0.8, 0.4],
        "noise": 0.04,
    }


def test_the_recipe_takes_a_step_on_real_pairs(samples):
    """Augmented pairs of 320 x 448, and a finite loss whose gradient reaches every scale."""
    root = samples / "FlyingChairs_release"
    words = ["experiment=flying_chairs_flownet_half", f"data.root={root}"]
    config = cli.compose_config(words)
    augment = FlowAugment.from_mapping(config.data.augment)
    first, second = (ChairPairs(root, [1, 2], augment, seed=0)[0, index] for index in (0, 1))
    batch = {key: torch.stack([first[key], second[key]]) for key in first}
    assert batch["current"].shape == (2, 3, 320, 448)
    assert batch["valid"].float().mean() > 0.5
    task = build_task(config, ()).train()
    task.log = lambda *_, **__: None
    loss = task.training_step(batch, 0)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in task.parameters())
