"""R-FCN: a hand-made case with a known answer, losses by hand, seeds, and a tiny overfit."""

import math

import pytest
import torch
from torchvision.ops import box_iou

from flowfeat.heads.assignment import Assignment
from flowfeat.heads.detection_losses import roi_losses
from flowfeat.heads.rfcn import RFCN, DetectionLabels, RFCNMaps

LOSSES = {"rpn_objectness", "rpn_boxes", "detection_class", "detection_boxes"}


def head(**settings: object) -> RFCN:
    small = {"k": 3, "anchor_sizes": (24,), "anchor_ratios": (1,), "anchor_border": None}
    torch.manual_seed(0)
    return RFCN((16, 12), (4, 8), num_classes=2, **(small | settings))


def truth(*boxes: list[float], classes: tuple[int, ...] = (), seed: int = 0) -> DetectionLabels:
    return DetectionLabels(
        [torch.tensor(boxes).reshape(-1, 4)],
        [torch.tensor(classes).long()],
        torch.tensor([[64, 72]]),
        torch.tensor([seed]),
    )


def join(*labels: DetectionLabels) -> DetectionLabels:
    return DetectionLabels(
        [boxes for entry in labels for boxes in entry.boxes],
        [classes for entry in labels for classes in entry.labels],
        torch.cat([entry.sizes for entry in labels]),
        torch.cat([entry.seeds for entry in labels]),
    )


def hand_made() -> RFCNMaps:
    """Maps (8 x 9 cells of 8 pixels) that hold class 1 exactly in cells 3..5 x 4..6.

    Bin (i, j) of class 1 fires in cell (3 + i, 4 + j) alone, so that only the RoI of just these
    cells collects all nine votes. Class 0 fires with the bins in reverse: its cells are as bright,
    but only the bin in the middle finds them.
    """
    scores = torch.zeros(3, 3, 3, 8, 9)  # bin row, bin column, class, h, w
    for i in range(3):
        for j in range(3):
            scores[i, j, 2, 3 + i, 4 + j] = 9.0
            scores[2 - i, 2 - j, 1, 3 + i, 4 + j] = 9.0
    return RFCNMaps(
        torch.zeros(1, 2, 8, 9),
        torch.zeros(1, 4, 8, 9),
        scores.view(1, 27, 8, 9),
        torch.zeros(1, 36, 8, 9),
    )


BOX = [32.0, 24, 56, 48]  # cells 4..6 across and 3..5 down: the anchor of cell (4, 5)


def test_the_right_maps_give_exactly_the_right_box_and_class() -> None:
    (found,) = head(score_threshold=0.9).postprocess(hand_made(), torch.tensor([[64, 72]]))
    assert found.boxes.tolist() == [BOX]
    assert found.labels.tolist() == [1]
    # Votes: background 0, class 0 gets 1 of 9 bins (9 / 9 = 1), class 1 all of them (9).
    share = math.exp(9) / (math.exp(9) + math.exp(1) + 1)
    assert found.scores.item() == pytest.approx(share, abs=1e-6)


def test_box_votes_move_and_grow_the_box_by_the_known_amount() -> None:
    maps = hand_made()
    boxes = maps.boxes.view(9, 4, 8, 9)  # bin, offset
    boxes[:, 0] = 1.0  # dx: 1 x 0.1 x 24 = 2.4 pixels
    boxes[:, 3] = math.log(1.25) / 0.2  # height x 1.25: 24 -> 30
    (found,) = head(score_threshold=0.9).postprocess(maps, torch.tensor([[64, 72]]))
    expected = torch.tensor([[34.4, 21.0, 58.4, 51.0]])
    torch.testing.assert_close(found.boxes, expected, atol=1e-4, rtol=0)
    (found,) = head(score_threshold=0.9).postprocess(maps, torch.tensor([[50, 57]]))
    cut = torch.tensor([[34.4, 21.0, 57.0, 50.0]])
    torch.testing.assert_close(found.boxes, cut, atol=1e-4, rtol=0)


def test_rpn_channels_pick_their_anchor_and_offsets() -> None:
    rfcn = head(anchor_sizes=(24, 40), proposals=1, score_threshold=0.0)
    maps = hand_made()._replace(
        objectness=torch.zeros(1, 2, 2, 8, 9), deltas=torch.zeros(1, 2, 4, 8, 9)
    )
    maps.objectness[0, 1, 1, 4, 5] = 3.0  # object, second anchor, cell (4, 5): centre 44, 36
    maps.deltas[0, 1, 1, 4, 5] = 1.0  # dy: 0.1 x 40 = 4
    raw = maps._replace(objectness=maps.objectness.flatten(1, 2), deltas=maps.deltas.flatten(1, 2))
    (found,) = rfcn.postprocess(raw, torch.tensor([[64, 72]]))
    assert found.boxes.tolist() == [[24, 20, 64, 60]] * 2  # one proposal, both classes above 0


