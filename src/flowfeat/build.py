"""Config -> objects: what is known only from another part flows between the parts here."""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from omegaconf import DictConfig, OmegaConf

from flowfeat.cli import CONFIGS, checked_seed
from flowfeat.interfaces import (
    FeatureNetwork,
    FlowNetwork,
    KeyFrameScheduler,
    TaskHead,
    TemporalModule,
)
from flowfeat.tasks.task import Task
from flowfeat.trust import build

NO_TEMPORAL = "override /temporal: none"
"""What the preset of a method without a temporal module says."""


def build_data(config: DictConfig) -> Any:
    """Build the data module; the method's clip sampler, if it has one, goes into it.

    Returns:
        A LightningDataModule, for videos one that is a flowfeat.batches.VideoData.

    Raises:
        ValueError: A method that the task cannot use, or data of another number of channels than
            the feature network's input.
    """
    check_pair(config)
    clip = {"clip": build(config.clip, "clip", trust=config.trust)} if config.clip else {}
    data = build(config.data, "data", trust=config.trust)(**clip, seed=checked_seed(config))
    _check_channels(config, data)
    return data


def _check_channels(config: DictConfig, data: Any) -> None:
    """See that N_feat takes what a segment of the data's modality has, where there are several."""
    given = getattr(getattr(data, "modality", None), "channels", None)
    if given is None:
        return
    wanted = config.features.get("in_channels", given)
    if given != wanted:
        raise ValueError(
            f"data.modality={config.data.modality} gives {given} channels, "
            f"features.in_channels={wanted}: expected the same (modality=<name> sets both in a "
            "training, a checkpoint keeps its own)"
        )


def check_pair(config: DictConfig) -> None:
    """See that the method has a temporal module where the task wants one, and only there.

    Raises:
        ValueError: An impossible pair of task and method, with the methods that are possible.
    """
    wanted = (
        "temporal"
        in inspect.signature(build(config.module, "module", trust=config.trust)).parameters
    )
    if wanted == bool(config.temporal):
        return
    presets = {p.stem: p.read_text() for p in sorted((CONFIGS / "method").glob("*.yaml"))}
    possible = [name for name, text in presets.items() if (NO_TEMPORAL not in text) == wanted]
    raise ValueError(
        f"method={config.method}: impossible for task {config.task}, "
        f"expected one of {', '.join(possible)}"
    )


def build_features(config: DictConfig) -> FeatureNetwork:
    """Build N_feat."""
    features: FeatureNetwork = build(config.features, "features", trust=config.trust)
    return features


def build_flow(config: DictConfig, features: FeatureNetwork) -> FlowNetwork | None:
    """Build F for the trunk that it serves; None for `flow=none`."""
    if not config.flow:
        return None
    return flow_factory(config.flow, config.trust)(
        channels=features.trunk_channels, strides=features.trunk_strides
    )


def flow_factory(node: DictConfig, trust: Sequence[str] = ()) -> Callable[..., FlowNetwork]:
    """Return what builds F; `flow.weights` is read later, by ``start_from``."""
    node = node.copy()
    OmegaConf.set_struct(node, False)
    node.pop("weights", None)
    factory: Callable[..., FlowNetwork] = build(node, "flow", trust=trust)
    return factory


def build_flow_alone(config: DictConfig) -> FlowNetwork:
    """Build F for pre-training: no features to serve, so no scale field.

    Raises:
        ValueError: `flow=none`.
    """
    if not config.flow:
        raise ValueError(f"flow=none: method {config.method} needs a flow network")
    factory = flow_factory(config.flow, config.trust)
    plain = {"with_scale": False} if "with_scale" in inspect.signature(factory).parameters else {}
    # Any grid will do: pre-training asks for the pyramid alone.
    return factory(channels=(1,), strides=(8,), **plain)


def build_key_frames(
    config: DictConfig, features: FeatureNetwork, flow: FlowNetwork | None
) -> KeyFrameScheduler:
    """Build the schedule, with what it asks for by name: the flow's stride, its coarse channels."""
    schedule = build(config.key_frames, "key_frames", trust=config.trust)
    if isinstance(schedule, partial):
        offered = {
            "stride": min(features.trunk_strides),
            "coarse_channels": 0 if flow is None else flow.coarse_channels,
        }
        wanted = inspect.signature(schedule).parameters
        schedule = schedule(**{k: v for k, v in offered.items() if k in wanted})
    built: KeyFrameScheduler = schedule
    return built


def build_temporal(config: DictConfig, features: FeatureNetwork | None = None) -> TemporalModule:
    """Build the method with the parts that it asks for by name.

    Args:
        config: The composed config.
        features: N_feat, if it is built already.

    Raises:
        ValueError: A part that the method needs and the config lacks, or the other way round.
    """
    factory = build(config.temporal, "temporal", trust=config.trust)
    features = features or build_features(config)
    flow = build_flow(config, features)
    offered = {
        "features": features,
        "flow": flow,
        "key_frames": build_key_frames(config, features, flow),
    }
    wanted = inspect.signature(factory).parameters
    if offered["flow"] is None and "flow" in wanted:
        raise ValueError(f"flow=none: method {config.method} needs a flow network")
    if offered["flow"] is not None and "flow" not in wanted:
        raise ValueError(f"flow: method {config.method} uses no flow network, expected flow=none")
    module: TemporalModule = factory(**{k: v for k, v in offered.items() if k in wanted})
    return module


def build_head(
    config: DictConfig, below: FeatureNetwork | TemporalModule, classes: tuple[str, ...]
) -> TaskHead:
    """Build N_task for the features of what lies below it, with what it asks for by name."""
    factory = build(config.head, "head", trust=config.trust)
    offered = {
        "channels": below.channels,
        "strides": below.strides,
        "num_classes": len(classes),
        "motion_levels": motion_levels(below),
    }
    wanted = inspect.signature(factory).parameters
    head: TaskHead = factory(**{k: v for k, v in offered.items() if k in wanted})
    return head


def motion_levels(below: FeatureNetwork | TemporalModule) -> int:
    """Count the levels that a method adds behind the feature network's last one.

    A method either hands on the feature network's levels, or gives the last of them and its own.
    """
    features = getattr(below, "features", None)
    if not isinstance(features, FeatureNetwork):
        return 0
    own = (features.channels, features.strides)
    return 0 if (below.channels, below.strides) == own else len(below.channels) - 1


def build_task(config: DictConfig, classes: tuple[str, ...]) -> Task:
    """Build the LightningModule of a composed config for the data's classes.

    Raises:
        ValueError: A method that the task cannot use; see also ``build_temporal``.
    """
    check_pair(config)
    factory = build(config.module, "module", trust=config.trust)
    optimization = build(config.optim, "optim", trust=config.trust)
    task: Task
    if not config.temporal:
        task = factory(flow=build_flow_alone(config), optimization=optimization)
        return task
    features = build_features(config)
    head: TaskHead | None = None
    if features.split == 0:  # the head's convolutions run before the propagation
        head = build_head(config, features, classes)
        features.append(head.maps, head.map_channels)
        head.gets_maps = True
    temporal = build_temporal(config, features)
    head = head or build_head(config, temporal, classes)
    task = factory(temporal=temporal, head=head, classes=classes, optimization=optimization)
    return task
