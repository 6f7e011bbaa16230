"""Clockwork: copies without motion; shallow labels wake the deep layers; streams do not mix."""

import pytest
import torch
from torch import Tensor

from flowfeat.flow.zero import ZeroFlow
from flowfeat.interfaces import FeatureNetwork, Features, Output, TemporalModule
from flowfeat.key_frames.schedules import Every, Fixed
from flowfeat.metering import Stopwatch, metering
from flowfeat.temporal.clockwork import Clockwork
from flowfeat.temporal.feature_flow import FeatureFlow
from flowfeat.temporal.per_frame import PerFrame

LENGTH = 8


class Deep(FeatureNetwork):
    """Shallow: the frame itself, so that a cell's label is its strongest colour; deep: its mean."""

    def __init__(self) -> None:
        super().__init__()
        self.channels, self.strides = (3,), (4,)
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.deepened = self.shallowed = 0

    def trunk(self, frames: Tensor) -> Features:
        return self.deepen(self.shallow(frames, 1), frames, 1)

    def shallow(self, frames: Tensor, stages: int) -> Tensor:
        assert stages == 1
        self.shallowed += len(frames)
        return frames

    def deepen(self, maps: Tensor, frames: Tensor, stages: int) -> Features:
        assert torch.equal(maps, frames)
        self.deepened += len(frames)
        return (torch.nn.functional.avg_pool2d(maps, 4) * self.weight,)


