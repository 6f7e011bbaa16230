"""FGFA against its formula written out; windows, delays and streams."""

import itertools

import pytest
import torch
from torch import Tensor

from flowfeat.flow.zero import ZeroFlow
from flowfeat.interfaces import Features, Output
from flowfeat.ops.warp import warp_levels
from flowfeat.streaming import Stream
from flowfeat.temporal.fgfa import FlowGuidedAggregation
from flowfeat.temporal.per_frame import PerFrame

LENGTH = 6


def video(seed: int, length: int = LENGTH) -> Tensor:
    return torch.rand(length, 3, 16, 24, generator=torch.Generator().manual_seed(seed))


def build(features, flow, before: int, after: int, **options: bool) -> FlowGuidedAggregation:
    torch.manual_seed(3)
    return FlowGuidedAggregation(features, flow, before, after, **options).eval()


@torch.no_grad()
def run(module, clips: Tensor, starts: Tensor | None = None) -> list[Output]:
    """Stream clips (B, T, 3, H, W) to their end."""
    state, outputs = None, []
    for t in range(clips.shape[1]):
        first = torch.full((len(clips),), t == 0) if starts is None else starts[:, t]
        output, state = module.step(clips[:, t], first, state)
        assert (output is None) == (t < module.delay)
        outputs += [] if output is None else [output]
    outputs += module.flush(state)
    assert len(outputs) == clips.shape[1]
    return outputs


@torch.no_grad()
def by_formula(module, clip: Tensor, target: int, steps: list[int]) -> Features:
    """Average over ``steps`` of a clip (T, 3, H, W), each weight a softmax of cosines."""
    own = module.features.trunk(clip[target][None])
    carried, found = [], []
    for step in steps:
        trunk = module.features.trunk(clip[step][None])
        embedding = tuple(e(level) for e, level in zip(module.embeddings, trunk, strict=True))
        if step != target:
            flow = module.flow(clip[target][None], clip[step][None])
            trunk = warp_levels(trunk, flow, module.strides)
            embedding = warp_levels(embedding, flow._replace(scale=None), module.strides)
        if module.embed_warped:
            embedding = tuple(e(level) for e, level in zip(module.embeddings, trunk, strict=True))
        carried.append(trunk)
        found.append(embedding)
    results = []
    for level, embed in enumerate(module.embeddings):
        mine = embed(own[level])
        unit = mine / mine.norm(dim=1, keepdim=True)
        cosines = [
            (e[level] / e[level].norm(dim=1, keepdim=True).clamp(min=1e-8) * unit).sum(1)
            for e in found
        ]
        weights = torch.stack(cosines).softmax(dim=0)[:, :, None]
        results.append((weights * torch.stack([c[level] for c in carried])).sum(dim=0))
    return tuple(results)


@pytest.mark.parametrize("embed_warped", [True, False])
@pytest.mark.parametrize(("before", "after"), [(2, 0), (1, 2), (0, 1), (9, 9)])
def test_streams_follow_the_formula(features, flow, before, after, embed_warped):
    module = build(features, flow, before, after, embed_warped=embed_warped)
    assert module.delay == after
    clips = torch.stack([video(0), video(1)])
    for t, output in enumerate(run(module, clips)):
        steps = [s for s in range(LENGTH) if t - before <= s <= t + after]
        assert torch.equal(output.frames, clips[:, t])
        for b in range(2):
            for ours, truth in zip(
                output.features, by_formula(module, clips[b], t, steps), strict=True
            ):
                torch.testing.assert_close(ours[b : b + 1], truth)


@pytest.mark.parametrize("embed_warped", [True, False])
@pytest.mark.parametrize(("before", "after"), [(2, 0), (1, 2)])
def test_forward_equals_unrolled_steps(features, flow, before, after, embed_warped):
    module = build(features, flow, before, after, embed_warped=embed_warped)
    clips = torch.stack([video(0), video(1)])
    steps = run(module, clips)
    targets = torch.tensor([[0, 4, 5], [5, 2, 3]])
    with torch.no_grad():
        together = module(clips, module.training_keys(torch.zeros(2, LENGTH)), targets)
    rows = [(b, t) for b, of_clip in enumerate(targets.tolist()) for t in of_clip]
    for row, (b, t) in enumerate(rows):
        assert torch.equal(together.frames[row], clips[b, t])
        for level in range(2):
            torch.testing.assert_close(together.features[level][row], steps[t].features[level][b])


@pytest.mark.parametrize(("before", "after"), [(2, 0), (1, 2), (0, 3)])
def test_streams_that_start_apart_equal_streams_run_alone(features, flow, before, after):
    """Stream 1 begins a new video at step 2, whose frames must not reach what is still due."""
    module = build(features, flow, before, after)
    clips = torch.stack([video(0), torch.cat((video(1)[:2], video(2)[: LENGTH - 2]))])
    starts = torch.zeros(2, LENGTH, dtype=torch.bool)
    starts[:, 0] = starts[1, 2] = True
    together = run(module, clips, starts)
    first = run(module, clips[:1])
    second = [_alone(module, clips[1:, :2]), _alone(module, clips[1:, 2:])]
    for both, a, b in zip(together, first, itertools.chain(*second), strict=True):
        for level in range(2):
            torch.testing.assert_close(
                both.features[level], torch.cat((a.features[level], b.features[level]))
            )


