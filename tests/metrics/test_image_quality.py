"""PSNR and luma against scikit-image."""

import math

import numpy as np
import pytest
import torch
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio

from flowfeat.metrics.image_quality import luma, psnr


@pytest.fixture(params=[3.0, 40.0])
def pictures(request) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    clean = rng.integers(0, 256, (37, 53, 3), np.uint8)
    noise = rng.normal(0, request.param, clean.shape)
    return np.clip(np.round(clean + noise), 0, 255).astype(np.uint8), clean


def channels_first(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1)


def test_psnr_is_that_of_scikit_image(pictures):
    found, clean = pictures
    expected = peak_signal_noise_ratio(clean, found, data_range=255)
    assert float(psnr(*map(channels_first, pictures))) == pytest.approx(expected, abs=1e-4)


def test_luma_is_that_of_bt_601(pictures):
    found, clean = pictures
    expected = rgb2ycbcr(clean)[..., 0]
    ours = luma(channels_first(clean))
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-3)
    ends = luma(torch.tensor([0, 255], dtype=torch.uint8).expand(3, 1, 2))
    assert ends[0].tolist() == pytest.approx([16, 235], abs=1e-3)
    ratio = peak_signal_noise_ratio(expected, rgb2ycbcr(found)[..., 0], data_range=255)
    assert float(psnr(luma(channels_first(found)), ours)) == pytest.approx(ratio, abs=1e-3)


def test_equal_pictures_do_not_make_a_mean_infinite():
    picture = torch.zeros(3, 256, 448, dtype=torch.uint8)
    off = picture.clone()
    off[0, 0, 0] = 1
    by_hand = 10 * math.log10(255**2 * 3 * 256 * 448)
    assert by_hand == pytest.approx(103.5, abs=0.05)
    assert float(psnr(picture, picture)) == pytest.approx(by_hand, abs=1e-3)
    assert float(psnr(off, picture)) == pytest.approx(by_hand, abs=1e-3)
