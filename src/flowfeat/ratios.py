"""1/r of Eq. 6 for feature networks times flow networks, by FLOPs on the meta device (Table 2)."""

from collections.abc import Sequence

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from flowfeat.build import flow_factory
from flowfeat.cli import CONFIGS
from flowfeat.interfaces import FeatureNetwork
from flowfeat.metering import count_flops
from flowfeat.speed import PartCosts
from flowfeat.trust import build

TABLE_2 = {
    ("resnet50", "flownet"): 9.20,
    ("resnet50", "flownet_half"): 33.56,
    ("resnet50", "flownet_inception"): 68.97,
    ("resnet101", "flownet"): 12.71,
    ("resnet101", "flownet_half"): 46.30,
    ("resnet101", "flownet_inception"): 95.24,
}
"""The paper's 1/r, by the names of our config leaves."""

RANDOM = {"pretrained": False, "checkpoint_path": None}
"""Arguments of networks that would fetch weights, and what leaves them random."""


def leaves(group: str) -> dict[str, DictConfig]:
    """Return the choices of a config group that name code, by name."""
    nodes = {path.stem: OmegaConf.load(path) for path in sorted((CONFIGS / group).glob("*.yaml"))}
    return {
        name: node
        for name, node in nodes.items()
        if isinstance(node, DictConfig) and "_target_" in node
    }


def leaf_name(group: str, node: DictConfig) -> str | None:
    """Return the choice of a group that equals this node; None if it was changed."""
    wanted = OmegaConf.to_container(node, resolve=True)
    for name, leaf in leaves(group).items():
        if OmegaConf.to_container(leaf) == wanted:
            return name
    return None


def random_weights(network: DictConfig) -> DictConfig:
    """Return the config of a feature or flow network that neither fetches nor reads weights."""
    kept = {key: value for key, value in RANDOM.items() if key in network}
    changed = OmegaConf.merge(network, kept)
    if not isinstance(changed, DictConfig):
        raise ValueError(f"features, flow: expected a mapping, found {type(changed).__name__}")
    return changed


def paper_ratio(features: DictConfig, network: nn.Module, flow: DictConfig) -> float | None:
    """Return the paper's 1/r where the networks are those of its Table 2, else None."""
    if not isinstance(network, FeatureNetwork):
        return None
    if network.trunk_strides != (16,) or network.trunk_channels != (1024,):
        return None
    name = leaf_name("flow", flow)
    return None if name is None else TABLE_2.get((str(features.get("model")), name))


def meta_features(node: DictConfig, trust: Sequence[str] = ()) -> FeatureNetwork:
    """Build N_feat without memory for its weights."""
    with torch.device("meta"):
        network: FeatureNetwork = build(random_weights(node), trust=trust)
    return network.eval()


def features_flops(network: FeatureNetwork, size: tuple[int, int]) -> float:
    """Count N_feat on a frame of H by W; the network lies on the meta device."""
    frames = torch.empty(1, 3, *size, device="meta")
    return count_flops(lambda: network.trunk(frames))


def flow_flops(
    node: DictConfig, features: FeatureNetwork, size: tuple[int, int], trust: Sequence[str] = ()
) -> float | None:
    """Count F with its scale field on frames of H by W; None for a flow without weights."""
    with torch.device("meta"):
        flow = flow_factory(node, trust)(
            channels=features.trunk_channels, strides=features.trunk_strides
        )
        frames = torch.empty(1, 3, *size)
    if not any(True for _ in flow.parameters()):
        return None
    return count_flops(lambda: flow.eval()(frames, frames))


def inverse_ratios(
    features: Sequence[str], size: tuple[int, int], trust: Sequence[str] = ()
) -> dict[tuple[str, str], float]:
    """Return 1/r of Eq. 6 for the named feature networks and every flow network of the configs.

    Args:
        features: Choices of the group `features`.
        size: Height, width of the frames.
        trust: Packages that the leaves may name beside ours.

    Raises:
        ValueError: An unknown choice.
    """
    known, flows = leaves("features"), leaves("flow")
    ratios = {}
    for name in features:
        if name not in known:
            raise ValueError(f"features={name}: unknown choice, expected one of {', '.join(known)}")
        network = meta_features(known[name], trust)
        cost = features_flops(network, size)
        for flow, node in flows.items():
            flow_cost = flow_flops(node, network, size, trust)
            if flow_cost is not None:
                ratios[name, flow] = cost / flow_cost
    return ratios


def best_flow(
    flops: PartCosts,
    features: FeatureNetwork,
    size: tuple[int, int],
    interval: int,
    trust: Sequence[str] = (),
) -> tuple[str, float]:
    """Find the flow network of the configs with the largest s of Eq. 7, all else unchanged.

    Args:
        flops: Of the method's parts now.
        features: Its feature network, on the meta device.
        size: Height, width of the frames.
        interval: l.
        trust: Packages that the leaves may name beside ours.

    Returns:
        The name of its leaf, and s.
    """
    speedups = {}
    for name, node in leaves("flow").items():
        cost = flow_flops(node, features, size, trust)
        if cost is not None:
            speedups[name] = flops.with_flow(cost).speedup(interval)
    best = max(speedups, key=lambda name: speedups[name])
    return best, speedups[best]
