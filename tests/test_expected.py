"""A paper's figures beside a report: which one is a run's, where it lies, and why below."""

import json
import re
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from flowfeat import cli, evaluate, train
from flowfeat.build import build_data, build_task
from flowfeat.causes import as_trained, other_settings, usual_causes
from flowfeat.checkpoint import KEY, Provenance
from flowfeat.expected import read_expected, verdict
from flowfeat.first_stage import compose_first_stage
from flowfeat.overrides import apply_overrides
from flowfeat.trust import build

REAL = "data.root=/real"
LEAVES = sorted(p.stem for p in (cli.CONFIGS / "expected").glob("*.yaml") if p.stem != "none")
EXPERIMENTS = sorted(
    p.stem for p in (cli.CONFIGS / "experiment").glob("*.yaml") if p.stem != "none"
)
ROWS = [
    pytest.param(leaf, number, id=f"{leaf}-{number}")
    for leaf in LEAVES
    for number in range(
        len(yaml.safe_load((cli.CONFIGS / "expected" / f"{leaf}.yaml").read_text())["figures"])
    )
]


@cache
def expected_of(*words):
    found = read_expected(cli.compose_config(words))
    assert found is not None
    return found


def told(results, *words):
    return verdict(expected_of(*words), results)


@cache
def composed(*words):
    return cli.compose_config(words)


def causes(*words):
    experiment = composed("experiment=vid_dff_paper")
    return "\n".join(usual_causes(apply_overrides(experiment, words), experiment))


def own(**changes):
    """Return a config with expectations of its own making."""
    figure = {"key": "mAP_l10", "value": 0.5, "tolerance": 0.1, "source": "Table 0"}
    node = {"of": "us", "experiment": "vid_dff_paper", "figures": [figure]}
    config = composed(REAL).copy()
    config.expected = OmegaConf.create({**node, **changes})
    return config


def test_without_an_experiment_nothing_is_expected():
    assert read_expected(cli.compose_config([])) is None
    assert read_expected(cli.compose_config(["experiment=vid_dff_paper", "expected=none"])) is None


WITHOUT_FIGURES = (
    *("hmdb51_off_paper", "hmdb51_off_flow_paper", "ucf101_off_flow_paper"),
    *("flying_chairs_flownet", "flying_chairs_flownet_half", "flying_chairs_flownet_inception"),
)
"""Of which the papers report no run alone: Tables 2 and 5 have streams together."""


@pytest.mark.parametrize("experiment", WITHOUT_FIGURES)
def test_what_the_papers_report_no_figure_of_is_held_against_none(experiment):
    assert read_expected(cli.compose_config([f"experiment={experiment}", REAL])) is None


@pytest.mark.parametrize(
    "words",
    [
        ["experiment=ucf101_off_paper", "task=hmdb51"],
        ["experiment=ucf101_off_paper", "data=hmdb51"],
        ["experiment=ucf101_off_paper", "modality=flow"],
        ["experiment=vid_dff_paper", "task=cityscapes"],
        ["experiment=cityscapes_dff_paper", "data=video_masks"],
        ["experiment=vimeo90k_off_paper", "data=video_folder"],
    ],
    ids=" ".join,
)
def test_other_data_are_not_judged_by_an_experiments_figures(words):
    [line] = told({"accuracy": 0.6}, *words, REAL)
    experiment = words[0].removeprefix("experiment=")
    assert line == f"{experiment}: the paper's figures are of other settings than this run's"


@pytest.mark.parametrize("experiment", sorted(set(EXPERIMENTS) - set(WITHOUT_FIGURES)))
def test_every_experiment_is_held_against_its_own_figures(experiment):
    found = expected_of(f"experiment={experiment}", REAL)
    assert found.experiment == experiment
    assert found.figures
    assert found.others == ()  # it is what it is compared with


@pytest.mark.slow
@pytest.mark.parametrize(("leaf", "number"), ROWS)
def test_every_figure_is_that_of_the_words_that_it_names(leaf, number):
    content = yaml.safe_load((cli.CONFIGS / "expected" / f"{leaf}.yaml").read_text())
    row = content["figures"][number]
    settings = {**content.get("when", {}), **row.get("when", {})}
    when = [f"{k}={'null' if v is None else v}" for k, v in settings.items()]
    words = [f"experiment={content['experiment']}", REAL, *when, *row.get("words", ())]
    found = expected_of(*words)
    ours = [f for f in found.figures if f.key == row["key"]]
    assert [(f.value, f.source) for f in ours] == [(row["value"], row["source"])]
    assert found.others == ()


