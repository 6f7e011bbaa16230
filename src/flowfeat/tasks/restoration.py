"""Removal of compression artifacts: restored pictures, scored by PSNR beside their input's."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.functional.image import structural_similarity_index_measure

from flowfeat.batches import RestorationBatch
from flowfeat.drawing import picture_of
from flowfeat.heads.restoration import levels
from flowfeat.interfaces import TaskHead, TemporalModule
from flowfeat.metrics.image_quality import luma, psnr
from flowfeat.optimization import Optimization
from flowfeat.results import results_of
from flowfeat.tasks.preview import Preview
from flowfeat.tasks.video_task import VideoTask


class Reference(NamedTuple):
    """What a restored picture is held against; both (3, H, W), RGB in [0, 1]."""

    clean: Tensor
    degraded: Tensor


class RestorationTask(VideoTask):
    """Trains any temporal module that runs N_feat on every frame with a restoration head.

    Reports ``PSNR`` in dB on 8-bit RGB, no border cut off, the mean over the target frames; beside
    it ``PSNR_input``, that of the degraded frames themselves, ``PSNR_Y`` on BT.601 luma, and
    ``SSIM`` (Gaussian window of 11, sigma 1.5, mean over the three colours).

    Raises:
        ValueError: A method with key frames, which cannot gain anything here.
    """

    monitor = "PSNR"
    crf: int = 10  # of the video that `predict` writes: at 20 it would add artifacts of its own

    def __init__(
        self,
        temporal: TemporalModule,
        head: TaskHead,
        classes: tuple[str, ...],
        optimization: Optimization,
    ) -> None:
        if temporal.key_frames is not None:
            raise ValueError(_refusal(temporal, head))
        super().__init__(temporal, head, classes, optimization)
        # Doubles: a mean over thousands of pictures keeps its hundredths of a dB.
        names = ("PSNR", "PSNR_input", "PSNR_Y", "SSIM")
        self.metrics = nn.ModuleDict({n: MeanMetric().set_dtype(torch.float64) for n in names})

    def labels(self, batch: RestorationBatch) -> list[Tensor]:
        return batch["clean"]

    def truth(self, batch: RestorationBatch, step: int) -> list[Reference | None]:
        found: list[Reference | None] = []
        for b, steps in enumerate(batch["targets"].tolist()):
            clean = batch["clean"][b * len(steps) + steps.index(step)] if step in steps else None
            if clean is None:
                found.append(None)
                continue
            height, width = clean.shape[-2:]
            found.append(Reference(clean, batch["frames"][b, step, :, :height, :width]))
        return found

    def score(self, predictions: list[Tensor], truth: list[Reference | None]) -> None:
        for found, reference in zip(predictions, truth, strict=True):
            if reference is None:
                continue
            for name, value in scores(found, reference).items():
                self.metrics[name].update(value)  # type: ignore[operator]  # a MeanMetric

    @torch.no_grad()
    def preview(self, batch: RestorationBatch) -> Preview:
        """Show a target frame (else the last one): degraded, restored and clean."""
        clip, steps = batch["frames"][:1], batch["targets"][0].tolist()
        target = steps[-1] if steps else clip.shape[1] - 1
        is_key = torch.ones(clip.shape[:2], dtype=torch.bool)
        output = self.temporal(clip, is_key, torch.tensor([[target]]))
        found: Tensor = results_of(self.head, output, batch["sizes"][:1])[0]
        (reference,) = self.truth(batch, target)[:1]
        clean = torch.zeros_like(found) if reference is None else reference.clean
        caption = f"{batch['snippets'][0]}: frame {int(batch['indices'][0, target])}"
        if reference is not None:
            dB = {n: float(v) for n, v in scores(found, reference).items()}
            caption += f", {dB['PSNR_input']:.2f} dB restored to {dB['PSNR']:.2f} dB"
        return Preview(
            key=None,
            current=clip[0, target, :, : found.shape[-2], : found.shape[-1]],
            displacement=None,
            predicted=_picture(found),
            truth=picture_of(clean),
            caption=caption,
        )

    def to_original(self, predictions: Tensor, scale: Tensor) -> Tensor:
        """Return the picture itself.

        Raises:
            ValueError: A video that was resized: the artifacts to remove are those of its pixels.
        """
        if bool((scale != 1).any()):
            raise ValueError(
                f"data: frames were resized by {scale[0]:.3g} x {scale[1]:.3g}, artifact removal "
                "works on the video's own pixels: expected data.short_side=null, long_side=null"
            )
        return predictions

    def describe(self, predictions: Tensor, least: float) -> dict[str, Any]:
        """Return ``size``, height and width: the picture itself is in the video."""
        return {"size": list(predictions.shape[-2:])}

    def render(
        self, picture: Any, predictions: Tensor, is_key: bool | None, threshold: float
    ) -> Any:
        """Return the restored picture (H, W, 3), for `predict`."""
        return _picture(predictions)


def scores(found: Tensor, reference: Reference) -> dict[str, Tensor]:
    """Score one restored picture (3, H, W) u8, and its input."""
    clean, degraded = levels(reference.clean), levels(reference.degraded)
    similarity = structural_similarity_index_measure(
        found[None].float(), clean[None].float(), data_range=255.0
    )
    if not isinstance(similarity, Tensor):
        raise TypeError("SSIM: expected one value")
    return {
        "PSNR": psnr(found, clean),
        "PSNR_input": psnr(degraded, clean),
        "PSNR_Y": psnr(luma(found), luma(clean)),
        "SSIM": similarity,
    }


def _picture(levels: Tensor) -> NDArray[np.uint8]:
    return levels.permute(1, 2, 0).contiguous().cpu().numpy()


def _refusal(temporal: TemporalModule, head: TaskHead) -> str:
    """Say in one line why key frames do not fit, with the best s that they could give."""
    name = f"method: {type(temporal).__name__} does not fit artifact removal"
    fitting = "expected a method without key frames, as per_frame or off"
    if temporal.carries == "results":
        return f"{name}: every frame has artifacts of its own; {fitting}"
    once, every = _convolutions(temporal.parts()["features"]), _convolutions(head)
    # Eq. 7 tends to 1 / r, and r of Eq. 5 is at least the head's share. Every layer works on every
    # pixel, so shares of the weights are shares of the operations.
    rest, all_work = (sum(m.weight.numel() for m in some) for some in (every, [*once, *every]))
    return (
        f"{name}: {len(every)} of {len(once) + len(every)} convolutions would run on every frame, "
        f"so that s < {all_work / rest:.2f} even if the flow were free (DnCNN: 17 of 20, s < 1.13)"
        f"; {fitting}"
    )


def _convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [m for m in module.modules() if isinstance(m, nn.Conv2d)]
