"""Weights that are numbers: which one is not, and the refusal of a file that holds it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def first_not_finite(weights: Mapping[str, Any]) -> str | None:
    """Return the name of the first tensor with a value that is infinite or not a number."""
    floats = {
        name: value
        for name, value in weights.items()
        if isinstance(value, Tensor) and value.is_floating_point()
    }
    if not floats:
        return None
    flags = [value.isfinite().all() for value in floats.values()]
    together = torch.stack([flag.to(flags[0].device) for flag in flags]).tolist()  # one wait
    return next((name for name, fine in zip(floats, together, strict=True) if not fine), None)


def require_finite(weights: Mapping[str, Any], path: str | Path) -> None:
    """Refuse the weights of a diverged training.

    Raises:
        ValueError: With the file and the first of the parameters.
    """
    name = first_not_finite(weights)
    if name is not None:
        raise ValueError(
            f"{path}: {name} is not finite (infinite or not a number), as a diverged training "
            "leaves it; expected finite weights, of an earlier checkpoint or another run"
        )
