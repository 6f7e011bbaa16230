"""Where the 8 bits of bfloat16 are too few: positions, comparisons, sums."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context in which nothing is cast; the meta device knows no casts to turn off."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)
