"""Split points: the same network wherever it is split, and N_task grows as the paper counts."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from flowfeat.features.fpn import FPN
from flowfeat.features.timm_features import TimmFeatures
from flowfeat.flow.zero import ZeroFlow
from flowfeat.heads.rfcn import RFCN
from flowfeat.heads.segmentation import Segmentation
from flowfeat.interfaces import FeatureNetwork, Flow, FlowNetwork
from flowfeat.key_frames.schedules import Every, Fixed
from flowfeat.metering import count_flops
from flowfeat.temporal.clockwork import Clockwork
from flowfeat.temporal.feature_flow import FeatureFlow
from flowfeat.temporal.per_frame import PerFrame

FRAMES = torch.rand(2, 3, 75, 97, generator=torch.Generator().manual_seed(0))


def lively(network: nn.Module) -> nn.Module:
    """Let every branch count: timm starts the last normalisation of residual branches at zero."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    return network


def bottleneck(split: int | str, **settings: object) -> TimmFeatures:
    """Return a small ResNet of bottleneck units, four in conv4, three in conv5."""
    from timm.models.resnet import Bottleneck

    torch.manual_seed(0)
    arguments = {"block": Bottleneck, "layers": (1, 1, 4, 3), "channels": (4, 6, 8, 10)}
    made = TimmFeatures(
        "resnet50", reduce_to=12, split=split, **(arguments | settings), base_width=64
    )
    return lively(made).eval()


def weight_layers(network: TimmFeatures) -> int:
    """Count the layers of the tail by running it: those that are called."""
    called = []
    hooks = [
        m.register_forward_hook(lambda module, *_: called.append(module))
        for m in network.modules()
        if isinstance(m, nn.Conv2d)
    ]
    with torch.no_grad():
        trunk = network.trunk(FRAMES)
        called.clear()
        network.tail(trunk)
    for hook in hooks:
        hook.remove()
    return len(called)


