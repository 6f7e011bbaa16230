"""Where N_feat ends and N_task begins (section 5.2, Table 5), counted in layers or by a block."""

from typing import Any, NamedTuple

import timm
import torch
from torch import nn

from flowfeat.features.units import Unit, run_units, units_of

SIDE = 256  # of the frame on which the trunk is measured, at least


class Split(NamedTuple):
    """What of the feature network runs on every frame."""

    first: int | None  # the backbone's units from here on; None: none of them
    late: bool  # the reduction


def find_split(network: nn.Module, split: int | str, reductions: int) -> Split:
    """Find the split point.

    Args:
        network: The backbone.
        split: Layers with weights in N_task, or the name of the unit that it begins with. 0 and 1
            leave the whole feature network in the trunk, 2 all but the reduction; with a
            bottleneck ResNet, 5 is the reduction and conv5c, 12 conv5a and conv5b too, 21 three
            more units of conv4.
        reductions: Layers of the reduction, 1, or 0 without.

    Raises:
        ValueError: No such split point, with those that there are.
    """
    if split in (0, 1) and not isinstance(split, bool):
        return Split(None, False)
    if split == 2 and reductions:
        return Split(None, True)
    try:
        units = units_of(network)
    except ValueError as error:
        whole = "0, 1 or 2" if reductions else "0 or 1"
        raise ValueError(f"features.split={split}: expected {whole} ({error})") from error
    found = _layers(units, 1 + reductions) | _names(units)
    if isinstance(split, bool) or split not in found:
        counts = [0, 1, *([2] if reductions else []), *(k for k in found if isinstance(k, int))]
        names = [k for k in found if isinstance(k, str)]
        raise ValueError(
            f"features.split={split}: expected one of {', '.join(map(str, counts))} layers, or the "
            f"block that N_task begins with, one of {', '.join(names)}"
        )
    first = found[split]
    if any(unit.published for unit in units[:first]):
        raise ValueError(
            f"features.split={split}: expected levels behind {units[first - 1].name} only, "
            "found one before (features.levels)"
        )
    return Split(first, True)


def _layers(units: list[Unit], own: int) -> dict[int | str, int]:
    """Return the first unit of N_task by its number of layers, as far as blocks reach back."""
    found: dict[int | str, int] = {}
    layers = own
    for index in range(len(units) - 1, 0, -1):
        if "." not in units[index].name:
            break
        layers += sum(isinstance(m, nn.Conv2d) for m in units[index].module.modules())
        found[layers] = index
    return found


def _names(units: list[Unit]) -> dict[int | str, int]:
    """Return the units by name, and the stages by their first unit; not those of the stem."""
    found: dict[int | str, int] = {}
    for index, unit in enumerate(units[1:], start=1):
        stage = unit.name.partition(".")[0]
        if any(isinstance(m, nn.Conv2d | nn.Linear) for m in unit.module.modules()):
            found.setdefault(stage, index)
            found.setdefault(unit.name, index)
    return found


def measure_trunk(
    model: str, arguments: dict[str, Any], first: int, multiple: int
) -> tuple[int, int]:
    """Return channels and stride of what the units before ``first`` give, without running them."""
    side = -(-SIDE // multiple) * multiple
    with torch.device("meta"):
        network = timm.create_model(model, **arguments).eval()
        maps, _ = run_units(network, torch.empty(1, 3, side, side), 0, first)
    return maps.shape[1], round(side / maps.shape[2])
