"""DFF with OFF: what is propagated, what is compared, and its training clips."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from data_modules.keyed_pair import KeyedPair
from flowfeat.interfaces import Output
from flowfeat.key_frames.schedules import Fixed
from flowfeat.temporal.feature_flow import FeatureFlow
from flowfeat.temporal.off_layer import OffLayer
from flowfeat.temporal.off_motion import MotionMerge
from flowfeat.temporal.off_propagation import OffPropagation

LENGTH = 7


def made(features: Any, flow: Any, interval: int, fresh: bool = False) -> OffPropagation:
    torch.manual_seed(2)
    motion = partial(MotionMerge, width=4, blocks=1, ratio=2)
    module = OffPropagation(
        features, flow, Fixed(interval), partial(OffLayer, reduce_to=5), motion
    ).eval()
    if not fresh:
        nn.init.normal_(module.off_network.join.weight, std=0.3)
    return module


def clips() -> Tensor:
    return torch.rand(2, LENGTH, 3, 32, 48, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def stream(module: Any, frames: Tensor) -> list[Output]:
    outputs, state = [], None
    for t in range(frames.shape[1]):
        output, state = module.step(frames[:, t], torch.full((len(frames),), t == 0), state)
        outputs.append(output)
    return outputs


def test_a_fresh_one_is_dff_exactly(features, flow) -> None:
    fresh, plain = made(features, flow, 3, fresh=True), FeatureFlow(features, flow, Fixed(3))
    for ours, theirs in zip(stream(fresh, clips()), stream(plain, clips()), strict=True):
        assert torch.equal(ours.features[-1], theirs.features[-1])
        assert torch.equal(ours.is_key, theirs.is_key)


def test_a_stream_compares_what_dff_gives(features, flow) -> None:
    module = made(features, flow, 3)
    plain = stream(FeatureFlow(features, flow, Fixed(3)), clips())
    features.frames_seen = 0
    found = stream(module, clips())
    assert features.frames_seen == 2 * 3  # key frames 0, 3 and 6 of two streams
    assert torch.equal(found[0].features[-1], plain[0].features[-1])
    network = module.off_network
    for t in range(1, LENGTH):  # also at key frames
        before, now = (network.reduce(plain[s].features[-1:]) for s in (t - 1, t))
        expected = plain[t].features[-1] + network.join(network.motion(before, now))
        torch.testing.assert_close(found[t].features[-1], expected)
        assert torch.equal(found[t].features[0], plain[t].features[0])


@pytest.mark.parametrize("interval", [1, 3])
def test_clips_are_unrolled_steps(features, flow, interval: int) -> None:
    module = made(features, flow, interval)
    steps = stream(module, clips())
    is_key = torch.stack([o.is_key for o in steps], dim=1)
    targets = torch.tensor([[0, 3, 4], [6, 1, 2]])
    with torch.no_grad():
        together = module(clips(), is_key, targets)
    for row, t in enumerate(targets.flatten().tolist()):
        b = row // 3
        for level in range(2):
            torch.testing.assert_close(together.features[level][row], steps[t].features[level][b])
        assert torch.equal(together.frames[row], clips()[b, t])
        assert together.is_key[row] == steps[t].is_key[b]


@torch.no_grad()
def test_pairs_are_streams_that_begin_at_their_key_frame(features, flow) -> None:
    module, target = made(features, flow, LENGTH), 4
    keys = torch.arange(1, target + 1).expand(2, -1)
    output = module.pairs(clips(), keys, torch.full_like(keys, target))
    for row, key in enumerate(keys.flatten().tolist()):
        b = row // target
        expected = stream(module, clips()[b : b + 1, key : target + 1])[-1]
        torch.testing.assert_close(output.features[-1][row], expected.features[-1][0])


def test_copying_compares_copies(features, flow) -> None:
    module = made(features, flow, 3)
    copied = module.controls()["copy"]
    assert copied.off_network is module.off_network
    plain = stream(FeatureFlow(features, flow, Fixed(3)).controls()["copy"], clips())
    (found,) = stream(copied, clips())[1:2]
    reduced = module.off_network.reduce(plain[0].features[-1:])  # the copy of frame 0 is frame 1's
    expected = plain[1].features[-1] + module.off_network.join(
        module.off_network.motion(reduced, reduced)
    )
    torch.testing.assert_close(found.features[-1], expected)


def test_a_training_clip_has_one_key_frame_and_trains_everything(features, flow) -> None:
    module = made(features, flow, 3).train()
    keys = module.training_keys(torch.tensor([[3, 6, 7], [7, 6, 7], [6, 6, 7]]))
    assert keys.tolist() == [[True, False, False], [True, False, True], [True, True, False]]
    frames, targets = torch.rand(3, 3, 3, 32, 48), torch.full((3, 1), 2)
    output = module(frames, keys, targets)
    assert features.frames_seen == 3 + 1  # the key frames, and the one that is its own
    output.features[-1].square().sum().backward()
    for name, module_part in module.parts().items():
        grads = [p.grad for p in module_part.parameters()]
        assert any(g is not None and g.abs().sum() > 0 for g in grads), name


def test_keyed_pairs_are_spread_over_the_interval() -> None:
    rng, sampler = np.random.default_rng(0), KeyedPair(max_offset=9)
    drawn = [sampler(100, 50, rng) for _ in range(900)]
    assert all(clip[1:] == [49, 50] and targets == [2] for clip, targets in drawn)
    counts = np.bincount([50 - clip[0] for clip, _ in drawn], minlength=10)
    assert counts[0] == 0
    assert counts[1:].min() > 60
    assert counts[1:].max() < 140
    assert sampler(5, 0, rng) == ([0, 0, 0], [2])
    assert KeyedPair(same=1.0)(100, 50, rng) == ([50, 49, 50], [2])


@pytest.mark.parametrize("options", [{"max_offset": 0}, {"same": 1.5}])
def test_values_out_of_range_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"clip.{next(iter(options))}="):
        KeyedPair(**options)
