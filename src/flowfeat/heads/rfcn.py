"""R-FCN: region proposals from half of the channels, position-sensitive votes from the rest."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flowfeat.heads.anchors import anchor_shapes, grid_anchors
from flowfeat.heads.assignment import assign_rois, draw
from flowfeat.heads.box_coding import clip, decode
from flowfeat.heads.detection_losses import anchor_losses, roi_losses
from flowfeat.heads.proposals import best_boxes, inside_cells, propose, suppress
from flowfeat.heads.steady_shapes import best_survivors, detect_padded
from flowfeat.interfaces import Detections, Features, TaskHead
from flowfeat.ops.position_sensitive import Corners, position_sensitive_vote
from flowfeat.ops.upload import upload

Candidates = tuple[Tensor, Tensor, Tensor, Tensor, tuple[int, int], Sequence[float], int]
"""What ``best_boxes`` wants of one picture."""


class RFCNMaps(NamedTuple):
    """What the convolutions give, on the grid of the last feature level; A anchors per cell."""

    objectness: Tensor  # (B, 2 A, h, w), channel: (background, object) x anchor
    deltas: Tensor  # (B, 4 A, h, w), channel: anchor x (dx, dy, dw, dh)
    scores: Tensor  # (B, k^2 (C + 1), h, w), channel: bin x class, class 0 is the background
    boxes: Tensor  # (B, 4 k^2, h, w), channel: bin x (dx, dy, dw, dh), for all classes


class DetectionLabels(NamedTuple):
    """The truth about B pictures; an entry per picture."""

    boxes: list[Tensor]  # (G, 4) xyxy, half-open, network pixels; G = 0 is fine
    labels: list[Tensor]  # (G,) i64, 0 .. num_classes - 1
    sizes: Tensor  # (B, 2), height and width of the pictures inside the padding
    seeds: Tensor  # (B,) i64, seed of each picture's draws


class RFCN(TaskHead):
    """Detect objects as in R-FCN, with the channel split of Deep Feature Flow, section 4.

    The first half of the last level's channels feeds the region proposal network (two sibling 1x1
    convolutions, no 3x3), the second half the k x k position-sensitive score and box maps. A vote
    averages k^2 bins, so one bin's gradient is k^2 times smaller than a plain classifier's: from
    scratch the head wants 10 to 30 times the backbone's learning rate, or a small k.

    Args:
        channels: Channels per level; the last is used and must be even.
        strides: Network pixels per cell, per level.
        num_classes: C, without background.
        k: Bins per side of a RoI.
        anchor_sizes: In network pixels.
        anchor_ratios: Height over width.
        anchor_border: In training, anchors that leave the picture by more than this many network
            pixels are ignored. None keeps all: at small sizes few anchors lie wholly inside.
        proposals: Proposals per picture, in training and testing.
        pre_nms: Boxes that enter the suppression of proposals.
        proposal_nms: IoU of the suppression of proposals.
        final_nms: IoU of the suppression per class.
        score_threshold: Detections score above it.
        max_detections: Per picture, over all classes.
        rpn_batch: Anchors per picture that learn, at most half of them objects.
        roi_batch: RoIs per picture that learn.
        ohem: Learn from the roi_batch RoIs of the largest loss, instead of a seeded draw.
        roi_foreground: Largest share of foreground in that draw.
        rpn_std: Divisors of the RPN's box targets.
        roi_std: Divisors of the RoIs' box targets.
        corners: Rounding of RoI corners, see ``ops.position_sensitive.bin_edges``.
        foreground_prior: If given (0..1), biases start so that this share of anchors and RoIs is
            taken for objects: faster from scratch. None: all biases 0, as in the paper.

    Raises:
        ValueError: On an odd number of channels or a value out of range.
    """

    shapes: Tensor

    def __init__(
        self,
        channels: tuple[int, ...],
        strides: tuple[int, ...],
        num_classes: int,
        k: int = 7,
        anchor_sizes: Sequence[float] = (128, 256, 512),
        anchor_ratios: Sequence[float] = (0.5, 1, 2),
        anchor_border: float | None = 0.0,
        proposals: int = 300,
        pre_nms: int = 6000,
        proposal_nms: float = 0.7,
        final_nms: float = 0.3,
        score_threshold: float = 1e-4,
        max_detections: int = 300,
        rpn_batch: int = 256,
        roi_batch: int = 128,
        ohem: bool = False,
        roi_foreground: float = 0.25,
        rpn_std: Sequence[float] = (0.1, 0.1, 0.4, 0.4),
        roi_std: Sequence[float] = (0.1, 0.1, 0.2, 0.2),
        corners: Corners = "cells",
        foreground_prior: float | None = None,
    ) -> None:
        super().__init__()
        if channels[-1] % 2:
            raise ValueError(f"R-FCN halves the channels: {channels[-1]}, expected an even number")
        _check_counts(num_classes=num_classes, k=k, proposals=proposals, pre_nms=pre_nms)
        _check_counts(max_detections=max_detections, rpn_batch=rpn_batch, roi_batch=roi_batch)
        _check_shares(proposal_nms=proposal_nms, final_nms=final_nms)
        _check_shares(score_threshold=score_threshold, roi_foreground=roi_foreground)
        self.stride, self.k, self.num_classes = strides[-1], k, num_classes
        self.anchor_border, self.proposals, self.pre_nms = anchor_border, proposals, pre_nms
        self.proposal_nms, self.final_nms = proposal_nms, final_nms
        self.score_threshold, self.max_detections = score_threshold, max_detections
        self.rpn_batch, self.roi_batch, self.ohem = rpn_batch, roi_batch, ohem
        self.roi_foreground, self.corners = roi_foreground, corners
        self.rpn_std, self.roi_std = tuple(rpn_std), tuple(roi_std)
        self.register_buffer("shapes", anchor_shapes(anchor_sizes, anchor_ratios), persistent=False)

        half, anchors = channels[-1] // 2, self.shapes.shape[0]
        self.objectness = nn.Conv2d(half, 2 * anchors, 1)
        self.deltas = nn.Conv2d(half, 4 * anchors, 1)
        self.scores = nn.Conv2d(half, k * k * (num_classes + 1), 1)
        self.boxes = nn.Conv2d(half, 4 * k * k, 1)
        self._initialise(foreground_prior)

    def _initialise(self, foreground_prior: float | None) -> None:
        for convolution in (self.objectness, self.deltas, self.scores, self.boxes):
            nn.init.normal_(convolution.weight, std=0.01)
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
            self.map_channels = (*self.map_channels, convolution.out_channels)
        if foreground_prior is None:
            return
        if not 0 < foreground_prior < 1:
            raise ValueError(f"foreground_prior={foreground_prior}: expected 0..1, both excluded")
        odds = (1 - foreground_prior) / foreground_prior
        with torch.no_grad():
            self.objectness.bias.view(2, -1)[0] = math.log(odds)  # type: ignore[union-attr]
            per_bin = self.scores.bias.view(self.k**2, -1)  # type: ignore[union-attr]
            per_bin[:, 0] = math.log(odds * self.num_classes)

    def forward(self, features: Features, frames: Tensor) -> RFCNMaps:
        """Return the four maps; the frames are not needed."""
        return RFCNMaps(*(features if self.gets_maps else self.maps(features)))

    def maps(self, features: Features) -> Features:
        """Run the four convolutions, in the order of :class:`RFCNMaps`."""
        # Channels last: on the CPU a 1x1 convolution is then one matrix product, 2.5 times faster.
        region, votes = (
            half.contiguous(memory_format=torch.channels_last) for half in features[-1].chunk(2, 1)
        )
        return self.objectness(region), self.deltas(region), self.scores(votes), self.boxes(votes)

    def _anchors(self, raw: RFCNMaps) -> tuple[Tensor, Tensor, Tensor]:
        """Return objectness (B, N, 2) and deltas (B, N, 4) beside their anchors (N, 4)."""
        batch, _, height, width = raw.objectness.shape
        count = self.shapes.shape[0]
        objectness = raw.objectness.float().view(batch, 2, count, height, width)
        deltas = raw.deltas.float().view(batch, count, 4, height, width)
        return (
            objectness.permute(0, 3, 4, 2, 1).flatten(1, 3),
            deltas.permute(0, 3, 4, 1, 2).flatten(1, 3),
            grid_anchors(self.shapes.float(), self.stride, height, width),
        )

    def _inside(self, raw: RFCNMaps, picture: tuple[int, int]) -> Tensor:
        """Say (N,) which anchors stand on the picture, not on its padding."""
        height, width = raw.objectness.shape[-2:]
        return inside_cells(
            height, width, self.shapes.shape[0], picture, self.stride, raw.objectness.device
        )

    def _propose(
        self, raw: RFCNMaps, parts: tuple[Tensor, Tensor, Tensor], sizes: Tensor
    ) -> list[Tensor]:
        """Return the proposals (R, 4) of every picture."""
        return [
            propose(*entry, self.proposal_nms, self.proposals)
            for entry in self._candidates(raw, parts, sizes)
        ]

    def _candidates(
        self, raw: RFCNMaps, parts: tuple[Tensor, Tensor, Tensor], sizes: Tensor
    ) -> Iterator[Candidates]:
        """Yield the boxes of every picture, before the suppression."""
        objectness, deltas, anchors = parts
        for b, picture in enumerate(_pictures(sizes)):
            scores, inside = objectness[b, :, 1] - objectness[b, :, 0], self._inside(raw, picture)
            yield scores, deltas[b], anchors, inside, picture, self.rpn_std, self.pre_nms

    def _vote(self, maps: Tensor, rois: list[Tensor]) -> Tensor:
        """Pool the RoIs of all pictures, one after the other: (sum of R, channels / k^2)."""
        counts = torch.tensor([r.shape[0] for r in rois])
        owners = upload(torch.arange(len(rois)).repeat_interleave(counts), maps.device)
        return position_sensitive_vote(
            maps, torch.cat(rois), owners, self.k, self.stride, self.corners
        )

    @torch.no_grad()
    def postprocess(self, raw: RFCNMaps, sizes: Tensor) -> list[Detections]:
        """Return the detections of every picture: proposals, votes, suppression per class."""
        if raw.scores.device.type != "cpu":
            return self._postprocess_at_once(raw, sizes)
        return self._postprocess_exactly(raw, sizes)

    def _postprocess_at_once(self, raw: RFCNMaps, sizes: Tensor) -> list[Detections]:
        """Return the same in shapes that hold, for a device: the host asks it once, at the end."""
        candidates = self._candidates(raw, self._anchors(raw), sizes)
        proposals = []
        for entry in candidates:
            boxes, _, valid = best_boxes(*entry)
            proposals.append(best_survivors(boxes, valid, self.proposal_nms, self.proposals))
        rois = [each.boxes for each in proposals]
        shares = self._vote(raw.scores, rois).softmax(1)[:, 1:]
        decoded = decode(self._vote(raw.boxes, rois), torch.cat(rois), self.roi_std)
        counts = [r.shape[0] for r in rois]
        settings = (self.score_threshold, self.final_nms, self.max_detections)
        entries = zip(
            proposals, decoded.split(counts), shares.split(counts), _pictures(sizes), strict=True
        )
        found = [detect_padded(*entry, *settings) for entry in entries]
        answers = torch.stack([torch.stack((each.number, each.final.long())) for each in found])
        kept = answers.tolist()  # the one wait
        if not all(final for _, final in kept):
            return self._postprocess_exactly(raw, sizes)
        return [
            Detections(each.boxes[:count], each.scores[:count], each.labels[:count])
            for each, (count, _) in zip(found, kept, strict=True)
        ]

    def _postprocess_exactly(self, raw: RFCNMaps, sizes: Tensor) -> list[Detections]:
        """Return them picture by picture; on a device, the host waits for each size."""
        rois = self._propose(raw, self._anchors(raw), sizes)
        shares = self._vote(raw.scores, rois).softmax(1)[:, 1:]
        boxes = decode(self._vote(raw.boxes, rois), torch.cat(rois), self.roi_std)
        counts = [r.shape[0] for r in rois]
        return [
            self._detect(*entry)
            for entry in zip(
                boxes.split(counts), shares.split(counts), _pictures(sizes), strict=True
            )
        ]

    def _detect(self, boxes: Tensor, shares: Tensor, picture: tuple[int, int]) -> Detections:
        """Suppress boxes (R, 4) with class shares (R, C) of one picture, all classes at once."""
        boxes = clip(boxes, *picture)
        valid = (boxes[:, 2:] > boxes[:, :2]).all(1, keepdim=True)
        roi, label = ((shares > self.score_threshold) & valid).nonzero(as_tuple=True)
        scores, order = shares[roi, label].sort(descending=True, stable=True)
        boxes, label = boxes[roi[order]], label[order]
        kept = suppress(boxes, label, scores, self.final_nms, self.max_detections)
        return Detections(boxes[kept], scores[kept], label[kept])

    def loss(self, raw: RFCNMaps, labels: DetectionLabels) -> dict[str, Tensor]:
        """Return the four losses; each picture's depends on its own maps, truth and seed alone.

        Sums over the anchors (RoIs) that learn, divided by rpn_batch (roi_batch) however many those
        are, then the mean over pictures. Keys: rpn_objectness, rpn_boxes, detection_class,
        detection_boxes.
        """
        generators = [torch.Generator().manual_seed(seed) for seed in labels.seeds.tolist()]
        parts = self._anchors(raw)
        of_anchors = self._anchor_losses(raw, parts, labels, generators)
        proposals = self._propose(raw, parts, labels.sizes)
        of_rois = self._roi_losses(raw, proposals, labels, generators)
        names = ("rpn_objectness", "rpn_boxes", "detection_class", "detection_boxes")
        columns = (*zip(*of_anchors, strict=True), *zip(*of_rois, strict=True))
        return {name: torch.stack(c).mean() for name, c in zip(names, columns, strict=True)}

    def _anchor_losses(
        self,
        raw: RFCNMaps,
        parts: tuple[Tensor, Tensor, Tensor],
        labels: DetectionLabels,
        generators: list[torch.Generator],
    ) -> list[tuple[Tensor, Tensor]]:
        """Return objectness and box loss of every picture."""
        scores, deltas, anchors = parts
        losses = []
        for b, picture in enumerate(_pictures(labels.sizes)):
            usable = self._inside(raw, picture)
            if self.anchor_border is not None:
                height, width = picture
                end = upload(anchors.new_tensor([width, height], device="cpu"), anchors.device)
                end = end + self.anchor_border
                starts_inside = (anchors[:, :2] >= -self.anchor_border).all(1)
                usable = usable & starts_inside & (anchors[:, 2:] <= end).all(1)
            boxes = labels.boxes[b].to(anchors)
            settings = (boxes, self.rpn_std, self.rpn_batch, generators[b])
            losses.append(anchor_losses(scores[b], deltas[b], anchors, usable, *settings))
        return losses

    def _roi_losses(
        self,
        raw: RFCNMaps,
        proposals: list[Tensor],
        labels: DetectionLabels,
        generators: list[torch.Generator],
    ) -> list[tuple[Tensor, Tensor]]:
        """Return class and box loss of every picture."""
        truth = [boxes.to(proposals[0]) for boxes in labels.boxes]
        rois, assigned = [], []
        for b, boxes in enumerate(truth):
            candidates = torch.cat((proposals[b], boxes))
            assignment = assign_rois(candidates, boxes, labels.labels[b], positive=0.5)
            if not self.ohem:  # with OHEM, all RoIs are scored and the hardest learn
                share = self.roi_foreground
                drawn = draw(assignment.labels, self.roi_batch, share, generators[b])
                candidates, assignment = candidates[drawn], assignment.select(drawn)
            rois.append(candidates)
            assigned.append(assignment)
        counts = [r.shape[0] for r in rois]
        scores = self._vote(raw.scores, rois).split(counts)
        offsets = self._vote(raw.boxes, rois).split(counts)
        return [
            roi_losses(*entry, self.roi_std, self.roi_batch)
            for entry in zip(scores, offsets, rois, assigned, truth, strict=True)
        ]


def _pictures(sizes: Tensor) -> list[tuple[int, int]]:
    return [(int(height), int(width)) for height, width in sizes.tolist()]


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name}={count}: expected at least 1")


def _check_shares(**shares: float) -> None:
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name}={share}: expected 0..1")
