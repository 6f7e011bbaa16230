"""RAFT from torchvision: the proof that any flow network plugs in."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models import get_model

from flowfeat.flow.full_flow import FullFlow

LEAST = 128  # pixels per side: four levels of its correlation pyramid want 16 cells of 8 pixels
MULTIPLE = 8

Model = Literal["raft_small", "raft_large"]


class RAFT(FullFlow):
    """RAFT on frames padded right and bottom (with their last pixels) to what it accepts.

    Args:
        channels: See :class:`FullFlow`.
        strides: See there.
        halve: See there.
        model: ``raft_small`` or ``raft_large``.
        pretrained: Weights of torchvision, by name (DEFAULT, C_T_V2, ...), which are fetched; None:
            random.
        updates: Iterations of its recurrent unit.

    Raises:
        ValueError: An unknown model or unknown weights; no updates.
        FileNotFoundError: Weights that cannot be fetched.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        halve: bool = False,
        model: Model = "raft_small",
        pretrained: str | None = None,
        updates: int = 12,
    ) -> None:
        super().__init__(channels, strides, halve)
        if model not in get_args(Model):
            raise ValueError(f"flow.model={model!r}: expected one of {', '.join(get_args(Model))}")
        if updates < 1:
            raise ValueError(f"flow.updates={updates}: expected at least 1")
        self.updates = updates
        try:
            self.network = get_model(model, weights=pretrained, progress=False)
        except KeyError as error:
            raise ValueError(
                f"flow.pretrained={pretrained}: {model} has no such weights"
            ) from error
        except OSError as error:
            raise FileNotFoundError(
                f"flow.pretrained={pretrained}: cannot be fetched ({error})"
            ) from error

    def displacement(self, current: Tensor, key: Tensor) -> Tensor:
        """Return the last iteration's flow."""
        height, width = current.shape[-2:]
        padding = (0, _accepted(width) - width, 0, _accepted(height) - height)
        frames = torch.cat((current, key)) * 2 - 1  # it wants -1 .. 1
        first, second = F.pad(frames, padding, mode="replicate").chunk(2)
        last: Tensor = self.network(first, second, num_flow_updates=self.updates)[-1]
        return last[..., :height, :width]


def _accepted(side: int) -> int:
    return max(LEAST, -(-side // MULTIPLE) * MULTIPLE)
