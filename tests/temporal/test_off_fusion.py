"""OFF merged into the map that the head reads: rows, neighbours, scales, cost."""

from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from flowfeat.build import build_features, build_task, build_temporal
from flowfeat.cli import UsageError, compose_config
from flowfeat.features.timm_features import TimmFeatures
from flowfeat.interfaces import Output
from flowfeat.metering import count_flops
from flowfeat.ratios import features_flops
from flowfeat.temporal.off_fusion import OffFusion, measure_stage
from flowfeat.temporal.off_layer import OffLayer
from flowfeat.temporal.off_motion import MotionMerge, Pair, SqueezedBottleneck
from flowfeat.temporal.per_frame import PerFrame

STREAMS, LENGTH = 3, 6
STARTS = torch.zeros(STREAMS, LENGTH, dtype=torch.bool)
STARTS[:, 0] = STARTS[1, 2] = STARTS[2, 3] = True


def tiny(features: Any, merge: Any = "add", layer: Any = None, **options: Any) -> OffFusion:
    """Return a module whose motion counts, unlike a fresh one's."""
    torch.manual_seed(2)
    layer = layer or partial(OffLayer, reduce_to=5)
    motion = partial(MotionMerge, width=4, blocks=1, ratio=2, merge=merge)
    module = OffFusion(features, layer, motion, **options).eval()
    nn.init.normal_(module.off_network.join.weight, std=0.3)
    return module


def small_resnet() -> TimmFeatures:
    torch.manual_seed(0)
    return TimmFeatures("test_resnet", reduce_to=8, norm="group").eval()


