"""The dry run finds padding and levels; running fills what unpadded convolutions cut off."""

import pytest
import torch
from torch import Tensor, nn

from flowfeat.features.timm_plan import plan_backbone, run_backbone


class Average(nn.Module):
    """Means of blocks of 4; without ``whole`` it loses a cell on each side, as in Inception."""

    def __init__(self, whole: bool) -> None:
        super().__init__()
        self.cut = 0 if whole else 1

    def forward(self, frames: Tensor) -> list[Tensor]:
        level = nn.functional.avg_pool2d(frames, 4)
        rows, columns = level.shape[-2:]
        return [level[..., self.cut : rows - self.cut, self.cut : columns - self.cut]]


@pytest.mark.parametrize(
    ("model", "multiple"),
    [
        ("resnet18", 1),  # its convolutions round up
        ("densenet121", 32),  # its poolings round down
        ("convnext_atto", 16),  # so do its patches; dilated, the coarsest is 16
        ("maxvit_nano_rw_256", 128),  # windows of 8 cells at stride 16
        ("vit_tiny_patch16_224", 1),  # timm pads by itself
    ],
)
def test_least_padding(model: str, multiple: int) -> None:
    assert plan_backbone(model, (-1,), 16, {}).multiple == multiple


def test_multiply_adds_of_resnet50() -> None:
    """4.09 G at 224 x 224 are published, of which the classifier has 2 M."""
    plan = plan_backbone("resnet50", (-1,), 32, {})
    assert plan.macs_per_cell[0] * 49 == pytest.approx(4.09e9, rel=0.01)


def test_padding_and_filling() -> None:
    frames = torch.rand(1, 1, 14, 17)
    padded = nn.functional.pad(frames, (0, 3, 0, 2))
    blocks = padded.view(1, 1, 4, 4, 5, 4).mean((3, 5))
    assert torch.allclose(run_backbone(Average(True), frames, (4,), 4)[0], blocks)
    filled = run_backbone(Average(False), frames, (4,), 4)[0]
    expected = blocks[:, :, [1, 1, 2, 2]][..., [1, 1, 2, 3, 3]]  # rims repeat their neighbours
    assert torch.allclose(filled, expected)


def test_a_level_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(16, 16\) cells at stride 8, expected \(8, 8\)"):
        run_backbone(Average(True), torch.rand(1, 1, 64, 64), (8,), 1)
