"""What a user would otherwise do: the per-frame network every l frames, its results moved."""

from torch import Tensor

from flowfeat.interfaces import (
    FeatureNetwork,
    FlowNetwork,
    KeyFrameScheduler,
    Motion,
    TemporalModule,
)
from flowfeat.metering import part
from flowfeat.ops.upload import upload
from flowfeat.temporal.hold import Hold


class Move(Hold):
    """Moves the boxes or labels of a key frame by a flow, cheap or not: see ``ops.move``.

    The flow is not trained; a scale field, which scales features, has no use here.
    """

    def __init__(
        self, features: FeatureNetwork, flow: FlowNetwork, key_frames: KeyFrameScheduler
    ) -> None:
        super().__init__(features, key_frames)
        self.flow = flow
        self.stride = min(features.trunk_strides)  # of the flow's grid

    def _moved_by(self, current: Tensor, key: Tensor, is_key: Tensor) -> Motion | None:
        if is_key.all():
            return None
        rows = upload((~is_key).nonzero().flatten(), current.device)
        with part("F"):
            moved = self.flow(current[rows], key[rows]).displacement
        still = moved.new_zeros(len(current), *moved.shape[1:])
        return Motion(still.index_copy(0, rows, moved), self.stride)

    def motion(self, current: Tensor, key: Tensor) -> Tensor:
        return self.flow(current, key).displacement

    def controls(self) -> dict[str, TemporalModule]:
        return {"copy": Hold(self.features, self.key_frames).train(self.training)}
