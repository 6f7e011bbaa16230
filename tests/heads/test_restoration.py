"""The restoration head: the sign of the residual, 8-bit pictures, losses counted by hand."""

import pytest
import torch
from torch import nn

from flowfeat.heads.restoration import Restoration, levels


@pytest.fixture
def head() -> Restoration:
    torch.manual_seed(0)
    return Restoration((4,), (1,), depth=3)


def test_the_residual_is_what_compression_added_and_is_taken_away(head):
    frames = torch.rand(1, 3, 5, 7)
    nn.init.zeros_(head.layers[-1].weight)
    head.layers[-1].bias.data = torch.tensor([0.25, 0.0, -0.5])
    restored = head((torch.rand(1, 4, 5, 7),), frames)
    expected = frames - torch.tensor([0.25, 0.0, -0.5])[:, None, None]
    torch.testing.assert_close(restored, expected)


def test_the_last_convolution_gives_both_signs(head):
    frames = torch.rand(4, 3, 9, 9)
    residual = frames - head((torch.rand(4, 4, 9, 9),), frames)
    assert residual.min() < 0 < residual.max()


def test_pictures_are_rounded_clamped_and_without_padding(head):
    raw = torch.tensor([-0.2, 0.1, 0.5, 1.3]).view(1, 1, 1, 4).expand(2, 3, 2, 4)
    first, second = head.postprocess(raw, torch.tensor([[2, 4], [1, 3]]))
    assert first.dtype == torch.uint8
    assert first[1].tolist() == [[0, 26, 128, 255]] * 2  # 25.5 and 127.5 go to even, as IEEE rounds
    assert second.shape == (3, 1, 3)
    known = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(levels(known.float() / 255), known)


@pytest.mark.parametrize(("loss", "first", "second"), [("mse", 0.01, 0.04), ("l1", 0.1, 0.2)])
def test_losses_are_means_of_pictures(loss, first, second):
    head = Restoration((4,), (1,), depth=1, loss=loss)
    raw = torch.full((2, 3, 4, 6), 0.5)
    raw[1, :, 2:] = 9  # padding: a smaller picture counts as much as a large one
    clean = [torch.full((3, 4, 6), 0.4), torch.full((3, 2, 6), 0.7)]
    assert float(head.loss(raw, clean)[loss]) == pytest.approx((first + second) / 2)
    with pytest.raises(ValueError, match="clean picture 5 x 6: larger than its degraded frame"):
        head.loss(raw, [torch.zeros(3, 5, 6)] * 2)


def test_a_small_residual_gain_begins_near_the_input():
    frames = torch.rand(1, 3, 16, 16)
    maps = (torch.rand(1, 64, 16, 16),)
    moved = []
    for gain in (1.0, 0.1):
        torch.manual_seed(0)
        head = Restoration((64,), (1,), residual_gain=gain)
        moved.append(float((head(maps, frames) - frames).detach().square().mean().sqrt()))
    assert moved[1] == pytest.approx(0.1 * moved[0], rel=1e-4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"strides": (8,)}, "features: stride 8, .*expected features=dncnn or dncnn_small"),
        ({"depth": 0}, "head.depth=0: expected at least 1 convolution"),
        ({"loss": "l2"}, "head.loss=l2: expected mse or l1"),
        ({"residual_gain": -1.0}, "head.residual_gain=-1.0: expected 0 or more"),
    ],
)
def test_impossible_settings_are_refused(options, said):
    with pytest.raises(ValueError, match=said) as refusal:
        Restoration(**{"channels": (4,), "strides": (1,), **options})
    assert "\n" not in str(refusal.value)
