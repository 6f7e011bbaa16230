"""Input of other channels than RGB: the first convolution made from that of an RGB network."""

import copy
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

RGB = 3

Network = TypeVar("Network", bound=nn.Module)


def widen_first_layer(rgb: nn.Module, wide: nn.Module) -> None:
    """Give ``wide`` the weights of ``rgb``, the same network for 3 channels.

    The first layer's kernels are averaged over the 3 channels and repeated for all of its own
    (cross-modality initialisation; TSN, section 3.2), without a factor: on grey input its response
    is that of the RGB network times ``channels / 3``. (timm's ``in_chans`` repeats R, G, B and
    divides by that number.)

    Raises:
        ValueError: A first layer that is no plain convolution of the 3 channels.
    """
    ours, theirs = wide.state_dict(), rgb.state_dict()
    other = [name for name, value in ours.items() if value.shape != theirs[name].shape]
    for name in other:
        kernel, shape = theirs[name], ours[name].shape
        if kernel.ndim != 4 or kernel.shape[1] != RGB or len(shape) != 4:
            raise ValueError(
                f"features.in_channels: {name} has the shape {tuple(kernel.shape)}, expected a "
                "convolution of 3 channels, whose kernels can be averaged"
            )
        theirs[name] = kernel.mean(1, keepdim=True).expand(shape)
    wide.load_state_dict(theirs)


def average_first_layer(backbone: nn.Module, channels: int) -> None:
    """Let the first layer see other channels: its average over RGB for each (TSN)."""
    first = next(module for module in backbone.modules() if isinstance(module, nn.Conv2d))
    weight = first.weight.detach().mean(dim=1, keepdim=True).repeat(1, channels, 1, 1)
    first.weight = nn.Parameter(weight, requires_grad=first.weight.requires_grad)
    first.in_channels = channels


def copy_for_channels(features: Network, channels: int) -> Network:
    """Return a copy of an RGB network that takes other channels: as costly, of other results."""
    wide = copy.deepcopy(features)
    average_first_layer(wide, channels)
    for statistic in ("mean", "std"):
        if isinstance(value := getattr(wide, statistic, None), Tensor):
            setattr(wide, statistic, value.mean(0, keepdim=True))
    return wide


def input_statistics(
    in_channels: int,
    given: tuple[float | Sequence[float] | None, float | Sequence[float] | None],
    usual: tuple[Sequence[float], Sequence[float]],
) -> tuple[Tensor, Tensor]:
    """Return mean and deviation (in_channels, 1, 1) by which the network normalises its input.

    Args:
        in_channels: Channels of the input.
        given: What the config says: a number for all channels, one for each, or None.
        usual: The backbone's own for RGB in 0..1. Where no deviation is given for other channels,
            the mean of its three, as in TSN; a mean must be given.

    Raises:
        ValueError: A wrong number of values, a deviation that is not positive, or no mean for
            channels that are not RGB.
    """
    mean, std = given
    if mean is None and in_channels != RGB:
        raise ValueError(
            f"features.mean=null: expected a value for {in_channels} channels that are not RGB "
            "(0 for differences, 0.5 for flow)"
        )
    if std is None and in_channels != RGB:
        std = sum(usual[1]) / len(usual[1])
    wanted = {
        "mean": usual[0] if mean is None else mean,
        "std": usual[1] if std is None else std,
    }
    found = {}
    for name, value in wanted.items():
        numbers = [float(value)] if isinstance(value, int | float) else [float(v) for v in value]
        if len(numbers) not in (1, in_channels) or (name == "std" and min(numbers) <= 0):
            raise ValueError(
                f"features.{name}={value}: expected one number or {in_channels}"
                + (", above 0" if name == "std" else "")
            )
        found[name] = torch.tensor(numbers).view(-1, 1, 1).expand(in_channels, 1, 1).clone()
    return found["mean"], found["std"]
