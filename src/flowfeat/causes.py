"""Why a figure may lie below a paper's: what a config has otherwise than the paper's experiment."""

import math
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from flowfeat.settings import changed, under, word
from flowfeat.start_from import starts

DECIDING = (
    *("features", "flow", "temporal", "clip", "key_frames", "head"),
    *("data", "optim", "module", "trainer"),
)
"""Groups that decide the result of a run, but for what stands in ``BESIDE``."""

BESIDE = (
    *("features.pretrained", "features.checkpoint_path", "flow.weights"),  # causes of their own
    *("data.root", "data.degraded", "data.videos", "data.lists", "data.flow_root"),
    *("data.flow_cache", "data.synthetic", "data.synthetic_root"),
    *("data.num_workers", "data.stream_chunk", "data.reader", "data.test_batch_size"),
    *("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy"),
    *("trainer.val_check_interval", "trainer.check_val_every_n_epoch"),
    *("trainer.log_every_n_steps", "trainer.num_sanity_val_steps"),
    *("trainer.enable_model_summary", "trainer.enable_progress_bar"),
)
"""Where a run begins, where things lie, on what it runs, and how often it is looked at."""


TRAINED = (
    *("trainer", "optim", "warmup", "first_stage", "start_from", "resume"),
    *("data.batch_size", "features.pretrained", "features.checkpoint_path", "flow.weights"),
)
"""What a checkpoint was trained with, whatever its evaluation says."""


def as_trained(config: DictConfig, stored: DictConfig) -> DictConfig:
    """Return the config of an evaluation, with the training of its checkpoint.

    Choosing `trainer=cpu` or `data.batch_size=1` for an evaluation is no other training.

    Args:
        config: Of the evaluation.
        stored: Of the checkpoint.
    """
    config = config.copy()
    for key in TRAINED:
        value = OmegaConf.select(stored, key)
        if value is not None:
            OmegaConf.update(config, key, value, merge=True, force_add=True)
    return config


def other_settings(config: DictConfig, reference: DictConfig) -> list[str]:
    """List what decides the result and is set otherwise, as ``key=ours (theirs)``.

    Args:
        config: Of the run. A key that it lacks altogether, as an older checkpoint may, is no
            difference.
        reference: Of the experiment whose figure the run is held against.
    """
    return [
        f"{key}={word(ours)} ({word(theirs)})"
        for key, theirs, ours in changed(reference, config)
        if under(key, DECIDING) and not under(key, BESIDE) and _has(config, key)
    ]


def _has(config: DictConfig, key: str) -> bool:
    parent, _, leaf = key.rpartition(".")
    node = OmegaConf.select(config, parent)
    return isinstance(node, DictConfig) and leaf in list(node)


def usual_causes(config: DictConfig, reference: DictConfig) -> list[str]:
    """List the usual causes of a lower figure that apply to a config, a line each.

    They are those by which users of the released codes missed the papers' figures.

    Args:
        config: Of the run.
        reference: Of the experiment whose figure the run is held against.
    """
    found = (_length, _rate, _batch_norm, _scale, _features, _flow)
    return [line for cause in found for line in cause(config, reference)]


def _length(config: DictConfig, reference: DictConfig) -> Iterator[str]:
    """Fewer samples seen; other measures of length, which cannot be compared."""
    (ours, unit), (theirs, its_unit) = _seen(config), _seen(reference)
    if unit != its_unit or ours < theirs:
        yield f"length: {_trained(config)}, the experiment has {_trained(reference)}"


def _seen(config: DictConfig) -> tuple[float, str]:
    steps = _number(config, "trainer.max_steps", -1)
    if steps > 0:
        return steps * _batch(config), "samples"
    return _number(config, "trainer.max_epochs", 0), "epochs"


def _trained(config: DictConfig) -> str:
    name = "steps" if _seen(config)[1] == "samples" else "epochs"
    return (
        f"{_number(config, f'trainer.max_{name}', 0):g} {name}, {_batch(config):g} samples a step"
    )


def _rate(config: DictConfig, reference: DictConfig) -> Iterator[str]:
    """Another learning rate per sample: a smaller batch, or a rate that is meant for a sum."""
    (rate, batch), (its_rate, its_batch) = (
        (_number(c, "optim.optimizer.lr", 0), _batch(c)) for c in (config, reference)
    )
    if not math.isclose(rate / batch, its_rate / its_batch, rel_tol=0.01):
        yield (
            f"learning rate {rate:g} on the mean gradient of {batch:g} samples, the experiment has "
            f"{its_rate:g} on {its_batch:g}; the mean is over all GPUs here, so a rate for their "
            "sum is to be multiplied by their number"
        )


def _batch(config: DictConfig) -> float:
    """Count the samples behind one step of the optimiser, on all devices together."""
    accumulated = _number(config, "trainer.accumulate_grad_batches", 1)
    return _number(config, "data.batch_size", 1) * accumulated


def _number(config: DictConfig, key: str, default: float) -> float:
    value = OmegaConf.select(config, key)
    return default if value is None else float(value)


def _batch_norm(config: DictConfig, reference: DictConfig) -> Iterator[str]:
    ours, theirs = (c.features.get("norm") for c in (config, reference))
    if theirs == "frozen" and ours != theirs:
        yield f"BatchNorm is not frozen (features.norm={word(ours)})"


def _scale(config: DictConfig, reference: DictConfig) -> Iterator[str]:
    ours, theirs = (OmegaConf.select(c, "flow.with_scale") for c in (config, reference))
    if ours is False and theirs is not False:
        yield "no scale field (flow.with_scale=false)"


def _features(config: DictConfig, reference: DictConfig) -> Iterator[str]:
    """N from scratch; a resumed run does not say what it began with."""
    node: Any = config.features
    if "pretrained" not in node or node.get("pretrained") or node.get("checkpoint_path"):
        return
    # A first stage's weights are no cause to be silent: it began as this config says.
    given = starts(config, "features") and not OmegaConf.select(config, "first_stage.checkpoint")
    if not (given or config.resume):
        frozen = ", which frozen BatchNorm needs" if node.get("norm") == "frozen" else ""
        yield (
            "N begins with no weights (features.pretrained=false, features.checkpoint_path=null), "
            f"the figure's with those of ImageNet{frozen}"
        )


def _flow(config: DictConfig, reference: DictConfig) -> Iterator[str]:
    """F from scratch or from the warm-up; a resumed run does not say what it began with."""
    if "weights" not in config.flow or starts(config, "flow") or config.resume:
        return
    begun = "the warm-up's" if config.warmup else "no"
    yield (
        f"F begins with {begun} weights (flow.weights=null), the figure's with those of Flying "
        "Chairs"
    )