def _alone(module, clip: Tensor) -> list[Output]:
    """Stream a video that may be shorter than the delay."""
    state, outputs = None, []
    with torch.no_grad():
        for t in range(clip.shape[1]):
            output, state = module.step(clip[:, t], torch.tensor([t == 0]), state)
            outputs += [] if output is None else [output]
        return outputs + list(module.flush(state))


def test_state_is_not_kept_on_the_module(features, flow):
    module = build(features, flow, 2, 1)
    alone = [run(module, video(s)[None]) for s in (0, 1)]
    states, found = [None, None], [[], []]
    with torch.no_grad():
        for t in range(LENGTH):
            for s in (0, 1):
                output, states[s] = module.step(
                    video(s)[None, t], torch.tensor([t == 0]), states[s]
                )
                found[s] += [] if output is None else [output]
        for s in (0, 1):
            for a, b in zip([*found[s], *module.flush(states[s])], alone[s], strict=True):
                assert all(torch.equal(x, y) for x, y in zip(a.features, b.features, strict=True))


def test_the_window_is_all_that_is_kept_and_features_run_once_per_frame(features, flow):
    module = build(features, flow, 2, 1)
    state = None
    with torch.no_grad():
        for t in range(LENGTH):
            _, state = module.step(video(0)[None, t], torch.tensor([t == 0]), state)
            assert len(state.slots) == min(t + 1, 4)
    assert features.frames_seen == LENGTH


def test_a_still_picture_is_left_as_it_is(features):
    """All frames and embeddings agree, so the average is that of equals."""
    module = build(features, ZeroFlow(features.channels, features.strides), 3, 2)
    clip = video(0, 1)[None].expand(1, LENGTH, -1, -1, -1)
    for ours, frame in zip(run(module, clip), run(PerFrame(features), clip), strict=True):
        for a, b in zip(ours.features, frame.features, strict=True):
            torch.testing.assert_close(a, b)


def test_results_come_back_with_their_own_frames(features, flow):
    """Through a Stream, the tag that was pushed with a frame returns with its features."""

    class Echo(torch.nn.Module):
        def forward(self, features, frames):
            return frames

        def postprocess(self, raw, sizes):
            return list(raw)

    clip = video(0)
    passing: Stream[int] = Stream(build(features, flow, 1, 2), Echo())
    results = []
    for t in range(LENGTH):
        results += passing.push(clip[t][None], torch.tensor([t == 0]), torch.tensor([[16, 24]]), t)
    assert len(results) == LENGTH - 2
    results += passing.finish()
    assert [result.tag for result in results] == list(range(LENGTH))
    for t, result in enumerate(results):
        assert torch.equal(result.predictions[0], clip[t])


def test_training_on_two_neighbours_reaches_every_part(features, flow):
    module = build(features, flow, 9, 9).train()
    clip = torch.stack([video(0, 3), video(1, 3)])
    output = module(clip, module.training_keys(torch.zeros(2, 3)), torch.tensor([[0], [2]]))
    sum(level.square().sum() for level in output.features).backward()
    for name, part in module.parts().items():
        for parameter_name, parameter in part.named_parameters():
            if name == "embeddings" and parameter_name.endswith("4.bias"):
                continue
            assert parameter.grad is not None, (name, parameter_name)
            assert parameter.grad.abs().sum() > 0, (name, parameter_name)
    assert module.parts().keys() == {"features", "flow", "embeddings"}


def test_a_frame_may_stay_out_of_its_own_average_in_training_only(features, flow):
    module = build(features, flow, 9, 9, own_in_training=False)
    clip = video(0, 3)
    arguments = (clip[None], torch.ones(1, 3, dtype=torch.bool), torch.tensor([[1]]))
    with torch.no_grad():
        for output, steps in (
            (module.train()(*arguments), [0, 2]),
            (module.eval()(*arguments), [0, 1, 2]),
        ):
            for ours, truth in zip(
                output.features, by_formula(module, clip, 1, steps), strict=True
            ):
                torch.testing.assert_close(ours, truth)
        single = module.train()(clip[None, :1], arguments[1][:, :1], torch.tensor([[0]]))
        assert torch.equal(single.features[0], features(clip[:1])[0])


def test_a_batch_without_neighbours_still_gives_every_part_a_gradient(features, flow):
    module = build(features, flow, 2, 2).train()
    output = module(video(0, 1)[None], torch.ones(1, 1, dtype=torch.bool), torch.tensor([[0]]))
    sum(level.sum() for level in output.features).backward()
    for name in ("flow", "embeddings"):
        assert all(
            p.grad is not None and not p.grad.any() for p in module.parts()[name].parameters()
        )


@pytest.mark.parametrize(("before", "after"), [(-1, 2), (2, -1), (0, 0)])
def test_an_impossible_window_is_refused(features, flow, before, after):
    with pytest.raises(ValueError, match=rf"before={before}, after={after}: expected 0 or more"):
        FlowGuidedAggregation(features, flow, before, after)
