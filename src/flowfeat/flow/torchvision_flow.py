"""RAFT from torchvision: the proof that any flow network plugs in."""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models import get_model

from flowfeat.flow.full_flow import FullFlow

LEAST = 128  # pixels per side: four levels of its correlation pyramid want 16 cells of 8 pixels
MULTIPLE = 8

WEIGHTS = "C_T_V2"  # Flying Chairs and Things; the one set that both models have

Model = Literal["raft_small", "raft_large"]


class RAFT(FullFlow):
    """RAFT on frames padded right and bottom (with their last pixels) to what it accepts.

    Args:
        channels: See :class:`FullFlow`.
        strides: See there.
        halve: See there.
        model: ``raft_small`` or ``raft_large``.
        pretrained: True for torchvision's weights of Flying Chairs and Things (C_T_V2), or their
            name; they are fetched. Else random.
        updates: Iterations of its recurrent unit. Its authors take 12; for features at stride 16
            few do, and each costs a fifth of the rest.

    Raises:
        ValueError: An unknown model or unknown weights; no updates.
        FileNotFoundError: Weights that cannot be fetched.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        halve: bool = True,
        model: Model = "raft_small",
        pretrained: bool | str | None = False,
        updates: int = 4,
    ) -> None:
        super().__init__(channels, strides, halve)
        if model not in get_args(Model):
            raise ValueError(f"flow.model={model!r}: expected one of {', '.join(get_args(Model))}")
        if updates < 1:
            raise ValueError(f"flow.updates={updates}: expected at least 1")
        self.updates = updates
        weights = WEIGHTS if pretrained is True else pretrained or None
        try:
            self.network = get_model(model, weights=weights, progress=False)
        except KeyError as error:
            raise ValueError(
                f"flow.pretrained={pretrained}: {model} has no such weights, expected true "
                f"({WEIGHTS}), false or a name of torchvision's"
            ) from error
        except OSError as error:
            raise FileNotFoundError(
                f"flow.pretrained={pretrained}: cannot be fetched ({error}); without a network, "
                f"flow.weights=<the file {model}_{weights}-....pth of torchvision>"
            ) from error

    def displacement(self, current: Tensor, key: Tensor) -> Tensor:
        """Return the last iteration's flow."""
        height, width = current.shape[-2:]
        padding = (0, _accepted(width) - width, 0, _accepted(height) - height)
        frames = torch.cat((current, key)) * 2 - 1  # it wants -1 .. 1
        first, second = F.pad(frames, padding, mode="replicate").chunk(2)
        last: Tensor = self.network(first, second, num_flow_updates=self.updates)[-1]
        return last[..., :height, :width]


def torchvision_weights(content: object) -> dict[str, Tensor] | None:
    """Return torchvision's state dict of a RAFT under our names; None for anything else."""
    if not isinstance(content, Mapping) or "feature_encoder.convnormrelu.0.weight" not in content:
        return None
    return {f"network.{name}": value for name, value in content.items()}


def _accepted(side: int) -> int:
    return max(LEAST, -(-side // MULTIPLE) * MULTIPLE)