@pytest.mark.parametrize(
    ("experiment", "group", "leaf"),
    [
        ("vid_off_paper", "temporal", "off_fusion_ms"),
        ("vid_off_paper method=off", "temporal", "off_fusion"),
        ("vid_dff_paper method=off", "temporal", "off_fusion"),
        ("cityscapes_dff_paper method=off_ms", "temporal", "off_fusion_ms"),
        ("ucf101_off_paper", "temporal", "off_recognition"),
        ("ucf101_off_paper", "clip", "consistent_interval"),
        ("vid_dff_paper", "flow", "flownet"),
    ],
)
def test_methods_take_the_experiments_sizes(experiment, group, leaf):
    config = composed(*f"experiment={experiment}".split())
    wanted = composed(f"{group}={leaf}")[group]
    ours, theirs = (OmegaConf.to_container(node, resolve=True) for node in (config[group], wanted))
    assert ours == theirs


def test_the_tables_that_are_reproduced_have_the_same_figures():
    for table, leaf, name in (
        ("dff4_vid", "vid_dff_paper", "mAP"),
        ("dff4_cityscapes", "cityscapes_dff_paper", "mIoU"),
    ):
        rows = yaml.safe_load((cli.CONFIGS / "reproduce" / f"{table}.yaml").read_text())["rows"]
        figures = yaml.safe_load((cli.CONFIGS / "expected" / f"{leaf}.yaml").read_text())["figures"]
        by_source = {f["source"]: f["value"] for f in figures}
        for row in ("Frame", "DFF", "DFF fix N", "DFF fix F", "DFF separate"):
            assert by_source[f"Table 4, {row}"] == rows[row]["paper"][name]


def test_the_papers_settings_of_cityscapes():
    """Section 5.1: 20K iterations over 8 GPUs, 1e-3 for the first 15K, shorter side 1024."""
    config = cli.compose_config(["experiment=cityscapes_dff_paper"])
    assert (config.trainer.max_steps, config.data.batch_size) == (20000, 8)
    assert (config.data.short_side, config.data.augment.crop) == (1024, None)
    assert (config.key_frames.interval, config.clip.max_offset, config.clip.same) == (5, 9, 0)
    schedule = build(config.optim).schedule
    rates = [1e-3 * schedule(step, 20000) for step in (0, 14999, 15000, 19999)]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4])
    assert config.optim.optimizer.lr == 1e-3


def test_the_papers_settings_of_ucf101():
    """Sections 4.2, 4.3 and 5.1: 20000 steps of 128, 0.02; N first as in TSN, then kept."""
    words = ["experiment=ucf101_off_paper"]
    config = cli.compose_config(words)
    assert (config.trainer.max_steps, config.data.batch_size) == (20000, 128)
    assert (config.optim.optimizer.lr, config.clip.beta) == (0.02, 25)
    assert {k: config.optim.factors[k] for k in ("features", "head")} == {"features": 0, "head": 0}
    first = compose_first_stage(config, words)
    assert (first.method, first.trainer.max_steps, first.optim.optimizer.lr) == (
        *("per_frame", 3500),
        0.001,
    )
    assert (first.clip.alpha, first.clip.beta) == (3, 25)
    assert first.optim.factors == {}
    assert first.features == config.features
    assert not first.expected  # the figures are those of the second stage
    build_data(config)
    assert len(build_task(config, ("a", "b")).temporal.off_network.units) == 3  # strides 8, 16, 32


def drops(optim, length):
    """Return the steps of a training of this length at which its learning rate falls."""
    schedule = build(optim).schedule
    factors = [schedule(step, length) for step in range(length)]
    return [step for step in range(1, length) if factors[step] != factors[step - 1]]