def test_suppression_is_per_class_and_detections_are_limited_and_sorted() -> None:
    torch.manual_seed(1)
    maps = RFCNMaps(*(torch.randn(2, c, 8, 9) for c in (2, 4, 27, 36)))
    sizes = torch.tensor([[64, 72], [40, 50]])
    for found, (height, width) in zip(head().postprocess(maps, sizes), sizes.tolist(), strict=True):
        assert (found.scores.diff() <= 0).all()
        assert found.boxes.min() >= 0
        assert (found.boxes.max(0).values <= torch.tensor([width, height] * 2)).all()
        overlap = box_iou(found.boxes, found.boxes).fill_diagonal_(0)
        same = found.labels[:, None] == found.labels
        assert overlap[same].max() <= 0.3 < overlap[~same].max()
    five = head(max_detections=5).postprocess(maps, sizes)[1]
    assert torch.equal(five.boxes, found.boxes[:5])


def test_a_padded_picture_is_detected_as_without_its_padding() -> None:
    torch.manual_seed(2)
    rfcn, features = head(), torch.randn(1, 12, 5, 7)
    padded = torch.randn(1, 12, 8, 9)
    padded[:, :, :5, :7] = features
    sizes, frames = torch.tensor([[40, 50]]), torch.zeros(1, 3, 64, 72)
    (alone,) = rfcn.postprocess(rfcn((features,), frames), sizes)
    (beside,) = rfcn.postprocess(rfcn((padded,), frames), sizes)
    torch.testing.assert_close(alone, beside)


def test_each_half_of_the_channels_feeds_its_own_branch() -> None:
    rfcn, features = head(), torch.randn(1, 12, 8, 9)
    changed = features.clone()
    changed[:, 6:] += 1
    before, after = (rfcn((None, f), torch.zeros(1)) for f in (features, changed))
    assert torch.equal(before.objectness, after.objectness)
    assert torch.equal(before.deltas, after.deltas)
    assert not torch.equal(before.scores, after.scores)
    assert not torch.equal(before.boxes, after.boxes)


def test_losses_by_hand() -> None:
    """One object on an anchor; one of 72 anchors is an object, and all maps are zero."""
    maps = RFCNMaps(*(torch.zeros(1, c, 8, 9) for c in (2, 4, 27, 36)))
    losses = head(rpn_batch=256, roi_batch=1000).loss(maps, truth(BOX, classes=(1,)))
    # IoU with the neighbours' anchors is 1/2 (ignored), diagonal 2/7 and beyond: background.
    assert losses["rpn_objectness"].item() == pytest.approx((72 - 4) * math.log(2) / 256, rel=1e-5)
    assert losses["rpn_boxes"].item() == 0
    # Foreground (IoU >= 1/2): the anchor, the object's own box, and four neighbours, each moved by
    # 8 of 24 pixels, an offset of 8 / 24 / 0.1 = 10 / 3 whose smooth L1 is 10 / 3 - 1 / 2.
    assert losses["detection_boxes"].item() == pytest.approx(4 * (10 / 3 - 0.5) / 1000, rel=1e-4)
    # 72 proposals, of which no two overlap by more than 2 / 3, and the object's own box.
    assert losses["detection_class"].item() == pytest.approx(73 * math.log(3) / 1000, rel=1e-5)


def test_border_option_leaves_out_anchors_that_leave_the_picture() -> None:
    maps = RFCNMaps(*(torch.zeros(1, c, 8, 9) for c in (2, 4, 27, 36)))
    inside = head(anchor_border=0).loss(maps, truth())["rpn_objectness"].item()
    # Centres 12 .. 52 down (6 of 8 rows) and 12 .. 60 across (7 of 9 columns) stay inside.
    assert inside == pytest.approx(6 * 7 * math.log(2) / 256, rel=1e-5)
    wide = head(anchor_border=8).loss(maps, truth())["rpn_objectness"].item()
    assert wide == pytest.approx(72 * math.log(2) / 256, rel=1e-5)


@pytest.mark.parametrize("ohem", [False, True])
def test_pictures_without_objects_train(ohem: bool) -> None:
    rfcn = head(ohem=ohem)
    maps = rfcn((torch.randn(2, 12, 8, 9),), torch.zeros(2, 3, 64, 72))
    losses = rfcn.loss(maps, join(truth(), truth(seed=1)))
    assert losses.keys() == LOSSES
    assert losses["rpn_boxes"] == losses["detection_boxes"] == 0
    assert losses["rpn_objectness"] > 0
    torch.stack(list(losses.values())).sum().backward()
    for parameter in rfcn.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
    assert rfcn.scores.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("ohem", [False, True])
