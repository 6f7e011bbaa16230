"""The segmentation head: where upsampled scores lie, what a label map is, what the loss counts."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional as F

from flowfeat.heads.segmentation import IGNORED, Segmentation


def head(stride: int = 8, classes: int = 5, **options: object) -> Segmentation:
    torch.manual_seed(0)
    return Segmentation((6,), (stride,), classes, **options)  # type: ignore[arg-type]


def test_scores_are_one_matrix_product_per_cell():
    found = head()((torch.zeros(2, 3, 9, 9), features := torch.randn(2, 6, 3, 4)), torch.empty(0))
    weight = head().scores.weight[:, :, 0, 0]
    torch.testing.assert_close(found, torch.einsum("kc,bchw->bkhw", weight, features))


@pytest.mark.parametrize(("height", "width", "stride"), [(40, 56, 8), (37, 51, 8), (33, 20, 16)])
def test_pixels_lie_between_cells_as_scipy_says(height, width, stride):
    cells = (math.ceil(height / stride), math.ceil(width / stride))
    raw = torch.randn(1, 2, *cells, dtype=torch.float64)
    y, x = np.mgrid[:height, :width]
    places = [(y + 0.5) / stride - 0.5, (x + 0.5) / stride - 0.5]
    for channel, found in zip(raw[0], head(stride).upsample(raw, height, width)[0], strict=True):
        expected = ndimage.map_coordinates(channel.numpy(), places, order=1, mode="nearest")
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("stride", [4, 5, 8, 16])
def test_the_fixed_deconvolution_is_the_same_except_at_the_border(stride):
    raw = torch.randn(2, 3, 6, 7)
    size = (6 * stride - 1, 7 * stride - 2)
    bilinear = head(stride).upsample(raw, *size)
    fixed = head(stride, upsampling="deconvolution").upsample(raw, *size)
    rim = stride // 2
    inside = (..., slice(rim, 5 * stride + rim), slice(rim, 6 * stride + rim))
    torch.testing.assert_close(bilinear[inside], fixed[inside])
    # At the border the zeros around the grid weigh in: the first pixel is nearly half a cell off.
    share = (stride + 1) / (2 * stride)
    torch.testing.assert_close(fixed[..., 0, 0], raw[..., 0, 0] * share**2)


def test_the_deconvolution_is_fixed():
    fixed = head(upsampling="deconvolution")
    assert [name for name, _ in fixed.named_parameters()] == ["scores.weight", "scores.bias"]
    assert not fixed.kernel.requires_grad


@pytest.mark.parametrize("upsampling", ["bilinear", "deconvolution"])
@pytest.mark.parametrize("strip", [1, 8, 24, 500])
def test_label_maps_are_the_best_class_of_the_upsampled_scores(upsampling, strip):
    maps = head(8, upsampling=upsampling, strip=strip)
    raw = torch.randn(2, 5, 7, 9)
    sizes = torch.tensor([[53, 70], [41, 72]])
    found = maps.postprocess(raw, sizes)
    for row, label_map, (height, width) in zip(raw, found, sizes.tolist(), strict=True):
        expected = maps.upsample(row[None], 56, 72)[0].argmax(0)[:height, :width]
        assert label_map.dtype == torch.uint8
        assert torch.equal(label_map.long(), expected)


def test_strips_bound_what_is_upsampled_at_once(monkeypatch):
    maps, rows = head(8, strip=32), []
    upsample = Segmentation.upsample

    def watched(self, scores, height, width):
        rows.append(height)
        return upsample(self, scores, height, width)

    monkeypatch.setattr(Segmentation, "upsample", watched)
    maps.postprocess(torch.randn(1, 5, 64, 4), torch.tensor([[512, 32]]))
    assert len(rows) == 16
    assert max(rows) <= 32 + 8


def test_padding_does_not_move_a_picture():
    maps = head(8)
    raw = torch.randn(1, 5, 4, 6)
    padded = F.pad(raw, (0, 3, 0, 2), mode="replicate")
    (alone,) = maps.postprocess(raw, torch.tensor([[32, 48]]))
    (beside,) = maps.postprocess(padded, torch.tensor([[32, 48]]))
    assert torch.equal(alone, beside)


def test_loss_counts_by_hand():
    """Equal scores cost log C per labelled pixel; all pixels are in the denominator."""
    labels = torch.full((16, 16), IGNORED, dtype=torch.uint8)
    labels[:4] = 2
    losses = head().loss(torch.zeros(1, 5, 2, 2), [labels])
    assert losses.keys() == {"segmentation"}
    assert float(losses["segmentation"]) == pytest.approx(math.log(5) * 4 / 16, rel=1e-6)
    certain = torch.full((1, 5, 2, 2), -3.0)
    certain[:, 2] = 3
    expected = math.log(1 + 4 * math.exp(-6)) / 4
    assert float(head().loss(certain, [labels])["segmentation"]) == pytest.approx(
        expected, rel=1e-4
    )


def test_ignored_pixels_do_not_learn():
    raw = torch.randn(1, 5, 2, 4, requires_grad=True)
    labels = torch.full((16, 32), IGNORED, dtype=torch.uint8)
    labels[:, :4] = 1  # under the first column of cells alone
    head().loss(raw, [labels])["segmentation"].backward()
    assert raw.grad[..., 0].abs().min() > 0
    assert raw.grad[..., 1:].abs().max() == 0
    nothing = head().loss(raw, [torch.full_like(labels, IGNORED)])
    assert float(nothing["segmentation"].detach()) == 0


def test_the_loss_of_a_batch_is_the_mean_of_its_pictures():
    raw = torch.randn(3, 5, 3, 4)
    sizes = [(24, 32), (17, 30), (24, 9)]
    labels = [torch.randint(0, 5, size, dtype=torch.uint8) for size in sizes]
    labels[1][3:9] = IGNORED
    together = head().loss(raw, labels)["segmentation"]
    alone = [head().loss(raw[n : n + 1], labels[n : n + 1])["segmentation"] for n in range(3)]
    torch.testing.assert_close(together, torch.stack(alone).mean())


def test_bad_values_are_refused():
    for options, message in (
        ({"upsampling": "nearest"}, "head.upsampling=nearest: expected bilinear or deconvolution"),
        ({"classes": 256}, r"num_classes=256: expected 1 .. 255"),
        ({"strip": 0}, "head.strip=0: expected at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            head(**options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"label map 16 x 17: larger than its frame.* 2 x 2 cells"):
        head().loss(torch.zeros(1, 5, 2, 2), [torch.zeros(16, 17, dtype=torch.uint8)])
