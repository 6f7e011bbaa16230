"""Train a flow network alone on pairs whose true flow is known."""

import logging
from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowfeat.interfaces import FlowNetwork
from flowfeat.metrics.end_point_error import EndPointError
from flowfeat.optimization import Optimization
from flowfeat.tasks.task import Task

log = logging.getLogger(__name__)


class FlowBatch(TypedDict):
    """Pairs with their true flow."""

    current: Tensor  # (B, 3, H, W) RGB in [0, 1]
    key: Tensor  # (B, 3, H, W)
    flow: Tensor  # (B, 2, H, W), (dx, dy) in pixels, current -> key
    valid: Tensor  # (B, H, W) bool: where the flow is known and its match visible


class FlowTask(Task):
    """Multi-scale end-point-error loss on ``FlowNetwork.pyramid``, as FlowNet is trained.

    It reports ``EPE``, the mean end-point error in pixels at full size, and ``EPE_zero``, that of
    no motion at all. It warns of motion that the network cannot see, if its reach is limited.

    Args:
        flow: The network to train, in place.
        optimization: How.
        weights: Weight per scale, coarse to fine.
        halve: Halve frames and flow first, which is the size at which DFF runs the flow network.
    """

    monitor = "EPE"
    monitor_mode = "min"
    classes = ()

    def __init__(
        self,
        flow: FlowNetwork,
        optimization: Optimization,
        weights: Sequence[float] = (0.32, 0.08, 0.02, 0.01, 0.005),
        halve: bool = False,
    ) -> None:
        super().__init__()
        self.flow = flow
        self.optimization = optimization
        self.weights = tuple(weights)
        self.halve = halve
        self.metrics = nn.ModuleDict({"EPE": EndPointError(), "EPE_zero": EndPointError()})
        self._farthest: Tensor | None = None  # motion per axis, in pixels of what the network gets
        self.begin()

    def parts(self) -> dict[str, nn.Module]:
        """Return the one part, the flow network."""
        return {"flow": self.flow}

    def prepare(self, batch: FlowBatch) -> FlowBatch:
        """Halve a batch as the flow network halves its input, if asked to."""
        if not self.halve:
            return batch
        known = batch["valid"][:, None].float()
        share = F.avg_pool2d(known, 2, ceil_mode=True)
        total = F.avg_pool2d(_known(batch["flow"], batch["valid"]), 2, ceil_mode=True)
        return FlowBatch(
            current=F.avg_pool2d(batch["current"], 2, ceil_mode=True),
            key=F.avg_pool2d(batch["key"], 2, ceil_mode=True),
            flow=total / share.clamp(min=1e-6) / 2,
            valid=share[:, 0] > 0.5,
        )

    def loss(self, batch: FlowBatch) -> Tensor:
        """Return the weighted mean over scales of the mean end-point error, in pixels of the input.

        Raises:
            ValueError: A network with another number of scales than there are weights.
        """
        pyramid = self.flow.pyramid(batch["current"], batch["key"])
        if len(pyramid) > len(self.weights):
            raise ValueError(
                f"module.weights: expected {len(pyramid)} values, one per scale, "
                f"found {len(self.weights)}"
            )
        weights = self.weights[-len(pyramid) :]  # networks may predict the finest scales only
        total = batch["flow"].new_zeros(())
        for weight, predicted in zip(weights, pyramid, strict=True):
            truth, known = _pooled(batch["flow"], batch["valid"], predicted)
            error = (predicted - truth).norm(dim=1)
            total = total + weight * (error * known).sum() / known.sum().clamp(min=1)
        return total / sum(weights)

    def training_step(self, batch: FlowBatch, batch_index: int) -> Tensor:
        loss = self.loss(self.prepare(batch))
        self.log("flow_loss", loss.detach(), prog_bar=True, batch_size=len(batch["flow"]))
        return loss

    def on_validation_epoch_start(self) -> None:
        self.reset_metrics()
        self._farthest = None

    def validation_step(self, batch: FlowBatch, batch_index: int) -> None:
        batch = self.prepare(batch)
        truth, valid = batch["flow"], batch["valid"]
        farthest = _known(truth, valid).abs().amax()
        self._farthest = (
            farthest if self._farthest is None else torch.maximum(self._farthest, farthest)
        )
        predicted = self.predict(batch)
        for metric, flow in zip(
            self._each_metric(), (predicted, torch.zeros_like(truth)), strict=True
        ):
            metric.update(flow, truth, valid)

    def on_validation_epoch_end(self) -> None:
        for name, value in self.computed_metrics().items():
            self.log(name, value, prog_bar=True, sync_dist=False)
        self._warn_of_reach()

    def _warn_of_reach(self) -> None:
        """Say once an epoch how much farther things move than the network sees."""
        reach = self.flow.reach
        if reach is None or self._farthest is None or float(self._farthest) <= reach:
            return
        log.warning(
            f"flow: things move by up to {float(self._farthest):.0f} px, the network sees "
            f"{reach:.0f} px per axis (of the frames as it gets them); a larger flow.radius or "
            "flow.levels sees farther"
        )

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def predict(self, batch: FlowBatch) -> Tensor:
        """Return the finest displacement, enlarged to the pixels of the frames (B, 2, H, W)."""
        finest = self.flow.pyramid(batch["current"], batch["key"])[-1]
        size = batch["flow"].shape[-2:]
        return F.interpolate(finest, size=size, mode="bilinear", align_corners=False)


def _pooled(flow: Tensor, valid: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Average the known flow over each cell of a coarser grid; values stay in input pixels."""
    known = valid[:, None].to(flow.dtype)
    size = (like.shape[-2], like.shape[-1])
    share = F.adaptive_avg_pool2d(known, size)
    mean = F.adaptive_avg_pool2d(_known(flow, valid), size) / share.clamp(min=1e-6)
    return mean, (share[:, 0] > 0.5).to(flow.dtype)


def _known(flow: Tensor, valid: Tensor) -> Tensor:
    """Return a flow that is 0 where it is not known, whatever stood there: NaN times 0 is NaN."""
    return torch.where(valid[:, None], flow, 0.0)
