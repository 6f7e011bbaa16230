"""Build a timm backbone with its weights: random, fetched, or out of a file that must fit."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from flowfeat.features.first_layer import RGB, widen_first_layer
from flowfeat.finite import require_finite


def build_backbone(
    model: str,
    arguments: dict[str, Any],
    pretrained: bool,
    checkpoint_path: str | None,
    in_channels: int = RGB,
) -> nn.Module:
    """Build a features_only network.

    Args:
        model: Name of a timm model.
        arguments: For ``timm.create_model``.
        pretrained: Let timm fetch the weights.
        checkpoint_path: Take them from this file instead, which holds the whole model (with or
            without its classifier) under timm's names; older names go through timm's own filters.
        in_channels: Of its input. The weights are those of an RGB network in any case; see
            :func:`widen_first_layer`.

    Raises:
        FileNotFoundError: No such file, or weights that could not be fetched.
        ValueError: A file that holds something else, or another model.
    """
    if in_channels != RGB:
        wide = timm.create_model(model, **arguments, in_chans=in_channels)
        if pretrained or checkpoint_path is not None:
            widen_first_layer(build_backbone(model, arguments, pretrained, checkpoint_path), wide)
        return wide
    if checkpoint_path is not None:
        path = Path(checkpoint_path)
        weights = _read_weights(path)
        _compare_names(model, arguments, path, set(weights))
        overlay = {"state_dict": weights, "custom_load": False, "source": ""}  # "": no hub's
        try:
            return timm.create_model(
                model, pretrained=True, pretrained_cfg_overlay=overlay, **arguments
            )
        except (RuntimeError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{path}: not the weights of {model} ({reason})") from error
    if not pretrained:
        return timm.create_model(model, **arguments)
    try:
        return timm.create_model(model, pretrained=True, **arguments)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:80]
        raise FileNotFoundError(
            f"the weights of {model} could not be fetched ({type(error).__name__}: {reason}); use "
            "features.pretrained=false or features.checkpoint_path=<file>"
        ) from error


def _read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict, also one under ``state_dict`` or ``model``, without running any code."""
    if not path.is_file():
        raise FileNotFoundError(f"features.checkpoint_path={path}: no such file")
    content: Any
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, UnpicklingError, SafetensorError, EOFError) as error:
        raise ValueError(f"{path}: expected a file of weights ({type(error).__name__})") from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{path}: expected a dict of tensors, found {type(content).__name__}")
    require_finite(content, path)
    return content


def _compare_names(model: str, arguments: dict[str, Any], path: Path, names: set[str]) -> None:
    """Refuse what timm would load in part: its loader for cut networks only warns."""
    # None of these names a weight, and some whole networks do not take output_stride.
    cut = ("features_only", "out_indices", "output_stride")
    own = {k: v for k, v in arguments.items() if k not in cut}
    with torch.device("meta"):
        whole = set(timm.create_model(model, **own).state_dict())
        body = set(timm.create_model(model, **own | {"num_classes": 0}).state_dict())
    absent, unknown = sorted(body - names), sorted(names - whole)
    few = len(body & names) < len(body) / 2
    # A few old names on either side are what timm's filters translate.
    if few or bool(absent) != bool(unknown):
        example = f"without {absent[0]}" if absent else f"with {unknown[0]}"
        raise ValueError(f"{path}: not the weights of {model} ({example})")
