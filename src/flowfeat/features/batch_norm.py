"""What becomes of a backbone's BatchNorm in tiny batches: frozen, synchronised or replaced."""

import math
from typing import Literal

from timm.layers.norm_act import convert_sync_batchnorm
from torch import nn

Norm = Literal["frozen", "train", "sync", "group"]
NORMS: tuple[Norm, ...] = ("frozen", "train", "sync", "group")


def convert_norm(network: nn.Module, norm: Norm, frozen_affine: bool) -> nn.Module:
    """Prepare the BatchNorm layers of a network; other normalisations stay as they are.

    Args:
        network: Any module; it may be changed in place.
        norm: ``frozen`` keeps the statistics that are loaded (with random weights these are mean 0
            and variance 1, that is, no normalisation: from scratch choose another), ``train``
            leaves BatchNorm alone, ``sync`` shares statistics between ranks (accelerators only,
            says torch), ``group`` puts GroupNorm in its place, which has no statistics.
        frozen_affine: Also freeze the scale and shift of BatchNorm layers that are ``frozen``.

    Returns:
        The network to use.

    Raises:
        ValueError: An unknown ``norm``.
    """
    if norm not in NORMS:
        raise ValueError(f"features.norm={norm!r}: expected one of {', '.join(NORMS)}")
    if norm == "sync":
        return convert_sync_batchnorm(network)
    if norm == "group":
        _replace_by_group_norm(network)
    if norm == "frozen" and frozen_affine:
        for layer in batch_norms(network):
            for parameter in layer.parameters(recurse=False):
                parameter.requires_grad_(False)
    return network


def batch_norms(network: nn.Module) -> list[nn.Module]:
    """List the BatchNorm layers of a network, those of timm with their activation included."""
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    return [module for module in network.modules() if isinstance(module, kinds)]


def groups_for(channels: int) -> int:
    """Choose GroupNorm's groups: at most 32, and where the count allows, of 4 channels or more."""
    return math.gcd(32, channels // 4 if channels % 4 == 0 else channels)


def _replace_by_group_norm(network: nn.Module) -> None:
    for name, child in network.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(network, name, _group_norm(child))
        else:
            _replace_by_group_norm(child)


def _group_norm(old: nn.BatchNorm2d) -> nn.Module:
    """Build the GroupNorm for one BatchNorm; scale and shift stay (some start at zero)."""
    channels = old.num_features
    new = nn.GroupNorm(groups_for(channels), channels, eps=old.eps, affine=old.affine)
    if old.affine:
        new.weight, new.bias = old.weight, old.bias
    # timm's BatchNormAct2d holds the drop-out and the activation that follow it.
    follow = [getattr(old, name) for name in ("drop", "act") if hasattr(old, name)]
    return nn.Sequential(new, *follow) if follow else new
