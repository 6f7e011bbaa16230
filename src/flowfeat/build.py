"""Config -> objects: what is known only from another part flows between the parts here."""

import inspect
from functools import partial
from typing import Any

from omegaconf import DictConfig

from flowfeat.interfaces import (
    FeatureNetwork,
    FlowNetwork,
    KeyFrameScheduler,
    TaskHead,
    TemporalModule,
)
from flowfeat.tasks.video_task import VideoTask
from flowfeat.trust import build


def build_data(config: DictConfig) -> Any:
    """Build the data module; the method's clip sampler goes into it.

    Returns:
        A LightningDataModule that is a flowfeat.interfaces.VideoData.
    """
    clip = build(config.clip, trust=config.trust)
    return build(config.data, trust=config.trust)(clip=clip, seed=config.seed)


def build_features(config: DictConfig) -> FeatureNetwork:
    """Build N_feat."""
    features: FeatureNetwork = build(config.features, trust=config.trust)
    return features


def build_flow(config: DictConfig, features: FeatureNetwork) -> FlowNetwork | None:
    """Build F for the trunk that it serves; None for `flow=none`."""
    if not config.flow:
        return None
    flow: FlowNetwork = build(config.flow, trust=config.trust)(
        channels=features.trunk_channels, strides=features.trunk_strides
    )
    return flow


def build_key_frames(
    config: DictConfig, features: FeatureNetwork, flow: FlowNetwork | None
) -> KeyFrameScheduler:
    """Build the schedule, with what it asks for by name: the flow's stride, its coarse channels."""
    schedule = build(config.key_frames, trust=config.trust)
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
    factory = build(config.temporal, trust=config.trust)
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
    """Build N_task for the features of what lies below it."""
    head: TaskHead = build(config.head, trust=config.trust)(
        channels=below.channels, strides=below.strides, num_classes=len(classes)
    )
    return head


def build_task(config: DictConfig, classes: tuple[str, ...]) -> VideoTask:
    """Build the LightningModule of a composed config for the data's classes."""
    features = build_features(config)
    head: TaskHead | None = None
    if features.split == 0:  # the head's convolutions run before the propagation
        head = build_head(config, features, classes)
        features.append(head.maps, head.map_channels)
        head.gets_maps = True
    temporal = build_temporal(config, features)
    head = head or build_head(config, temporal, classes)
    task: VideoTask = build(config.module, trust=config.trust)(
        temporal=temporal,
        head=head,
        classes=classes,
        optimization=build(config.optim, trust=config.trust),
    )
    return task