@pytest.mark.parametrize(
    ("experiment", "modality", "second", "first"),
    [
        ("ucf101_off_paper", "rgb", 0.02, (0.001, [1500, 3000], 3500, 40, 0.8)),
        ("ucf101_off_flow_paper", "flow", 0.05, (0.005, [10000, 16000], 18000, 20, 0.7)),
        ("hmdb51_off_paper", "rgb", 0.02, (0.001, [1000, 2000], 2500, 40, 0.8)),
        ("hmdb51_off_flow_paper", "flow", 0.05, (0.005, [4000, 6000], 7000, 20, 0.7)),
    ],
)
def test_both_stages_of_recognition(experiment, modality, second, first):
    """Section 5.1, and TSN's solvers: rate, drops, length, largest gradient, dropout."""
    words = [f"experiment={experiment}"]
    config = cli.compose_config(words)
    assert config.task == experiment.partition("_")[0] == config.data._target_.split(".")[1]
    assert (config.data.modality, config.optim.optimizer.lr) == (modality, second)
    assert (config.trainer.max_steps, config.data.batch_size) == (20000, 128)
    assert drops(config.optim, 20000) == [10000, 15000, 18000]
    stage = compose_first_stage(config, words)
    own = (
        stage.optim.optimizer.lr,
        drops(stage.optim, stage.trainer.max_steps),
        *(stage.trainer.max_steps, stage.trainer.gradient_clip_val, stage.head.dropout),
    )
    assert own == first
    scales = [1, 0.875, 0.75, 0.66] if modality == "rgb" else [1, 0.875, 0.75]
    for each in (config, stage):
        assert list(each.data.augment.scales) == scales
        assert (each.features.in_channels, each.data.modality) == (
            *(3 if modality == "rgb" else 10, modality),
        )


@pytest.mark.parametrize(
    ("experiment", "expected"),
    [
        ("vid_dff_paper", [40000]),  # section 5.1: the first 40K, the last 20K
        ("cityscapes_dff_paper", [15000]),
        ("vid_off_paper", [73000]),  # section 6: the first 73k iterations and the rest
    ],
)
def test_the_rate_falls_at_the_papers_step(experiment, expected):
    config = cli.compose_config([f"experiment={experiment}"])
    assert drops(config.optim, config.trainer.max_steps) == expected


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (0.702, "below"),
        (0.7209, "below"),
        (0.721, "within"),  # 0.731 - 0.721 is more than 0.01 in binary
        (0.741, "within"),
        (0.7412, "above"),
    ],
)
def test_where_a_value_lies(value, where):
    lines = told({"mAP_pairs_l10": value}, "experiment=vid_dff_paper", REAL)
    assert lines[0] == (
        f"mAP_pairs_l10 {value:.3f}: {where} the paper's 0.731 (Table 4, DFF), tolerance 0.010"
    )
    assert any("usual causes" in line for line in lines) == (where == "below")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["method=off", "temporal=off_fusion"], "0.752 (Table 6, SS)"),
        (["temporal.stages=null", "method=off"], "0.752 (Table 6, SS)"),
        (["method=off"], "0.752 (Table 6, SS)"),
        (["method=off", "temporal.stages=2"], "0.758 (Table 6, MS)"),
        (["method=per_frame"], "0.731 (Table 6, without OFF)"),
    ],
)
def test_the_figure_is_that_of_the_settings(words, said):
    [line] = told({"mAP": 0.9}, "experiment=vid_off_paper", REAL, *words)
    assert f"mAP 0.900: above the paper's {said}, " in line


def test_a_figure_of_other_settings_is_not_held_against_a_run():
    [line] = told({"PSNR": 30.0}, "experiment=vimeo90k_off_paper", REAL, "data.codec=h264")
    assert line == "vimeo90k_off_paper: the paper's figures are of other settings than this run's"


def test_synthetic_data_are_not_held_against_a_figure():
    [line] = told({"mAP_pairs_l10": 0.1}, "experiment=vid_dff_paper")
    assert line.startswith("vid_dff_paper: the paper's figures are of real data (data.root)")


@pytest.mark.parametrize(
    ("results", "said"), [({}, "not in this report"), ({"mAP_l10": float("nan")}, "no number")]
)
def test_a_report_without_the_figure_says_so_in_one_line(results, said):
    [line] = told(results, "experiment=vid_dff_released", REAL)
    assert line == f"mAP_l10: {said}, to hold against the released code's 0.730 (its README)"