def colours(shares: list[float], seed: int = 0) -> Tensor:
    """Return frames (T, 3, 8, 10) whose first colour is the strongest in so many of 80 cells."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.rand(len(shares), 3, 8, 10, generator=generator) * 0.1
    for frame, share in zip(frames, shares, strict=True):
        frame[1] += 0.5
        frame[0].view(-1)[: round(share * 80)] += 0.9
    return frames


# Share of cells with the first colour; the labels of two frames differ in the difference.
SHARES = [0.0, 0.2, 0.25, 0.45, 0.5, 0.5, 0.9, 0.0]


@torch.no_grad()
def run(module: TemporalModule, clips: Tensor, starts: Tensor | None = None) -> list[Output]:
    state, outputs = None, []
    for t in range(clips.shape[1]):
        first = torch.full((len(clips),), t == 0)
        output, state = module.step(clips[:, t], first if starts is None else starts[:, t], state)
        outputs.append(output)
    return outputs


def keys(outputs: list[Output], row: int = 0) -> list[int]:
    return [t for t, output in enumerate(outputs) if output.is_key[row]]


def test_fixed_copies_as_zero_flow_does(features):
    clip = torch.rand(2, 7, 3, 24, 32)
    zero = FeatureFlow(features, ZeroFlow(features.channels, features.strides), Fixed(3))
    for ours, copied in zip(run(Clockwork(features, Fixed(3)), clip), run(zero, clip), strict=True):
        assert torch.equal(ours.is_key, copied.is_key)
        assert all(torch.equal(a, b) for a, b in zip(ours.features, copied.features, strict=True))
        assert torch.equal(ours.frames, copied.frames)


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [
        (0.25, [0, 2, 4, 6, 7]),  # 0.25 since 0, 0.25 since 2, 0.4 since 4, 0.9 since 6
        (0.3, [0, 3, 6, 7]),
        (0.6, [0, 6, 7]),
        (1.0, [0]),
        (0.0, [0, 1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_updates_fall_where_the_labels_changed_since_the_last_update(threshold, expected):
    network = Deep()
    outputs = run(Clockwork(network, Fixed(99), threshold), colours(SHARES)[None])
    assert keys(outputs) == expected
    assert network.deepened == len(expected)
    assert network.shallowed == LENGTH


def test_the_clock_is_a_ceiling():
    outputs = run(
        Clockwork(Deep(), Fixed(3), 0.3), colours([0.0, 0.0, 0.4, 0.4, 0.4, 0.4, 0.4, 0.0])[None]
    )
    assert keys(outputs) == [0, 2, 5, 7]


def test_copied_features_are_those_of_the_last_update():
    clip = colours(SHARES)[None]
    frame = run(PerFrame(Deep()), clip)
    for t, output in enumerate(run(Clockwork(Deep(), Fixed(99), 0.3), clip)):
        latest = max(k for k in (0, 3, 6, 7) if k <= t)
        assert torch.equal(output.features[0], frame[latest].features[0])


def test_interval_one_is_per_frame():
    clip = colours(SHARES)[None]
    for threshold in (None, 0.5):
        for pipelined in (False, True):
            module = Clockwork(Deep(), Every(), threshold, pipelined=pipelined)
            lag = int(pipelined)
            frame = run(PerFrame(Deep()), clip)
            for t, output in enumerate(run(module, clip)):
                assert torch.equal(output.features[0], frame[max(0, t - lag)].features[0])


def test_a_pipelined_update_serves_from_the_next_frame_on():
    clip = colours(SHARES)[None]
    frame = run(PerFrame(Deep()), clip)
    outputs = run(Clockwork(Deep(), Fixed(99), 0.3, pipelined=True), clip)
    assert keys(outputs) == [0, 3, 6, 7]
    for output, served in zip(outputs, (0, 0, 0, 0, 3, 3, 3, 6), strict=True):
        assert torch.equal(output.features[0], frame[served].features[0])


@pytest.mark.parametrize("pipelined", [False, True])
@pytest.mark.parametrize("threshold", [None, 0.3])
def test_streams_whose_updates_differ_equal_streams_run_alone(threshold, pipelined):
    """Stream 1 begins a new video at step 2."""
    module = Clockwork(Deep(), Fixed(4), threshold, pipelined=pipelined)
    other = torch.cat((colours([0.9, 0.1], 1), colours(SHARES[:6], 2)))
    clips = torch.stack([colours(SHARES), other])
    starts = torch.zeros(2, LENGTH, dtype=torch.bool)
    starts[:, 0] = starts[1, 2] = True
    together = run(module, clips, starts)
    first = run(module, clips[:1])
    second = run(module, clips[1:, :2]) + run(module, clips[1:, 2:])
    assert keys(together, 0) == keys(first)
    assert keys(together, 1) == keys(second)
    for both, a, b in zip(together, first, second, strict=True):
        torch.testing.assert_close(both.features[0], torch.cat((a.features[0], b.features[0])))


def test_state_is_not_kept_on_the_module():
    module = Clockwork(Deep(), Fixed(9), 0.3)
    clips = [colours(SHARES)[None], colours(SHARES[::-1])[None]]
    alone = [run(module, clip) for clip in clips]
    states = [None, None]
    for t in range(LENGTH):
        for s in (0, 1):
            with torch.no_grad():
                output, states[s] = module.step(clips[s][:, t], torch.tensor([t == 0]), states[s])
            assert torch.equal(output.features[0], alone[s][t].features[0])


def test_another_resolution_starts_anew():
    module = Clockwork(Deep(), Fixed(9), 0.3)
    with torch.no_grad():
        _, state = module.step(colours([0.0]), torch.tensor([True]), None)
        output, _ = module.step(torch.rand(1, 3, 12, 16), torch.tensor([False]), state)
    assert output.is_key.all()


@pytest.mark.parametrize("pipelined", [False, True])
@pytest.mark.parametrize("threshold", [None, 0.3])
def test_forward_equals_unrolled_steps(threshold, pipelined):
    module = Clockwork(Deep(), Fixed(3), threshold, pipelined=pipelined)
    clips = torch.stack([colours(SHARES), colours(SHARES[::-1], 1)])
    steps = run(module, clips)
    is_key = torch.stack([output.is_key for output in steps], dim=1)
    targets = torch.tensor([[0, 3, 7], [6, 2, 3]])
    with torch.no_grad():
        together = module(clips, is_key, targets)
    wanted = [(b, t) for b, steps_of_b in enumerate(targets.tolist()) for t in steps_of_b]
    for row, (b, t) in enumerate(wanted):
        torch.testing.assert_close(together.features[0][row], steps[t].features[0][b])
        assert together.is_key[row] == steps[t].is_key[b]


def test_training_is_per_frame_training():
    module = Clockwork(Deep(), Fixed(3), 0.5).train()
    clip = colours([0.3])[None]
    output = module(clip, module.training_keys(torch.tensor([[4]])), torch.tensor([[0]]))
    output.features[0].sum().backward()
    assert module.features.weight.grad.abs() > 0


def test_shallow_and_deep_layers_are_metered_apart():
    watch = Stopwatch(torch.device("cpu"))
    with metering(watch):
        run(Clockwork(Deep(), Fixed(99), 0.3), colours(SHARES)[None])
    assert {name: len(calls) for name, calls in watch.seconds.items()} == {
        "shallow": 8,
        "N_feat": 4,
        "tail": 8,
    }


@pytest.mark.parametrize("threshold", [-0.1, 1.1])
def test_an_impossible_threshold_is_refused(threshold):
    with pytest.raises(ValueError, match=r"temporal.threshold=.*: expected 0\.\.1"):
        Clockwork(Deep(), Fixed(3), threshold)
