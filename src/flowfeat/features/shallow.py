"""Run a timm backbone in two parts: its first stages, and the rest only where it is asked for."""

from timm.models import FeatureListNet
from torch import Tensor, nn

from flowfeat.features.timm_plan import channels_first, channels_last


def run_first(network: nn.Module, frames: Tensor, last: str) -> Tensor:
    """Run a backbone's modules up to the one named ``last`` (timm's name of a stage).

    Returns:
        Maps (B, C, h, w).

    Raises:
        ValueError: See :func:`_parted`.
    """
    maps = frames
    for module in _parted(network, last)[0].values():
        maps = module(maps)
    return channels_first(network, [maps])[0]


def run_rest(network: nn.Module, maps: Tensor, last: str) -> list[Tensor]:
    """Run the modules behind the one named ``last`` on its maps; return the published levels.

    Raises:
        ValueError: See :func:`_parted`.
    """
    levels = []
    if channels_last(network):
        maps = maps.permute(0, 2, 3, 1)
    for name, module in _parted(network, last)[1].items():
        maps = module(maps)
        if name in network.return_layers:  # type: ignore[operator]
            levels.append(maps)
    return channels_first(network, levels)


def _parted(network: nn.Module, last: str) -> tuple[dict[str, nn.Module], dict[str, nn.Module]]:
    """Return the modules up to ``last``, and those behind it.

    Raises:
        ValueError: A backbone whose modules do not run one after the other; one that publishes a
            level of its first part.
    """
    kind = type(network).__name__
    if not isinstance(network, FeatureListNet):
        raise ValueError(
            f"features: timm runs this backbone as one ({kind}), so its first stages cannot run "
            "alone; expected one of stages in a row, like resnet, resnext, convnext or swin"
        )
    names = list(network.keys())
    end = names.index(last.replace(".", "_")) + 1
    if any(name in network.return_layers for name in names[:end]):
        raise ValueError(
            f"features.levels: expected levels behind {last}, which runs on every frame"
        )
    parts = ({name: network[name] for name in some} for some in (names[:end], names[end:]))
    return next(parts), next(parts)