def test_the_experiment_as_it_is_has_only_the_causes_that_nobody_can_help():
    assert "Flying Chairs" not in causes("flow.weights=/flow.ckpt")
    for absent in ("learning rate", "length", "BatchNorm", "scale field", "N begins"):
        assert absent not in causes("trainer.devices=8", "data.num_workers=1")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data.batch_size=2"], "learning rate 0.001 on the mean gradient of 2 samples"),
        (["optim.optimizer.lr=0.00025"], "learning rate 0.00025 on the mean gradient of 8 samples"),
        (["data.batch_size=2"], "length: 60000 steps, 2 samples a step, the experiment has 60000"),
        (["trainer.max_steps=2000"], "length: 2000 steps, 8 samples a step"),
        (["features.norm=sync"], "BatchNorm is not frozen (features.norm=sync)"),
        (["+flow.with_scale=false"], "no scale field (flow.with_scale=false)"),
        (["features.pretrained=false"], "N begins with no weights"),
        ([], "F begins with no weights (flow.weights=null)"),
        (["warmup=synthetic_flow"], "F begins with the warm-up's weights"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_usual_causes_come_from_the_config(words, said):
    assert said in causes(*words)


@pytest.mark.parametrize(
    ("words", "absent"),
    [
        # A fourth of the batch at a fourth of the rate for four times the steps is the same.
        (
            ["data.batch_size=2", "optim.optimizer.lr=0.00025", "trainer.max_steps=240000"],
            ("learning rate", "length"),
        ),
        (["data.batch_size=2", "+trainer.accumulate_grad_batches=4"], ("learning rate", "length")),
        (["features.pretrained=false", "features.checkpoint_path=/n"], ("N begins",)),
        (["features.pretrained=false", "start_from.features=/n"], ("N begins",)),
        (["features.pretrained=false", "start_from.all=/n"], ("N begins", "F begins")),
        (["resume=/last.ckpt", "features.pretrained=false"], ("N begins", "F begins")),
    ],
    ids=lambda value: " ".join(value),
)
def test_causes_that_do_not_apply_are_left_out(words, absent):
    found = causes(*words)
    assert not [name for name in absent if name in found]


def test_a_figure_without_the_scale_field_is_not_missed_for_want_of_it():
    found = expected_of("experiment=vid_dff_paper", REAL, "method=dff_no_scale")
    assert [f.source for f in found.figures] == ["section 5.2, at most 0.01 below DFF"]
    assert not [cause for cause in found.causes if "scale field" in cause]


def test_n_of_a_first_stage_began_as_the_config_says():
    config = cli.compose_config(["experiment=ucf101_off_paper", REAL, "start_from.features=/n"])
    assert "N begins" not in "".join(read_expected(config).causes)
    OmegaConf.update(config, "first_stage.checkpoint", "/n", force_add=True)
    assert "which frozen BatchNorm needs" in "".join(read_expected(config).causes)


def test_epochs_are_not_compared_with_steps():
    found = expected_of("experiment=vimeo90k_off_paper", REAL, "trainer.max_steps=1000")
    assert (
        "length: 1000 steps, 28 samples a step, the experiment has 50 epochs, 28 samples a step"
        in found.causes
    )


def test_other_settings_are_named_even_where_the_figure_is_reached():
    words = ["data.val_limit=3", "head.k=3", "run_root=/elsewhere", "data.num_workers=9"]
    lines = told({"mAP_pairs_l10": 0.73}, "experiment=vid_dff_paper", REAL, *words)
    assert lines[1:] == [
        "settings other than the experiment's: data.val_limit=3 (null), head.k=3 (7)"
    ]


def test_what_an_older_checkpoint_lacks_is_no_difference():
    config = cli.compose_config(["experiment=vid_dff_paper", REAL])
    OmegaConf.set_struct(config, False)
    del config.head["ohem"]
    assert read_expected(config).others == ()


def test_another_trainer_for_an_evaluation_is_no_other_training():
    stored = composed("experiment=vid_dff_paper", "method=dff")
    words = ("trainer=cpu", "data.batch_size=1", "flow=flownet", "+trainer.limit_test_batches=2")
    changed = as_trained(apply_overrides(stored, words), stored)
    assert changed.trainer.accelerator == stored.trainer.accelerator
    assert other_settings(changed, stored) == ["trainer.limit_test_batches=2 (null)"]
    assert usual_causes(changed, stored) == usual_causes(stored, stored)


FIGURE = {"key": "mAP", "value": 0.5, "tolerance": 0.1, "source": "Table 0"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"figures": None}, "expected.figures: expected a list, found None"),
        ({"figure": []}, "expected.figure: unknown key, expected of, experiment, figures, when"),
        ({"experiment": "nonsense"}, "expected: experiment=nonsense: unknown choice"),
        ({"experiment": "../data/ucf101"}, "expected.experiment=../data/ucf101: expected a plain"),
        ({"figures": [0.5]}, "expected.figures[0]: expected a mapping of key, value, tolerance"),
        ({"figures": [{"key": "mAP"}]}, "expected.figures[0].value: missing"),
        (
            {"figures": [{**FIGURE, "value": "much"}]},
            "expected.figures[0].value: expected a number, found 'much'",
        ),
        ({"figures": [{**FIGURE, "tolerance": -1}]}, "a tolerance of 0 or more, found 0.5 and -1"),
        ({"figures": [{**FIGURE, "value": float("inf")}]}, "expected a number"),
        ({"figures": [{**FIGURE, "key": "mAP l10"}]}, "expected letters, digits and _ only"),
        ({"figures": [{**FIGURE, "tolerence": 0.1}]}, "expected.figures[0].tolerence: unknown key"),
        ({"figures": [{**FIGURE, "words": ["flow=nonsense"]}]}, "expected: flow=nonsense: unknown"),
        ({"causes": [{"when": {}}]}, "expected.causes[0].says: missing"),
    ],
)
def test_bad_entries_are_refused_in_one_line(changes, said):
    with pytest.raises(ValueError, match=re.escape(said)) as refusal:
        read_expected(own(**changes))
    assert "\n" not in str(refusal.value)


