"""The head against hand-made arithmetic: pooling, which levels are scored, losses, dropout."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from flowfeat.heads.recognition import Clips, Recognition

PYRAMID = {"channels": (4, 6), "strides": (8, 16), "num_classes": 3}
OFF = {"channels": (6, 4, 5), "strides": (16, 8, 16), "num_classes": 3, "motion_levels": 2}


def features(channels, seed=0, batch=2):
    draw = torch.Generator().manual_seed(seed)
    return tuple(torch.rand(batch, c, 5, 7, generator=draw) for c in channels)


def fresh(**arguments):
    torch.manual_seed(0)
    return Recognition(**arguments)


def by_hand(linear, maps):
    weight, bias = linear.weight.detach().numpy(), linear.bias.detach().numpy()
    return maps.numpy().mean((2, 3)) @ weight.T + bias


def test_a_pyramid_is_scored_by_its_last_level():
    head, levels = fresh(**PYRAMID), features((4, 6))
    (scores,) = head(levels, None)
    np.testing.assert_allclose(
        scores.detach().numpy(), by_hand(head.classifier, levels[1]), atol=1e-6
    )
    assert len(head.motion) == 0


def test_levels_that_a_method_adds_have_classifiers_of_their_own():
    head, levels = fresh(**OFF), features((6, 4, 5))
    scores = head(levels, None)
    for linear, maps, found in zip((head.classifier, *head.motion), levels, scores, strict=True):
        np.testing.assert_allclose(found.detach().numpy(), by_hand(linear, maps), atol=1e-6)


def test_the_finest_motion_level_is_pooled_by_its_maximum_first():
    plain, pooled = fresh(**OFF), fresh(**OFF, pool_finest=True)
    levels = features((6, 4, 5))
    own, finest, coarse = pooled.pool(levels)
    maxima = np.stack(  # windows of 3 from every second cell on; the last ones stick out
        [
            levels[1][:, :, y : y + 3, x : x + 3].amax((2, 3)).numpy()
            for y in range(0, 5, 2)
            for x in range(0, 7, 2)
            if y + 2 < 6 and x + 2 < 8
        ]
    )
    np.testing.assert_allclose(finest.numpy(), maxima.mean(0), atol=1e-6)
    for index, same in ((0, own), (2, coarse)):
        torch.testing.assert_close(same, plain.pool(levels)[index])


def test_one_picture_gets_the_scores_of_all_levels():
    head = fresh(**OFF)
    raw = head(features((6, 4, 5)), None)
    for row, result in enumerate(head.postprocess(raw, torch.tensor([[40, 56]] * 2))):
        torch.testing.assert_close(result.levels, torch.stack([level[row] for level in raw]))


def clips(known):
    return Clips(torch.tensor([2, 0]), torch.tensor(known))


def test_the_loss_is_the_cross_entropy_of_every_level_with_its_weight():
    head = fresh(**OFF, loss_weights=[0.6, 0.3, 0.9])
    raw = [torch.randn(2, 3, requires_grad=True) for _ in range(3)]
    losses = head.loss(raw, clips([[True] * 3] * 2))
    for level, (weight, scores) in enumerate(zip((0.6, 0.3, 0.9), raw, strict=True)):
        rows = scores.detach().double()
        each = [math.log(row.exp().sum()) - row[y] for row, y in zip(rows, (2, 0), strict=True)]
        assert losses[f"level_{level}"].item() == pytest.approx(weight * np.mean(each), rel=1e-5)


def test_a_level_that_says_nothing_about_a_clip_costs_nothing_there():
    head = fresh(**PYRAMID)
    scores = torch.randn(2, 3, requires_grad=True)
    loss = head.loss([scores], clips([[True], [False]]))["level_0"]
    assert loss.item() == pytest.approx(
        F.cross_entropy(scores[:1], torch.tensor([2])).item() / 2, rel=1e-5
    )
    loss.backward()
    assert scores.grad[0].abs().sum() > 0
    assert scores.grad[1].abs().sum() == 0


def test_frozen_levels_have_no_loss():
    head = fresh(**OFF)
    raw = [torch.randn(2, 3), torch.randn(2, 3, requires_grad=True), torch.randn(2, 3)]
    assert list(head.loss(raw, clips([[True] * 3] * 2))) == ["level_1"]


def test_dropout_is_a_clips_own():
    """Two clips of two steps: in any batch a clip drops the same, at the share asked for."""
    head = fresh(**PYRAMID, dropout=0.8)
    ones = torch.ones(4, 5000)
    (both,) = head.drop([ones], torch.tensor([7, 9]))
    (alone,) = head.drop([ones[:2]], torch.tensor([9]))
    assert torch.equal(both[2:], alone)
    assert not torch.equal(both[:2], both[2:])
    assert not torch.equal(both[0], both[1])
    torch.testing.assert_close(both.unique(), torch.tensor([0.0, 5.0]))
    assert float((both == 0).float().mean()) == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({**PYRAMID, "dropout": 1.0}, r"head\.dropout=1.0: expected 0 \.\. below 1"),
        ({**PYRAMID, "loss_weights": [1, 1]}, r"head\.loss_weights=\[1, 1\]: expected 1 weights"),
        ({**OFF, "loss_weights": [1, 1, -1]}, r"head\.loss_weights=.*: expected 3 weights"),
        ({**PYRAMID, "motion_levels": 2}, "motion_levels=2: expected 0 .. 1"),
        ({**PYRAMID, "num_classes": 1}, "num_classes=1: expected at least 2"),
    ],
)
def test_what_cannot_be_is_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        Recognition(**arguments)
