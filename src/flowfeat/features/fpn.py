"""N_feat of several levels: a timm backbone under a feature pyramid (Lin et al., CVPR 2017)."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torchvision.ops import FeaturePyramidNetwork

from flowfeat.features.timm_features import TimmFeatures
from flowfeat.interfaces import Features


class FPN(TimmFeatures):
    """Levels of one width, the coarsest first: heads use the last one, which knows all the others.

    Args:
        model: Name of a timm model.
        levels: Levels of the backbone, fine to coarse.
        width: Channels of every level of the pyramid.
        stride: The coarsest stride allowed.
        split: As of :class:`TimmFeatures`, up to 2: the pyramid belongs to N_task, so that the
            backbone's own levels, the finest first, are propagated.
        **arguments: Of :class:`TimmFeatures`.

    Raises:
        ValueError: Another split; see also there.
    """

    def __init__(
        self,
        model: str = "resnet50",
        levels: Sequence[int] = (-3, -2, -1),
        width: int = 256,
        stride: int = 32,
        split: int | str = 1,
        **arguments: Any,
    ) -> None:
        if split not in (0, 1, 2) or isinstance(split, bool):
            raise ValueError(f"features.split={split}: expected 0, 1 or 2 layers under an FPN")
        if width < 1:
            raise ValueError(f"features.width={width}: expected at least 1")
        arguments |= {"reduce_to": None, "split": min(int(split), 1)}
        super().__init__(model, levels, stride, **arguments)
        self.split = split
        if split == 2:
            self._late, self._cut = True, (self.channels, self.strides)
        self.pyramid = FeaturePyramidNetwork(list(self.channels), width)
        self.channels = (width,) * len(self.channels)
        self.strides = self.strides[::-1]

    def _reduce(self, levels: list[Tensor]) -> Features:
        named = {str(index): level for index, level in enumerate(levels)}
        return tuple(self.pyramid(named).values())[::-1]
