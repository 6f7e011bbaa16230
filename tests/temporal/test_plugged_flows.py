"""Deep feature flow over flows that were not made for it: a recurrent one, a hand-made one."""

import torch
from torch.nn import functional as F

from flowfeat.flow.opencv_flow import DIS
from flowfeat.flow.torchvision_flow import RAFT
from flowfeat.key_frames.schedules import Fixed
from flowfeat.temporal.feature_flow import FeatureFlow


def test_raft_learns_inside_deep_feature_flow(features):
    torch.manual_seed(0)
    flow = RAFT(features.channels, features.strides, updates=1)
    module = FeatureFlow(features, flow, Fixed(2)).train()
    clip = torch.rand(1, 2, 3, 24, 32)
    output = module(clip, torch.tensor([[True, False]]), torch.tensor([[1]]))
    sum(level.square().sum() for level in output.features).backward()
    gradient = flow.network.update_block.flow_head.conv2.weight.grad
    assert gradient.abs().sum() > 0


def test_shallow_feature_flow_follows_a_shift(features):
    """With DIS, the features of a panned picture are the panned features; copies are not."""
    whole = torch.rand(1, 3, 88, 104, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        whole = F.avg_pool2d(whole, 5, 1)
    whole = (whole - whole.min()) / (whole.max() - whole.min())  # (1, 3, 76, 92)
    pictures = torch.cat((whole[..., 4:, :88], whole[..., :-4, 4:]))
    module = FeatureFlow(features, DIS(features.channels, features.strides), Fixed(2))
    clip, keys = pictures[None], torch.tensor([[True, False]])
    with torch.no_grad():
        truth = features(pictures[1:])[0]  # the level whose stride is the shift
        moved = module(clip, keys, torch.tensor([[1]])).features[0]
        copied = module.controls()["copy"](clip, keys, torch.tensor([[1]])).features[0]
    inside = (..., slice(2, -2), slice(3, -3))
    error = (moved - truth)[inside].abs().mean() / (copied - truth)[inside].abs().mean()
    assert error < 0.2