@pytest.mark.parametrize("split", [0, 1, 2, 5, 8, 12, 15, 18, 21, "layer4", "layer3.2", "layer2"])
def test_the_split_does_not_change_the_network(split):
    whole, network = bottleneck(1), bottleneck(split)
    assert list(network.state_dict()) == list(whole.state_dict())
    with torch.no_grad():
        expected = whole(FRAMES)[0]
        trunk = network.trunk(FRAMES)
        assert torch.equal(network.tail(trunk)[0], network(FRAMES)[0])
        torch.testing.assert_close(network(FRAMES)[0], expected)
    for level, channels, stride in zip(
        trunk, network.trunk_channels, network.trunk_strides, strict=True
    ):
        assert level.shape == (2, channels, -(-75 // stride), -(-97 // stride))
    assert (network.channels, network.strides) == (whole.channels, whole.strides)
    if isinstance(split, int):
        assert weight_layers(network) == max(0, split - 1)  # the head has one


def test_named_blocks_are_where_the_counts_are():
    """5 layers begin with conv5c, 12 with conv5a, 21 three units before it (section 5.2)."""
    for count, name in ((5, "layer4.2"), (8, "layer4.1"), (12, "layer4.0"), (21, "layer3.1")):
        assert bottleneck(count)._first == bottleneck(name)._first
    assert bottleneck("layer4")._first == bottleneck(12)._first


def test_work_on_every_frame_rises_with_the_split():
    """The paper's network: from none to all of conv5, and three units of conv4."""
    costs, whole = [], []
    for split in (1, 2, 5, 12, 21):
        with torch.device("meta"):
            network = TimmFeatures("resnet50", reduce_to=1024, split=split).eval()
            frames = torch.empty(1, 3, 192, 256)
            with torch.no_grad():
                trunk = network.trunk(frames)
        assert trunk[0].shape[1] == network.trunk_channels[0]
        costs.append(count_flops(lambda n=network, t=trunk: n.tail(t)))
        whole.append(count_flops(lambda n=network, f=frames: n(f)))
    assert costs[0] == 0
    assert costs == sorted(costs)
    assert len(set(costs)) == len(costs)
    assert len(set(whole)) == 1
    cells = 12 * 16
    reduction = 2 * 9 * 2048 * 1024 * cells
    conv5c = 2 * (2048 * 512 + 9 * 512 * 512 + 512 * 2048) * cells
    assert costs[1] == reduction
    assert costs[2] == reduction + conv5c


@pytest.mark.parametrize("model", ["test_convnext", "swin_tiny_patch4_window7_224"])
def test_other_backbones_split_at_their_stages(model):
    small = {"embed_dim": 12, "depths": (1, 1, 1, 1)} if "swin" in model else {}
    names = ("layers_2", "layers_1") if "swin" in model else ("stages_2", "stages_1")
    frames = torch.rand(1, 3, 64, 96)
    for name in names:
        torch.manual_seed(0)
        whole = TimmFeatures(model, reduce_to=8, **small).eval()
        torch.manual_seed(0)
        network = TimmFeatures(model, reduce_to=8, split=name, **small).eval()
        with torch.no_grad():
            trunk = network.trunk(frames)
            stride = network.trunk_strides[0]
            shape = (1, network.trunk_channels[0], 64 // stride, 96 // stride)
            assert trunk[0].shape == shape
            torch.testing.assert_close(network(frames)[0], whole(frames)[0])
            odd = network(torch.rand(1, 3, 75, 97))[0]
        assert odd.shape[-2:] == (-(-75 // whole.strides[0]), -(-97 // whole.strides[0]))


@pytest.mark.parametrize(
    ("model", "settings", "said"),
    [
        ("resnet18", {"split": 3}, r"expected one of 0, 1, 2, 4, .* layers, or the block .*layer4"),
        ("resnet18", {"split": "conv5"}, "features.split=conv5: expected one of 0, 1, 2, 4"),
        ("resnet18", {"split": True}, "features.split=True: expected one of"),
        ("resnet18", {"split": 2, "reduce_to": None}, "features.split=2: expected one of 0, 1, 3"),
        ("test_efficientnet", {"split": 5}, r"features.split=5: expected 0, 1 or 2 \(features: "),
        ("resnet18", {"split": 4, "levels": (-3, -1)}, "expected levels behind .* only"),
    ],
)
def test_impossible_splits_name_the_choices(model, settings, said):
    with pytest.raises(ValueError, match=said) as refusal:
        TimmFeatures(model, **settings)
    assert "\n" not in str(refusal.value)


def test_several_levels_are_propagated_unreduced():
    torch.manual_seed(0)
    settings = {"levels": (-3, -2), "reduce_to": 8, "norm": "group"}
    whole = TimmFeatures("test_resnet", **settings).eval()
    late = TimmFeatures("test_resnet", split=2, **settings).eval()
    late.load_state_dict(whole.state_dict())
    assert late.trunk_channels != (8, 8) == late.channels
    with torch.no_grad():
        for a, b in zip(late(FRAMES), whole(FRAMES), strict=True):
            assert torch.equal(a, b)


HEADS = {
    "segmentation": lambda below: Segmentation(below.channels, below.strides, 5),
    "rfcn": lambda below: RFCN(below.channels, below.strides, 4, k=3, anchor_sizes=(24,)),
}


def together(split: int, kind: str) -> tuple[FeatureNetwork, nn.Module]:
    """Build features and a head as build_task does."""
    features = bottleneck(split)
    torch.manual_seed(1)
    head = HEADS[kind](features).eval()
    if split == 0:
        features.append(head.maps, head.map_channels)
        head.gets_maps = True
    return features, head


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("split", [0, 1, 5, 12, 21])
def test_at_l_1_every_split_is_per_frame(split, kind):
    features, head = together(split, kind)
    plain, reference = together(1, kind)
    flow = ZeroFlow(features.trunk_channels, features.trunk_strides)
    start = torch.tensor([True, True])
    with torch.no_grad():
        output, _ = FeatureFlow(features, flow, Every()).step(FRAMES, start, None)
        expected, _ = PerFrame(plain).step(FRAMES, start, None)
        ours = head(output.features, output.frames)
        truth = reference(expected.features, expected.frames)
    torch.testing.assert_close(tuple(ours), tuple(truth))
    assert len({*head.state_dict()} & {*features.state_dict()}) == 0


class Shift(FlowNetwork):
    """Four cells of the finest grid to the right, with a scale of 2."""

    def __init__(self, channels: tuple[int, ...], strides: tuple[int, ...], cells: int = 4) -> None:
        super().__init__()
        self.stride, self.channels, self.cells = min(strides), sum(channels), cells

    def pyramid(self, current, key):
        raise NotImplementedError

    def forward(self, current, key) -> Flow:
        size = [-(-side // self.stride) for side in current.shape[-2:]]
        flow = current.new_zeros(len(current), 2, *size)
        flow[:, 0] = self.cells
        return Flow(flow, 2 * current.new_ones(len(current), self.channels, *size))


@pytest.mark.parametrize("kind", HEADS)
def test_with_split_0_the_score_maps_are_propagated(kind):
    features, head = together(0, kind)
    flow = Shift(features.trunk_channels, features.trunk_strides, cells=1)
    module = FeatureFlow(features, flow, Fixed(5))
    with torch.no_grad():
        key, state = module.step(FRAMES, torch.tensor([True, True]), None)
        output, _ = module.step(FRAMES, torch.tensor([False, False]), state)
        maps = head.maps(bottleneck(1)(FRAMES))
        raw = head(output.features, FRAMES)
    raw = raw if isinstance(raw, tuple) else (raw,)
    for moved, before in zip(raw, maps, strict=True):
        torch.testing.assert_close(moved[..., :-1], 2 * before[..., 1:])
        assert not moved[..., -1].any()
    assert count_flops(lambda: head(key.features, FRAMES)) == 0


def test_clockwork_runs_a_split_network_in_three_parts():
    network, whole = bottleneck(5), bottleneck(1)
    start = torch.tensor([True, True])
    with torch.no_grad():
        ours, _ = Clockwork(network, Fixed(3), 0.5).step(FRAMES, start, None)
        expected, _ = Clockwork(whole, Fixed(3), 0.5).step(FRAMES, start, None)
    torch.testing.assert_close(ours.features[0], expected.features[0])
    with pytest.raises(ValueError, match=r"features\.split=layer2: expected a block behind layer2"):
        bottleneck("layer2").shallow(FRAMES, 2)


def test_fpn_levels_move_together_under_one_flow():
    """4 cells at stride 8 are 2 at stride 16 and 1 at stride 32, and so are their scales."""
    torch.manual_seed(0)
    for split in (1, 2):
        network = FPN("resnet18", width=8, norm="group", split=split).eval()
        assert sorted(network.strides) == [8, 16, 32]
        assert network.strides[-1] == 8  # heads use the last
        flow = Shift(network.trunk_channels, network.trunk_strides)
        frames = torch.rand(1, 3, 96, 160)
        module = FeatureFlow(network, flow, Fixed(5))
        moved = None
        with torch.no_grad():
            _, state = module.step(frames, torch.tensor([True]), None)
            module.step(frames, torch.tensor([False]), state)
            key = network.trunk(frames)
            moved = module._propagate(key, frames, frames)
        for level, before, stride in zip(moved, key, network.trunk_strides, strict=True):
            cells = 32 // stride
            torch.testing.assert_close(level[..., :-cells], 2 * before[..., cells:])


def test_fpn_is_torchvisions_pyramid_on_timms_levels():
    torch.manual_seed(0)
    network = FPN("resnet18", width=8, norm="group").eval()
    with torch.no_grad():
        levels = network.backbone((FRAMES - network.mean) / network.std)
        inner = network.pyramid.inner_blocks
        coarse = inner[2](levels[2])
        middle = inner[1](levels[1]) + F.interpolate(coarse, levels[1].shape[-2:])
        expected = network.pyramid.layer_blocks[1](middle)
        found = network(FRAMES)
    torch.testing.assert_close(found[1], expected)
    assert [tuple(level.shape[-2:]) for level in found] == [(3, 4), (5, 7), (10, 13)]


def test_fpn_leaves_no_deeper_split():
    with pytest.raises(ValueError, match=r"split=5: expected 0, 1 or 2 layers under an FPN"):
        FPN("resnet18", split=5)