def clips() -> Tensor:
    return torch.rand(STREAMS, LENGTH, 3, 45, 61, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def stream(module: Any, frames: Tensor, starts: Tensor | None = None) -> list[Output]:
    """Return the outputs of every step, in order; frames (B, T, 3, H, W)."""
    outputs, state = [], None
    for t in range(frames.shape[1]):
        first = torch.full((len(frames),), t == 0) if starts is None else starts[:, t]
        output, state = module.step(frames[:, t], first, state)
        outputs += [] if output is None else [output]
    return outputs + list(module.flush(state))


@pytest.mark.parametrize("merge", ["add", "concat"])
@pytest.mark.parametrize("stages", [None, 2])
def test_a_fresh_one_is_per_frame_exactly(merge: str, stages: int | None) -> None:
    features, motion = small_resnet(), partial(MotionMerge, width=4, ratio=2, merge=merge)
    fresh = OffFusion(features, motion=motion, stages=stages).eval()
    pairs = zip(stream(fresh, clips()), stream(PerFrame(features), clips()), strict=True)
    for ours, theirs in pairs:
        assert torch.equal(ours.features[0], theirs.features[0])
        assert ours.valid.all()


def test_one_scale_and_two_read_what_they_say() -> None:
    features = small_resnet()
    assert (features.channels, features.strides) == ((8,), (16,))
    fine = features.shallow(torch.rand(1, 3, 64, 64), 2)
    assert measure_stage(features, 2) == (fine.shape[1], 64 // fine.shape[2])
    one, two = tiny(features).off_network, tiny(features, stages=2).off_network
    assert [unit.reduction.in_channels for unit in one.units] == [8]
    assert [unit.reduction.in_channels for unit in two.units] == [fine.shape[1], 8]
    assert [level[0].stride for level in two.levels] == [(2, 2), (1, 1)]


@pytest.mark.parametrize("stages", [None, 2])
@pytest.mark.parametrize(("before", "after"), [(1, 0), (2, 0), (0, 1), (1, 2)])
def test_clips_are_unrolled_steps(before: int, after: int, stages: int | None) -> None:
    module = tiny(small_resnet(), before=before, after=after, stages=stages)
    steps = stream(module, clips())
    targets = torch.tensor([[0, 1, 5], [4, 2, 3], [5, 0, 1]])
    with torch.no_grad():
        together = module(clips(), torch.ones(STREAMS, LENGTH, dtype=torch.bool), targets)
    alone = stream(PerFrame(module.features), clips())
    for row, t in enumerate(targets.flatten().tolist()):
        b = row // 3
        torch.testing.assert_close(together.features[0][row], steps[t].features[0][b])
        assert torch.equal(together.frames[row], clips()[b, t])
        lonely = (before == 0 or t < before) and (after == 0 or t >= LENGTH - after)
        same = torch.allclose(steps[t].features[0][b], alone[t].features[0][b], atol=1e-6)
        assert same == lonely, t  # a frame without a neighbour keeps its features


@pytest.mark.parametrize(("before", "after"), [(1, 0), (2, 1)])
def test_streams_in_one_batch_do_not_mix(before: int, after: int) -> None:
    module = tiny(small_resnet(), before=before, after=after)
    together = torch.stack([o.features[0] for o in stream(module, clips(), STARTS)], dim=1)
    for row in range(STREAMS):
        begins = [*STARTS[row].nonzero().flatten().tolist(), LENGTH]
        alone = [stream(module, clips()[row : row + 1, a:b]) for a, b in pairwise(begins)]
        expected = torch.cat([o.features[0] for video in alone for o in video])
        torch.testing.assert_close(together[row], expected)


def test_another_resolution_begins_anew(features) -> None:
    module = tiny(features)
    _, state = module.step(torch.rand(1, 3, 16, 24), torch.tensor([True]), None)
    frames = torch.rand(1, 3, 24, 24)
    output, _ = module.step(frames, torch.tensor([False]), state)
    torch.testing.assert_close(output.features[-1], features(frames)[-1])


def test_every_frame_is_computed_once(features) -> None:
    module, frames = tiny(features, before=1, after=1), torch.rand(2, 5, 3, 16, 24)
    stream(module, frames)
    assert features.frames_seen == 10
    features.frames_seen = 0
    module(frames, torch.ones(2, 5, dtype=torch.bool), torch.tensor([[1, 2], [4, 4]]))
    assert features.frames_seen == 4 + 2  # 0, 1, 2, 3 of one clip, 3 and 4 of the other


def test_other_levels_are_handed_on(features) -> None:
    module, frames = tiny(features), torch.rand(1, 2, 3, 16, 24)
    last = stream(module, frames)[-1]
    fine, coarse = features(frames[:, 1])
    assert torch.equal(last.features[0], fine)
    assert not torch.allclose(last.features[1], coarse)
    assert (module.channels, module.strides) == (features.channels, features.strides)


def test_what_stands_still_does_not_move(features) -> None:
    """Without spatial gradients a still video shows nothing: biases start at 0."""
    still = torch.rand(1, 1, 3, 16, 24).expand(-1, 3, -1, -1, -1)
    module = tiny(features, layer=partial(OffLayer, reduce_to=5, spatial=False))
    for output in stream(module, still):
        torch.testing.assert_close(output.features[-1], features(still[:, 0])[-1])


def test_only_where_something_moves_the_maps_change(features) -> None:
    """Up to the reach of the 3x3 convolutions; excitation scales the whole map but adds nothing."""
    frames = torch.rand(1, 1, 3, 64, 96).repeat(1, 2, 1, 1, 1)
    frames[:, 1, :, 32:40, 48:56] += 0.5  # the cell (4, 6) at stride 8
    module = tiny(features, layer=partial(OffLayer, reduce_to=5, spatial=False))
    changed = stream(module, frames)[1].features[-1] - features(frames[:, 1])[-1]
    there = (changed.abs().amax(1)[0] > 1e-5).nonzero()
    assert (there - torch.tensor([4, 6])).abs().max() <= 2
    assert len(there) > 1


def test_both_neighbours_add_up(features) -> None:
    frames = torch.rand(1, 3, 3, 16, 24)
    plain = features(frames[:, 1])[-1]
    past, future = tiny(features), tiny(features, before=0, after=1)
    both = tiny(features, after=1)
    one, other, sum_ = (stream(m, frames)[1].features[-1] - plain for m in (past, future, both))
    torch.testing.assert_close(sum_, one + other)
    assert both.delay == future.delay == 1
    assert past.delay == 0


@torch.no_grad()
def test_excitation_is_the_published_formula() -> None:
    torch.manual_seed(0)
    block, maps = SqueezedBottleneck(6, 4, 8, ratio=2), torch.rand(2, 6, 5, 7)
    weights = dict(block.named_parameters())
    inner = block.third(torch.relu(block.second(torch.relu(block.first(maps)))))
    squeezed = inner.mean((2, 3))
    hidden = squeezed @ weights["excitation.fc1.weight"][..., 0, 0].T
    hidden = torch.relu(hidden + weights["excitation.fc1.bias"])
    gates = hidden @ weights["excitation.fc2.weight"][..., 0, 0].T
    gates = torch.sigmoid(gates + weights["excitation.fc2.bias"])
    assert weights["excitation.fc1.weight"].shape[0] == 4
    expected = torch.relu(block.project(maps) + inner * gates[..., None, None])
    torch.testing.assert_close(block(maps), expected)


@pytest.mark.parametrize("merge", ["add", "concat"])
def test_everything_learns_and_ranks_agree(features, merge: str) -> None:
    module = tiny(features, merge).train()
    frames, every = torch.rand(2, 2, 3, 16, 24), torch.ones(2, 2, dtype=torch.bool)
    module(frames, every, torch.tensor([[1], [1]])).features[-1].square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in module.off_network.parameters())
    module.zero_grad()
    module(frames, every, torch.tensor([[0], [0]])).features[-1].sum().backward()
    assert all(p.grad is not None for p in module.off_network.parameters())  # without any pair


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"before": 0}, "temporal.before=0, temporal.after=0: expected 0 or more, not both 0"),
        ({"before": -1}, "temporal.before=-1"),
        ({"stages": 2}, "TwoLevels cannot run its first stages alone"),
        ({"merge": "max"}, "temporal.motion.merge=max: expected add or concat"),
        ({"layer": partial(OffLayer, spatial=False, temporal=False, maps=True)}, "no pair is com"),
    ],
)
def test_what_cannot_be_says_so(features, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        tiny(features, **options)
    assert "\n" not in str(refusal.value)


def test_motion_is_merged_before_the_heads_convolutions() -> None:
    words = ["task=vid", "method=off", "features.model=test_resnet", "features.split=0"]
    with pytest.raises(ValueError, match=r"features\.split=0: motion is merged before the head's"):
        build_task(compose_config(words), ("a", "b"))


@pytest.mark.parametrize("task", ["vid", "cityscapes"])
@pytest.mark.parametrize(("method", "units"), [("off", 1), ("off_ms", 2)])
def test_the_presets(task: str, method: str, units: int) -> None:
    config = compose_config([f"task={task}", f"method={method}", "features.model=test_resnet"])
    assert config.method == method
    module = build_temporal(config)
    assert isinstance(module, OffFusion)
    assert len(module.off_network.units) == units
    assert (config.clip.before, config.clip.after) == (1, 0)
    changed = compose_config([f"task={task}", f"method={method}", "temporal.before=3"])
    assert changed.clip.before == 3
    with pytest.raises(
        UsageError, match=r"no temporal=off_ms_ucf101, only those of cityscapes, vid$"
    ):
        compose_config(["task=ucf101", "method=off_ms"])


def test_the_cost_at_the_papers_size_is_small() -> None:
    """By FLOPs at most 1.25 times the feature network; the paper's times are 1.59 and 1.71."""
    config = compose_config(["task=vid", "method=off", "features=resnet101", "temporal=off_fusion"])
    size = (600, 1000)
    with torch.device("meta"):
        features = build_features(config)
        two = build_temporal(OmegaConf.merge(config, {"temporal": {"stages": 2}}), features)
        one = build_temporal(config, features)
        maps = features.shallow(torch.empty(1, 3, *size), 2), torch.empty(1, 1024, 38, 63)
    assert [level.shape[1:] for level in maps] == [(512, 75, 125), (1024, 38, 63)]
    base = features_flops(features, size)

    def ratio(network: MotionMerge, levels: tuple[Tensor, ...]) -> float:
        previous = network.reduce(levels)  # from the stream's memory

        def step() -> Tensor:
            pair = Pair(previous, network.reduce(levels), torch.tensor([True]))
            return network(levels[-1], [pair])

        return 1 + count_flops(step) / base

    assert ratio(one.off_network, maps[1:]) == pytest.approx(1.024, abs=2e-3)
    assert ratio(two.off_network, maps) == pytest.approx(1.051, abs=2e-3)
