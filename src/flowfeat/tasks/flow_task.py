"""Train a flow network alone on pairs whose true flow is known."""

from collections.abc import Sequence
from typing import Any, TypedDict

import pytorch_lightning as pl
from torch import Tensor
from torch.nn import functional as F

from flowfeat.interfaces import FlowNetwork
from flowfeat.optimization import Optimization


class FlowBatch(TypedDict):
    """Pairs with their true flow."""

    current: Tensor  # (B, 3, H, W) RGB in [0, 1]
    key: Tensor  # (B, 3, H, W)
    flow: Tensor  # (B, 2, H, W), (dx, dy) in pixels, current -> key
    valid: Tensor  # (B, H, W) bool: where the flow is known and its match visible


class FlowTask(pl.LightningModule):
    """Multi-scale end-point-error loss on ``FlowNetwork.pyramid``, as FlowNet is trained.

    Args:
        flow: The network to train, in place.
        optimization: How.
        weights: Weight per scale, coarse to fine.
        halve: Halve frames and flow first, which is the size at which DFF runs the flow network.
    """

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

    def prepare(self, batch: FlowBatch) -> FlowBatch:
        """Halve a batch as the flow network halves its input, if asked to."""
        if not self.halve:
            return batch
        known = batch["valid"][:, None].float()
        share = F.avg_pool2d(known, 2, ceil_mode=True)
        flow = F.avg_pool2d(batch["flow"] * known, 2, ceil_mode=True) / share.clamp(min=1e-6)
        return FlowBatch(
            current=F.avg_pool2d(batch["current"], 2, ceil_mode=True),
            key=F.avg_pool2d(batch["key"], 2, ceil_mode=True),
            flow=flow / 2,
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

    def validation_step(self, batch: FlowBatch, batch_index: int) -> None:
        batch = self.prepare(batch)
        size = batch["flow"].shape[-2:]
        finest = self.flow.pyramid(batch["current"], batch["key"])[-1]
        full = F.interpolate(finest, size=size, mode="bilinear", align_corners=False)
        known = batch["valid"].float()
        zero = batch["flow"].norm(dim=1)
        error = (full - batch["flow"]).norm(dim=1)
        for name, value in (("EPE", error), ("EPE_zero", zero)):
            mean = (value * known).sum() / known.sum().clamp(min=1)
            self.log(name, mean, sync_dist=True, batch_size=len(full), prog_bar=True)

    def configure_optimizers(self) -> Any:
        total = int(self.trainer.estimated_stepping_batches)
        optimizer, scheduler = self.optimization.configure({"flow": self.flow}, total)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


def _pooled(flow: Tensor, valid: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Average the known flow over each cell of a coarser grid; values stay in input pixels."""
    known = valid[:, None].to(flow.dtype)
    size = (like.shape[-2], like.shape[-1])
    share = F.adaptive_avg_pool2d(known, size)
    mean = F.adaptive_avg_pool2d(flow * known, size) / share.clamp(min=1e-6)
    return mean, (share[:, 0] > 0.5).to(flow.dtype)
