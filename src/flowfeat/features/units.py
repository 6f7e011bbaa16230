"""A timm backbone as units that run one after the other, so that it can stop between them."""

from typing import NamedTuple

from timm.models import FeatureListNet
from torch import Tensor, nn

from flowfeat.features.timm_plan import channels_first, channels_last


class Unit(NamedTuple):
    """A block, a stage that cannot be taken apart, or a layer of the stem."""

    name: str  # "layer4.2", "stages_3", "conv1"
    module: nn.Module
    published: bool  # what it gives is one of the backbone's levels

    def within(self, stage: str) -> bool:
        """Say whether the unit belongs to a stage, by timm's name."""
        return self.name.partition(".")[0] == stage.replace(".", "_")


def units_of(network: nn.Module) -> list[Unit]:
    """List a backbone's units in the order in which they run.

    Raises:
        ValueError: A backbone whose modules do not run one after the other.
    """
    if not isinstance(network, FeatureListNet):
        raise ValueError(
            f"features: timm runs this backbone as one ({type(network).__name__}), so its first "
            "stages cannot run alone; expected one of stages in a row, like resnet, resnext, "
            "convnext or swin"
        )
    units = []
    for name, module in network.items():
        published = name in network.return_layers
        # Other containers than a plain Sequential may do more than to run their children.
        parts = list(module.named_children()) if type(module) is nn.Sequential else []
        if not parts:
            units.append(Unit(name, module, published))
        for index, (part, block) in enumerate(parts):
            units.append(Unit(f"{name}.{part}", block, published and index == len(parts) - 1))
    return units


def run_units(
    network: nn.Module, maps: Tensor, first: int, end: int | None = None
) -> tuple[Tensor, list[Tensor]]:
    """Run a backbone's units first .. end - 1.

    Args:
        network: A features_only network.
        maps: Frames (B, 3, H, W) for unit 0, else what the unit before ``first`` gave.
        first: Index among ``units_of``.
        end: None for the last.

    Returns:
        The last unit's maps (B, C, h, w), and the levels published on the way.
    """
    if first and channels_last(network):
        maps = maps.permute(0, 2, 3, 1)
    levels = []
    for unit in units_of(network)[first:end]:
        maps = unit.module(maps)
        if unit.published:
            levels.append(maps)
    return channels_first(network, [maps])[0], channels_first(network, levels)


def end_of_stage(network: nn.Module, stage: str) -> int:
    """Return the index of the first unit behind a stage; its maps must not be wanted as a level.

    Raises:
        ValueError: A backbone that cannot be parted, or publishes a level up to there.
    """
    units = units_of(network)
    end = max(index for index, unit in enumerate(units) if unit.within(stage)) + 1
    if any(unit.published for unit in units[:end]):
        raise ValueError(
            f"features.levels: expected levels behind {stage}, which runs on every frame"
        )
    return end
