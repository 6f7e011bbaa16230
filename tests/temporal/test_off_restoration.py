"""DnCNN_OFF against its wiring written out; neighbours, delays, both ends of a video, streams."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from flowfeat.features.dncnn import DnCNN
from flowfeat.interfaces import Output
from flowfeat.streaming import Stream
from flowfeat.temporal.off_layer import OffLayer
from flowfeat.temporal.off_restoration import OffRestoration
from flowfeat.temporal.per_frame import PerFrame

LENGTH = 5
SIZE = (9, 11)


class Counting(DnCNN):
    """Counts the frames that it sees."""

    seen = 0

    def trunk(self, frames):
        self.seen += len(frames)
        return super().trunk(frames)


def build(frames: int = 3, **options) -> OffRestoration:
    torch.manual_seed(0)
    off = partial(OffLayer, reduce_to=4)
    module = OffRestoration(Counting(width=6), off, frames, **options)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.uniform_(layer.bias, -0.2, 0.2)
    return module.eval()


def video(seed: int, length: int = LENGTH) -> Tensor:
    return torch.rand(length, 3, *SIZE, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def run(module, clips: Tensor, starts: Tensor | None = None) -> list[Output]:
    """Stream clips (B, T, 3, H, W) to their end."""
    state, outputs = None, []
    for t in range(clips.shape[1]):
        first = torch.full((len(clips),), t == 0) if starts is None else starts[:, t]
        output, state = module.step(clips[:, t], first, state)
        assert (output is None) == (t < module.delay)
        outputs += [] if output is None else [output]
    return outputs + list(module.flush(state))


def prewitt(maps: Tensor) -> list[Tensor]:
    """Return the gradients in x and y by slices, zeros around."""
    padded = nn.functional.pad(maps, (1, 1, 1, 1))
    rows, columns = maps.shape[-2:]
    across, down = torch.zeros_like(maps), torch.zeros_like(maps)
    for step in range(3):
        left, right = padded[..., step : step + rows, :columns], padded[..., step : step + rows, 2:]
        across += (right - left) / 6
        above, below = (
            padded[..., :rows, step : step + columns],
            padded[..., 2:, step : step + columns],
        )
        down += (below - above) / 6
    return [across, down]


@torch.no_grad()
def by_hand(module, clip: Tensor, t: int, frames: int) -> Tensor:
    """Write out Figure 6 for frame t of a clip (T, 3, H, W)."""
    maps = [module.features.layers(frame[None]) for frame in clip]
    before, after = max(t - 1, 0), min(t + 1, len(clip) - 1)
    pairs = {1: [(t, t)], 2: [(before, t)], 3: [(before, t), (t, after)]}[frames]
    motion = []
    for a, b in pairs:
        one, two = module.off.reduction(maps[a]), module.off.reduction(maps[b])
        motion += [*prewitt(one), two - one]
    found = torch.cat(motion, dim=1)
    layers = [m for m in module.refinement if isinstance(m, nn.Conv2d)]
    assert len(layers) == 5
    for layer in layers:
        found = layer(found).relu()
    return maps[t] + found


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_streams_follow_figure_6_to_both_ends(frames):
    module = build(frames)
    assert module.delay == {1: 0, 2: 0, 3: 1}[frames]
    clips = torch.stack([video(0), video(1)])
    outputs = run(module, clips)
    assert len(outputs) == LENGTH
    assert module.features.seen == 2 * LENGTH  # N_feat once per frame
    for t, output in enumerate(outputs):
        assert torch.equal(output.frames, clips[:, t])
        assert output.valid.all()
        assert output.is_key.all()
        for b in range(2):
            truth = by_hand(module, clips[b], t, frames)
            torch.testing.assert_close(output.features[0][b : b + 1], truth)


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_forward_equals_unrolled_steps(frames):
    module = build(frames)
    clips = torch.stack([video(0), video(1)])
    steps = run(module, clips)
    targets = torch.tensor([[0, 4, 2], [4, 2, 3]])
    with torch.no_grad():
        together = module(clips, module.training_keys(torch.zeros(2, LENGTH)), targets)
    rows = [(b, t) for b, of_clip in enumerate(targets.tolist()) for t in of_clip]
    for row, (b, t) in enumerate(rows):
        assert torch.equal(together.frames[row], clips[b, t])
        torch.testing.assert_close(together.features[0][row], steps[t].features[0][b])


@pytest.mark.parametrize(("frames", "used"), [(1, 1), (2, 2), (3, 3)])
def test_training_runs_the_frames_in_use_and_no_others(frames, used):
    module = build(frames)
    module(video(0)[None], torch.ones(1, LENGTH, dtype=torch.bool), torch.tensor([[2]]))
    assert module.features.seen == used
    module.features.seen = 0
    module(video(0)[None], torch.ones(1, LENGTH, dtype=torch.bool), torch.tensor([[2, 3]]))
    assert module.features.seen == {1: 2, 2: 3, 3: 4}[frames]  # shared ones once


@pytest.mark.parametrize("frames", [2, 3])
@pytest.mark.parametrize("cut", [1, 2, LENGTH - 1])
def test_streams_that_start_apart_equal_streams_run_alone(frames, cut):
    """Stream 1 begins a new video, whose frames must not reach what is still due of the old one."""
    module = build(frames)
    clips = torch.stack([video(0), torch.cat((video(1)[:cut], video(2)[: LENGTH - cut]))])
    starts = torch.zeros(2, LENGTH, dtype=torch.bool)
    starts[:, 0] = starts[1, cut] = True
    together = run(module, clips, starts)
    first = run(module, clips[:1])
    for t, (both, alone) in enumerate(zip(together, first, strict=True)):
        torch.testing.assert_close(both.features[0][:1], alone.features[0])
        own, place = (clips[1, :cut], t) if t < cut else (clips[1, cut:], t - cut)
        torch.testing.assert_close(both.features[0][1:], by_hand(module, own, place, frames))


@pytest.mark.parametrize("length", [1, 2])
@pytest.mark.parametrize("frames", [2, 3])
def test_videos_of_one_and_two_frames(frames, length):
    module = build(frames)
    clip = video(0, length)

    class Echo(nn.Module):
        def forward(self, features, frames):
            return features[0]

        def postprocess(self, raw, sizes):
            return list(raw)

    passing: Stream[int] = Stream(module, Echo())
    for _ in range(2):  # and the next video after it
        results = []
        for t in range(length):
            results += passing.push(clip[t][None], torch.tensor([t == 0]), torch.tensor([SIZE]), t)
        results += passing.finish()
        assert [result.tag for result in results] == list(range(length))
        for t, result in enumerate(results):
            truth = by_hand(module, clip, t, frames)
            torch.testing.assert_close(result.predictions[0][None], truth)


def test_videos_one_after_another_do_not_mix():
    """As validation streams them: without a word between the last frame and the next first."""
    module = build(3)

    class Echo(nn.Module):
        def forward(self, features, frames):
            return features[0]

        def postprocess(self, raw, sizes):
            return list(raw)

    passing: Stream[tuple[int, int]] = Stream(module, Echo())
    results = []
    for seed in (0, 1):
        for t, frame in enumerate(video(seed, 3)):
            first = torch.tensor([t == 0])
            results += passing.push(frame[None], first, torch.tensor([SIZE]), (seed, t))
    results += passing.finish()
    assert [result.tag for result in results] == [(s, t) for s in (0, 1) for t in range(3)]
    for result in results:
        seed, t = result.tag
        truth = by_hand(module, video(seed, 3), t, 3)
        torch.testing.assert_close(result.predictions[0][None], truth)


def test_the_window_is_all_that_is_kept_and_nothing_of_it_on_the_module():
    module = build(3)
    alone = [run(module, video(s)[None]) for s in (0, 1)]
    states, found = [None, None], [[], []]
    with torch.no_grad():
        for t in range(LENGTH):
            for s in (0, 1):
                frame = video(s)[None, t]
                output, states[s] = module.step(frame, torch.tensor([t == 0]), states[s])
                assert len(states[s].slots) == min(t + 1, 3)
                found[s] += [] if output is None else [output]
        for s in (0, 1):
            for a, b in zip([*found[s], *module.flush(states[s])], alone[s], strict=True):
                assert torch.equal(a.features[0], b.features[0])


def test_without_refinement_it_is_per_frame():
    module = build(3)
    nn.init.zeros_(module.refinement[-2].weight)
    nn.init.zeros_(module.refinement[-2].bias)
    clip = video(0)[None]
    for ours, frame in zip(run(module, clip), run(PerFrame(module.features), clip), strict=True):
        assert torch.equal(ours.features[0], frame.features[0])


def test_training_reaches_every_part():
    torch.manual_seed(0)
    module = OffRestoration(DnCNN(width=16), partial(OffLayer, reduce_to=8))
    clip = torch.stack([video(0, 3), video(1, 3)])
    output = module(clip, module.training_keys(torch.zeros(2, 3)), torch.tensor([[1], [1]]))
    output.features[0].square().mean().backward()
    assert module.parts().keys() == {"features", "off", "refinement"}
    for name, parameter in module.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"frames": 4}, "temporal.frames=4: expected 1, 2 or 3"),
        ({"depth": 0}, "temporal.depth=0: expected at least 1 convolution"),
    ],
)
def test_impossible_settings_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        build(**options)


def test_several_levels_are_refused(features):
    with pytest.raises(ValueError, match="features: 2 levels: OFF in restoration expects one"):
        OffRestoration(features, partial(OffLayer, reduce_to=4))
