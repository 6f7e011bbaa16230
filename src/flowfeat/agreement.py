"""How well propagated results agree with recomputed ones: what schedules learn, without labels."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou

from flowfeat.interfaces import Detections, Output, TaskHead, TemporalModule
from flowfeat.ops.upload import upload
from flowfeat.results import results_of
from flowfeat.temporal.key_memory import latest_keys

OVERLAP = 0.5  # IoU from which two boxes are one object


def agreement(ours: Any, theirs: Any) -> float:
    """Compare two results of one picture: 1 for the same, 0 for nothing in common.

    Label maps: the share of equal pixels, as in DVSNet. Detections: the F score of a greedy
    matching by label and IoU, in which each detection counts with its score.

    Raises:
        ValueError: Results of another kind.
    """
    if isinstance(ours, Detections) and isinstance(theirs, Detections):
        return _detections_agree(ours, theirs)
    if isinstance(ours, Tensor) and ours.ndim == 2:
        return float((ours == theirs).float().mean())
    raise ValueError(
        f"key_frames: cannot compare {type(ours).__name__}, only label maps and detections"
    )


def _detections_agree(ours: Detections, theirs: Detections) -> float:
    total = float(ours.scores.sum() + theirs.scores.sum())
    if total == 0:
        return 1.0
    overlaps = box_iou(ours.boxes.float(), theirs.boxes.float())
    same = ours.labels[:, None] == theirs.labels
    overlaps = torch.where(same, overlaps, 0.0).cpu()  # (N, M)
    lesser = torch.minimum(ours.scores[:, None], theirs.scores).cpu()
    matched = 0.0
    for row in range(len(overlaps) if overlaps.numel() else 0):  # best first
        overlap, column = overlaps[row].max(0)
        if overlap >= OVERLAP:
            matched += float(lesser[row, column])
            overlaps[:, column] = 0.0
    return 2 * matched / total


def agreement_loss(
    temporal: TemporalModule,
    head: TaskHead,
    clip: Tensor,
    is_key: Tensor,
    targets: Tensor,
    output: Output,
    sizes: Tensor,
) -> Tensor:
    """Teach a method's schedule what the agreement is at present; nothing else gets a gradient.

    Args:
        temporal: Its schedule has a network.
        head: N_task.
        clip: (B, T, 3, H, W).
        is_key: (B, T) bool.
        targets: (B, S).
        output: What the method gave for them.
        sizes: (B, 2).

    Returns:
        The cross-entropy, a scalar; 0 where every target is its own key frame.
    """
    moved = (~output.is_key).nonzero().flatten()  # of B * S
    if not len(moved):
        # Ranks that average gradients expect one of every part.
        idle = [p.sum() for p in temporal.parts()["schedule"].parameters()]
        return 0.0 * torch.stack(idle).sum()
    rows = upload(moved, clip.device)
    first = torch.arange(len(clip))[:, None] * clip.shape[1]
    keys = (first + latest_keys(is_key, targets)).flatten()[moved]
    current, key = output.frames[rows], clip.flatten(0, 1)[upload(keys, clip.device)]
    with torch.no_grad():
        each = sizes.repeat_interleave(targets.shape[1], dim=0)[moved]
        always = torch.ones(len(rows), 1, dtype=torch.bool)
        fresh = temporal(current[:, None], always, torch.zeros(len(rows), 1, dtype=torch.int64))
        features = tuple(level[rows] for level in output.features)
        propagated = Output(features, current, output.valid[rows], always[:, 0])
        found, again = results_of(head, propagated, each), results_of(head, fresh, each)
        pairs = zip(found, again, strict=True)
        truth = torch.tensor([agreement(a, b) for a, b in pairs], device=clip.device)
    # DVSNet regresses with squared errors; here cross-entropy, whose minimum is the same and whose
    # gradient does not vanish where the prediction saturates.
    expected = temporal.expected_agreement(current, key).float()
    return F.binary_cross_entropy_with_logits(expected, truth)