def test_a_pictures_loss_depends_on_its_own_seed_alone(ohem: bool) -> None:
    rfcn = head(ohem=ohem, rpn_batch=20, roi_batch=12)
    features = torch.randn(3, 12, 8, 9)
    labels = (
        truth(BOX, [0, 0, 30, 30], classes=(1, 0), seed=5),
        truth(seed=6),
        truth([10, 10, 40, 60], classes=(0,), seed=7),
    )

    def losses(*which: int) -> torch.Tensor:
        maps = rfcn((features[list(which)],), torch.zeros(1))
        result = rfcn.loss(maps, join(*(labels[i] for i in which)))
        return torch.stack([result[name] for name in sorted(LOSSES)])

    alone = [losses(i) for i in range(3)]
    torch.testing.assert_close(losses(0, 1, 2), torch.stack(alone).mean(0))
    torch.testing.assert_close(losses(2, 0), (alone[0] + alone[2]) / 2)
    maps = rfcn((features[:1],), torch.zeros(1))
    other = rfcn.loss(maps, labels[0]._replace(seeds=torch.tensor([99])))
    assert other["rpn_objectness"] != alone[0][sorted(LOSSES).index("rpn_objectness")]


def test_hard_examples_are_the_largest_sums_of_both_losses() -> None:
    scores = torch.tensor([[0.0, 0], [4, 0], [0, 2], [0, 1]])
    labels, rois = torch.tensor([1, 0, 0, 1]), torch.tensor([[0.0, 0, 10, 10]]).repeat(4, 1)
    offsets = torch.zeros(4, 4)
    offsets[3, 0] = 7.0  # smooth L1: 6.5, on the last RoI
    assigned = Assignment(labels, torch.zeros(4).long())
    of_class, of_box = roi_losses(scores, offsets, rois, assigned, rois[:1], (1, 1, 1, 1), 2)
    # By class: log 2 = 0.69, 0.02, log(1 + e^2) = 2.13, log(1 + e^-1) = 0.31, which the box lifts.
    assert of_class.item() == pytest.approx((2.126928 + 0.313262) / 2, abs=1e-5)
    assert of_box.item() == pytest.approx(6.5 / 2)


def test_half_precision_maps_give_the_same_detections() -> None:
    maps = RFCNMaps(*(m.bfloat16() for m in hand_made()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (found,) = head(score_threshold=0.9).postprocess(maps, torch.tensor([[64, 72]]))
    assert found.boxes.tolist() == [BOX]
    assert found.scores.dtype == torch.float32


def test_prior_starts_with_the_share_that_was_asked_for() -> None:
    rfcn = head(foreground_prior=0.1)
    maps = rfcn((torch.zeros(1, 12, 8, 9),), torch.zeros(1))
    assert maps.objectness[0, :, 0, 0].softmax(0)[1].item() == pytest.approx(0.1, abs=1e-6)
    (found,) = rfcn.postprocess(maps, torch.tensor([[64, 72]]))
    torch.testing.assert_close(found.scores, torch.full_like(found.scores, 0.05))


def test_overfits_two_objects() -> None:
    torch.manual_seed(0)
    rfcn = head(k=3, rpn_batch=64, roi_batch=32)
    features = torch.randn(1, 12, 8, 9, requires_grad=True)
    boxes = ([6.0, 10, 28, 34], [38, 30, 66, 52])
    optimiser = torch.optim.Adam([features, *rfcn.parameters()], lr=0.05)
    for step in range(120):
        labels = truth(*boxes, classes=(1, 0), seed=step)
        total = torch.stack(list(rfcn.loss(rfcn((features,), features), labels).values())).sum()
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
    (found,) = rfcn.postprocess(rfcn((features,), features), torch.tensor([[64, 72]]))
    assert sorted(found.labels[:2].tolist()) == [0, 1]
    expected = torch.tensor([boxes[1 - int(label)] for label in found.labels[:2]])
    assert box_iou(found.boxes[:2], expected).diag().min() > 0.8
    assert found.scores[1] > 0.8
    assert (found.scores[2:] < 0.5).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"proposals": 0}, "proposals=0"),
        ({"final_nms": 1.5}, "final_nms=1.5"),
        ({"foreground_prior": 1.0}, "foreground_prior=1.0"),
        ({"anchor_sizes": ()}, "anchor_sizes"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        head(**settings)


def test_odd_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="7, expected an even number"):
        RFCN((7,), (8,), num_classes=2)
