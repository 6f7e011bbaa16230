"""Every experiment with every method: the method wins, the experiment brings the rest."""

from functools import cache

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from flowfeat import cli
from flowfeat.build import build_data, build_task
from flowfeat.trial import shrink


def leaves(group: str) -> list[str]:
    return sorted(path.stem for path in (cli.CONFIGS / group).glob("*.yaml"))


EXPERIMENTS = [name for name in leaves("experiment") if name != "none"]
METHODS = leaves("method")
BUILT_ON_OTHERS = (
    *("vid_dff_released", "vimeo90k_off_text", "ucf101_off_paper_one_gpu"),
    *("ucf101_off_flow_paper", "hmdb51_off_paper", "hmdb51_off_flow_paper"),
    *("flying_chairs_flownet_half", "flying_chairs_flownet_inception"),
)
"""Experiments that another one's preset makes, but for a few values."""

SAMPLED_AROUND_LABELS = "clip: .* samples around a labelled frame: expected clip="
ACTIONS = {
    **dict.fromkeys(
        [name for name in METHODS if name.startswith("dff")] + ["fgfa", "sff"],
        SAMPLED_AROUND_LABELS,
    ),
    "off_ms": "method=off_ms does not fit task=.*: there is no temporal=off_ms_",
    "tsm": "temporal shift needs the residual blocks of a timm ResNet, found none in BnInception",
}
NO_PAIR = "temporal.layer: spatial and temporal are both false, so no pair is compared"
NO_KEY_FRAMES = "expected a method without key frames, as per_frame or off"
REFUSED = {
    "vid": {"off_hypercolumn": NO_PAIR},
    "cityscapes": {"off_hypercolumn": NO_PAIR},
    "ucf101": ACTIONS,
    "hmdb51": ACTIONS,
    "vimeo90k": {
        **dict.fromkeys(
            [m for m in METHODS if m not in ("per_frame", "fgfa", "off", "off_hypercolumn")],
            NO_KEY_FRAMES,
        ),
        "off_ms": "method=off_ms does not fit task=vimeo90k: there is no temporal=off_ms_vimeo90k",
        "tsm": "temporal shift needs the residual blocks of a timm ResNet, found none in DnCNN",
    },
}
"""By task, the methods that do not fit, and what they say; tasks on video refuse `flow` as well."""

PAIRS = [
    pytest.param(e, m, marks=[pytest.mark.slow] if e in BUILT_ON_OTHERS else [])
    for e in EXPERIMENTS
    for m in METHODS
]


@cache
def composed(*words: str) -> DictConfig:
    return cli.compose_config(words)


def resolved(config: DictConfig, key: str) -> object:
    node = OmegaConf.select(config, key)
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def built(config: DictConfig) -> None:
    """Build data and model of a config, of timm's backbones the smallest, without weights."""
    config = shrink(config)
    data = build_data(config)
    with torch.device("meta" if config.features.get("model") else "cpu"):
        build_task(config, data.classes or ("a", "b"))


def refusal(task: str, method: str) -> str | None:
    if (method == "flow") != (task == "flying_chairs"):
        return f"method={method}: impossible for task {task}|does not fit task={task}"
    return REFUSED.get(task, {}).get(method)


@pytest.mark.parametrize(("experiment", "method"), PAIRS)
def test_the_method_wins_and_the_experiment_brings_the_rest(experiment, method):
    own = composed(f"experiment={experiment}")
    said = refusal(own.task, method)
    if said is not None:
        with pytest.raises(cli.user_errors(), match=said) as error:
            built(cli.compose_config([f"experiment={experiment}", f"method={method}"]))
        assert "\n" not in cli.one_line(error.value)
        return
    config = cli.compose_config([f"experiment={experiment}", f"method={method}"])
    plain = composed(f"task={own.task}", f"method={method}")
    assert config.method == method
    for key in ("temporal._target_", "clip._target_", "key_frames._target_", "flow.with_scale"):
        assert resolved(config, key) == resolved(plain, key), key
    learns = "weights" in plain.flow  # the experiment brings it; what has none is the method's own
    if learns and own.task in ("vid", "cityscapes"):
        assert config.flow._target_ == "flowfeat.flow.flownet.FlowNet"
    elif own.task != "flying_chairs":
        assert config.flow == plain.flow
    frozen = {part: f for part, f in plain.optim.factors.items() if f == 0}
    assert {part: config.optim.factors.get(part) for part in frozen} == frozen
    for key in ("features", "head", "data", "trainer", "module", "optim.optimizer", "expected"):
        assert resolved(config, key) == resolved(own, key), key
    built(config)
