"""Key frames where propagated results are expected to disagree with recomputed ones.

The idea is DVSNet's (Xu et al., CVPR 2018): a small network on the flow network's features predicts
the share of pixels with the same label. Its targets are the model's own results, without labels.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from flowfeat.interfaces import AgreementNetwork, Flow
from flowfeat.key_frames.adaptive import Adaptive


class Agreement(AgreementNetwork):
    """A 3x3 and a 1x1 convolution give a vote per cell, their mean the logit of the agreement.

    DVSNet's fully connected layers are bound to one size of the picture; votes are not. Gradients
    stop at the flow network's features: the schedule adapts to the model, not the other way round.

    Args:
        channels: Of ``Flow.coarse``.
        width: Channels between the convolutions.
    """

    def __init__(self, channels: int, width: int = 64) -> None:
        super().__init__()
        self.votes = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 1, 1),
        )

    def forward(self, coarse: Tensor) -> Tensor:
        """Average the votes."""
        votes: Tensor = self.votes(coarse.detach())
        return votes.float().mean((1, 2, 3))  # autocast's bfloat16 has steps of 1/256 near 1


@dataclass(frozen=True, kw_only=True)
class Learned(Adaptive):
    """The change is the predicted disagreement, 1 - agreement (0..1).

    Args:
        coarse_channels: Channels of ``Flow.coarse``.
        width: Of :class:`Agreement`.
        agreement: Made here; given where a schedule is copied with another setting.

    Raises:
        ValueError: A flow without coarse features.
    """

    coarse_channels: int
    width: int = 64
    agreement: AgreementNetwork | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.coarse_channels < 1:
            raise ValueError(
                "key_frames=learned: this flow has no coarse features to learn from, expected "
                "flow=correlation or one of the flownets"
            )
        if self.agreement is None:
            object.__setattr__(self, "agreement", Agreement(self.coarse_channels, self.width))

    @property
    def network(self) -> AgreementNetwork | None:
        """Predicts the agreement."""
        return self.agreement

    def change(self, frames: Tensor, keys: Tensor, flow: Flow) -> Tensor:
        if flow.coarse is None or self.agreement is None:
            raise ValueError("key_frames=learned: this flow has no coarse features to decide by")
        return 1 - self.agreement(flow.coarse).sigmoid()