def test_they_are_refused_before_anything_is_trained(monkeypatch, capsys, tmp_path):
    words = ["expected=vid_dff_paper", "expected.figures=[1]", REAL, f"run_root={tmp_path}"]
    monkeypatch.setattr(sys, "argv", ["flowfeat-train", *words])
    with pytest.raises(SystemExit) as left:
        train.main()
    assert left.value.code == 2
    assert "flowfeat: error: expected.figures[0]: expected a mapping" in capsys.readouterr().err


TINY = (
    *("features.model=test_resnet", "flow.width=16", "head.anchor_sizes=[16,32]"),
    *("data.short_side=32", "data.long_side=64", "data.num_workers=0"),
    "++data.synthetic={train_snippets: 1, val_snippets: 1, frames: 12, stills: 0}",
    *("logger=none", "callbacks=quiet", "callbacks.speed=null", "callbacks.pictures=null"),
    *("trainer.accelerator=cpu", "evaluation.intervals=[]", "evaluation.pairs_every=6"),
)


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory) -> Path:
    """Return a checkpoint of a small DFF with random weights, beside its data in VID's layout."""
    folder = tmp_path_factory.mktemp("expected")
    config = cli.compose_config([*TINY, f"data.synthetic_root={folder / 'data'}"])
    data = build_data(config)
    data.prepare_data()
    task = build_task(config, data.classes)
    content = {"state_dict": task.state_dict(), KEY: Provenance(config, data.classes).record}
    torch.save(content, folder / "last.ckpt")
    return folder / "last.ckpt"


def evaluated(monkeypatch, ckpt, *words):
    root = ckpt.parent / "runs"
    before = set(root.glob("*/*/*"))
    arguments = [f"ckpt={ckpt}", f"run_root={root}", *words]
    monkeypatch.setattr(sys, "argv", ["flowfeat-evaluate", *arguments])
    evaluate.main()
    [folder] = set(root.glob("*/*/*")) - before
    return folder


def test_an_older_checkpoint_is_held_against_a_leaf(monkeypatch, ckpt, capsys, caplog):
    caplog.set_level("INFO")
    words = ["expected=vid_dff_paper", f"data.root={ckpt.parent / 'data'}", "data.batch_size=1"]
    folder = evaluated(monkeypatch, ckpt, *words)
    value = json.loads((folder / "results.json").read_text())["mAP_pairs_l10"]
    lines = (folder / "expected.txt").read_text().splitlines()
    assert lines[0].startswith(f"mAP_pairs_l10 {value:.3f}: below the paper's 0.731 (Table 4, DFF)")
    assert lines[1].startswith("settings other than the experiment's: clip.same=0.4 (0.0), ")
    assert any("length: 440 steps, 8 samples" in line for line in lines)  # of the training
    assert "\n".join(lines) in caplog.text
    assert set(json.loads((folder / "results.json").read_text()).values()) >= {value}


def test_a_report_is_whole_without_what_was_expected(monkeypatch, ckpt):
    words = ["expected=vid_dff_paper", f"data.root={ckpt.parent / 'data'}"]
    folder = evaluated(monkeypatch, ckpt, *words, "evaluation.pairs_every=0")
    assert "mAP_l10" in json.loads((folder / "results.json").read_text())
    assert "mAP_pairs_l10: not in this report" in (folder / "expected.txt").read_text()
