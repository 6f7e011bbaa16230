"""A backbone in two parts gives what it gives in one, and says where it cannot."""

import pytest
import torch

from flowfeat.features.timm_features import TimmFeatures


@pytest.mark.parametrize(
    ("model", "arguments"),
    [
        ("test_resnet", {"stride": 8}),
        ("test_convnext", {}),
        ("swin_tiny_patch4_window7_224", {"embed_dim": 12, "depths": (1, 1, 1, 1)}),
    ],
)
def test_two_parts_are_the_whole(model, arguments):
    torch.manual_seed(0)
    network = TimmFeatures(model, reduce_to=16, norm="group", **arguments).eval()
    frames = torch.rand(3, 3, 75, 97)
    with torch.no_grad():
        whole = network.trunk(frames)
        for stages in (1, 2):
            maps = network.shallow(frames, stages)
            assert maps.ndim == 4
            assert maps.shape[0] == 3
            [level] = network.deepen(maps[1:], frames[1:], stages)
            torch.testing.assert_close(level, whole[0][1:])


def test_the_first_stage_of_a_resnet_has_stride_4():
    network = TimmFeatures("test_resnet", stride=8).eval()
    seen = network.shallow(torch.rand(1, 3, 64, 96), 1)
    assert seen.shape[-2:] == (16, 24)


@pytest.mark.parametrize(
    ("model", "arguments", "stages", "said"),
    [
        ("test_efficientnet", {}, 1, r"runs this backbone as one \(EfficientNetFeatures\)"),
        ("test_resnet", {"levels": (-3, -1)}, 2, "features.levels: expected levels behind layer2"),
        ("test_resnet", {}, 0, "temporal.stages=0: expected 1 .. 3"),
        ("test_resnet", {}, 4, "temporal.stages=4: expected 1 .. 3"),
    ],
)
def test_what_cannot_be_parted_says_so(model, arguments, stages, said):
    network = TimmFeatures(model, **arguments).eval()
    with pytest.raises(ValueError, match=said):
        network.shallow(torch.rand(1, 3, 64, 64), stages)
