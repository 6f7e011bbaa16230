"""Adaptive schedules on streams made by hand: cuts, stills, pans; floors and ceilings."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from flowfeat.flow.zero import ZeroFlow
from flowfeat.interfaces import FeatureNetwork, Features, Flow, FlowNetwork
from flowfeat.key_frames.adaptive import UNRELATED, Adaptive, FlowMagnitude, Photometric
from flowfeat.key_frames.schedules import Every, Fixed
from flowfeat.speed import key_frame_interval
from flowfeat.temporal.feature_flow import FeatureFlow
from flowfeat.temporal.hold import Hold

SIZE = (32, 48)


class Pixels(FeatureNetwork):
    """The mean of every 8 x 8 pixels; counts its frames."""

    def __init__(self) -> None:
        super().__init__()
        self.channels, self.strides = (3,), (8,)
        self.frames_seen = 0

    def trunk(self, frames: Tensor) -> Features:
        self.frames_seen += len(frames)
        return (F.avg_pool2d(frames, 8, ceil_mode=True),)


class Told(FlowNetwork):
    """Finds the pan in the blue channel, whose mean is x / 100 when the camera is at x pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs_seen = 0

    def pyramid(self, current: Tensor, key: Tensor) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def forward(self, current: Tensor, key: Tensor) -> Flow:
        self.pairs_seen += len(current)
        moved = 100 * (current[:, 2] - key[:, 2]).mean((1, 2)) / 8
        flow = torch.stack((moved, torch.zeros_like(moved)), 1)[..., None, None]
        return Flow(flow.expand(-1, -1, SIZE[0] // 8, SIZE[1] // 8), None)


def texture(seed: int) -> Tensor:
    """Return a picture (3, 32, 192) of blocks of 8 x 8 pixels, without blue."""
    noise = torch.rand(3, 4, 24, generator=torch.Generator().manual_seed(seed))
    picture = noise.repeat_interleave(8, 1).repeat_interleave(8, 2)
    picture[2] = 0
    return picture


def pan(positions: list[int], seed: int = 0) -> Tensor:
    """Return frames (T, 3, *SIZE) seen at such positions of a texture."""
    frames = []
    for x in positions:
        frame = texture(seed)[..., x : x + SIZE[1]].clone()
        frame[2] = x / 100
        frames.append(frame)
    return torch.stack(frames)


@torch.no_grad()
def keys(module: FeatureFlow, clips: Tensor, starts: Tensor | None = None) -> list[list[int]]:
    """Stream clips (B, T, ...); return the key frames of every stream."""
    state, found = None, [[] for _ in clips]
    for t in range(clips.shape[1]):
        first = torch.full((len(clips),), t == 0) if starts is None else starts[:, t]
        output, state = module.step(clips[:, t], first, state)
        assert output.is_key.device.type == "cpu"
        for row in output.is_key.nonzero().flatten().tolist():
            found[row].append(t)
    return found


def photometric(**settings: float) -> Photometric:
    usual = {"interval": 5, "threshold": 0.3, "stride": 8, "times_age": False}
    return Photometric(**(usual | settings))


def magnitude(**settings: float) -> FlowMagnitude:
    usual = {"interval": 5, "threshold": 12.0, "stride": 8, "times_age": False}
    return FlowMagnitude(**(usual | settings))


STILL = pan([0] * 12)
CUT = torch.cat((pan([0] * 3), pan([0] * 9, seed=1)))


@pytest.mark.parametrize("schedule", [photometric(), magnitude()])
def test_a_still_stream_goes_to_the_ceiling(schedule):
    assert keys(FeatureFlow(Pixels(), Told(), schedule), STILL[None]) == [[0, 5, 10]]


def test_a_cut_makes_a_key_frame():
    assert keys(FeatureFlow(Pixels(), Told(), photometric()), CUT[None]) == [[0, 3, 8]]


def test_a_cut_waits_for_the_floor():
    module = FeatureFlow(Pixels(), Told(), photometric(interval=9, shortest=5))
    assert keys(module, CUT[None]) == [[0, 5]]


def test_a_floor_as_high_as_the_ceiling_is_fixed_and_asks_no_flow():
    flow = Told()
    module = FeatureFlow(Pixels(), flow, photometric(interval=4, shortest=4))
    assert not module.key_frames.needs_flow
    assert keys(module, CUT[None]) == keys(FeatureFlow(Pixels(), Told(), Fixed(4)), CUT[None])
    assert flow.pairs_seen == 12 - 3


def test_motion_beyond_the_threshold_makes_a_key_frame():
    """8 pixels a frame: 16 are more than 12; from the new key frame it counts anew."""
    clip = pan([0, 8, 16, 24, 32, 32, 32, 32, 32])[None]
    assert keys(FeatureFlow(Pixels(), Told(), magnitude()), clip) == [[0, 2, 4]]
    assert keys(FeatureFlow(Pixels(), Told(), magnitude(threshold=100)), clip) == [[0, 5]]


def test_what_the_flow_explains_is_no_change():
    """A pan of 8 of 48 pixels: 1 / 6 of the picture is new, the rest is explained exactly."""
    key, current = pan([0, 8]).split(1)
    flow = Told()(current, key)
    still = ZeroFlow((3,), (8,))(current, key)
    colour = torch.tensor([1.0, 1.0, 0.0])[:, None, None]  # without the camera's position
    change = photometric().change(current * colour, key * colour, flow)
    assert change.item() == pytest.approx(1 / 6, abs=1e-6)
    shown = (current * colour)[0]
    deviation = (shown - shown.mean((1, 2), keepdim=True)).abs().mean()
    copied = (current - key).abs().mul(colour).mean() / (4 / 3 * deviation)
    measured = photometric().change(current * colour, key * colour, still)
    assert measured.item() == pytest.approx(copied.item(), abs=1e-6)


@pytest.mark.parametrize("contrast", [0.2, 0.5, 1.0])
def test_a_cut_is_about_1_whatever_the_contrast(contrast):
    noise = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    cells = (0.5 + contrast * (noise - 0.5)).repeat_interleave(4, 2).repeat_interleave(4, 3)
    current, key = cells.split(1)
    still = Flow(torch.zeros(1, 2, 32, 32), None)
    assert photometric().change(current, key, still).item() == pytest.approx(1.0, abs=0.02)
    assert photometric().change(current, current, still) == 0


def test_a_frame_without_contrast_is_compared_with_the_least():
    black, dim = torch.zeros(1, 3, *SIZE), torch.full((1, 3, *SIZE), 0.001)
    still = Flow(torch.zeros(1, 2, SIZE[0] // 8, SIZE[1] // 8), None)
    assert photometric().change(black, black, still) == 0
    expected = 0.001 / (UNRELATED * 0.01)
    assert photometric().change(black, dim, still).item() == pytest.approx(expected, rel=1e-4)


def test_flow_is_measured_where_things_move_most():
    displacement = torch.zeros(1, 2, 10, 10)
    displacement[0, 0, 0] = 3  # a tenth of the picture moves by 3 cells
    flow = Flow(displacement, None)
    empty = torch.zeros(1, 3, 80, 80)
    assert magnitude().change(empty, empty, flow).item() == pytest.approx(24)
    assert magnitude(quantile=0.5).change(empty, empty, flow).item() == 0


@pytest.mark.parametrize(("speed", "interval"), [(1, 4), (4, 2), (16, 1)])
def test_with_the_age_the_rate_goes_with_the_square_root_of_the_speed(speed, interval):
    """speed * age ** 2 exceeds 15 first at age 4, 2 and 1."""
    module = FeatureFlow(Pixels(), Told(), magnitude(times_age=True, threshold=15.0, interval=9))
    clip = pan([speed * t for t in range(9)])[None]
    assert keys(module, clip) == [list(range(0, 9, interval))]


def test_flow_is_measured_in_pixels_of_the_frame():
    key, current = pan([0, 24]).split(1)
    assert magnitude().change(current, key, Told()(current, key)).item() == pytest.approx(24)


@pytest.mark.parametrize("schedule", [photometric(), photometric(shortest=2), magnitude()])
def test_streams_in_one_batch_decide_as_alone(schedule):
    clips = torch.stack((STILL, CUT, pan(list(range(0, 96, 8))), pan([0, 0, 40] * 4)))
    starts = torch.zeros(4, 12, dtype=torch.bool)
    starts[:, 0] = starts[0, 7] = starts[2, 1] = True
    together = keys(FeatureFlow(Pixels(), Told(), schedule), clips, starts)
    for row in range(4):
        alone = FeatureFlow(Pixels(), Told(), schedule)
        assert keys(alone, clips[row : row + 1], starts[row : row + 1]) == [together[row]]
        assert alone.features.frames_seen == len(together[row])
    assert len({tuple(k) for k in together}) > 2


def test_a_flow_is_computed_once_per_question():
    """No question where a stream starts (0) or the ceiling is reached (5, 10); one elsewhere."""
    flow = Told()
    keys(FeatureFlow(Pixels(), flow, photometric()), STILL[None])
    assert flow.pairs_seen == 12 - 3
    flow = Told()  # a cut asks, too, and then does not need the answer
    keys(FeatureFlow(Pixels(), flow, photometric()), CUT[None])
    assert flow.pairs_seen == 12 - 2


def test_propagation_uses_the_flow_that_decided():
    clips = torch.stack((pan([0, 8, 8]), CUT[1:4].flip(0), pan([0, 0, 8])))
    adaptive = FeatureFlow(Pixels(), Told(), photometric(threshold=0.5))
    fixed = FeatureFlow(Pixels(), Told(), Fixed(5))
    states = [None, None]
    for t in range(3):
        first = torch.full((3,), t == 0)
        ours, states[0] = adaptive.step(clips[:, t], first, states[0])
        plain, states[1] = fixed.step(clips[:, t], first, states[1])
        same = [0, 2] if t == 1 else [0, 1, 2] if t == 0 else [0, 2]
        assert torch.equal(ours.features[0][same], plain.features[0][same])
    assert ours.is_key.tolist() == [False, False, False]


def test_copies_keep_the_key_frames_of_the_method():
    module = FeatureFlow(Pixels(), Told(), magnitude())
    clip = pan([0, 8, 16, 24])[None]
    assert keys(module.controls()["copy"], clip) == keys(module, clip) == [[0, 2]]
    with torch.no_grad():
        key, state = module.controls()["copy"].step(clip[:, 0], torch.tensor([True]), None)
        copied, _ = module.controls()["copy"].step(clip[:, 1], torch.tensor([False]), state)
    assert torch.equal(copied.features[0], key.features[0])


def test_another_l_is_another_ceiling():
    module = FeatureFlow(Pixels(), Told(), photometric())
    with key_frame_interval(module, 3):
        assert keys(module, STILL[None]) == [[0, 3, 6, 9]]
    with key_frame_interval(module, 1):
        assert keys(module, STILL[None]) == [list(range(12))]
        assert module.flow.pairs_seen == 12 - 4  # none at l = 1
    assert module.key_frames == photometric()


def test_another_resolution_starts_anew():
    module = FeatureFlow(Pixels(), Told(), photometric())
    with torch.no_grad():
        _, state = module.step(STILL[:1], torch.tensor([True]), None)
        output, _ = module.step(STILL[:1, :, :24], torch.tensor([False]), state)
    assert output.is_key.all()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"interval": 0}, "key_frames.interval: expected an integer >= 1, found 0"),
        ({"shortest": 0}, "key_frames.shortest: expected an integer >= 1, found 0"),
        ({"interval": 2.5}, "key_frames.interval: expected an integer >= 1, found 2.5"),
        ({"threshold": -0.1}, "key_frames.threshold=-0.1: expected at least 0"),
    ],
)
def test_impossible_settings_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        photometric(**settings)


def test_an_impossible_quantile_is_refused():
    with pytest.raises(ValueError, match=r"key_frames.quantile=1.5: expected 0..1"):
        magnitude(quantile=1.5)


def test_methods_without_a_flow_refuse_to_ask_it():
    with pytest.raises(ValueError, match="expected fixed"):
        Hold(Pixels(), photometric())


def test_fixed_never_looks_at_what_lies_on_the_device():
    """Frames that cannot be read (on the meta device) do not hinder a fixed schedule."""
    frames = torch.empty(2, 3, *SIZE, device="meta")
    age = torch.tensor([0, 3])
    for schedule, expected in ((Fixed(3), [True, True]), (Every(), [True, True])):
        assert schedule(age, frames, frames, None).tolist() == expected
    schedule: Adaptive = photometric(shortest=4)
    young = schedule(torch.tensor([1, 3]), frames, frames, Flow(frames[:, :2], None))
    assert young.tolist() == [False, False]  # below the floor nothing is measured either
    assert replace(schedule, interval=2).interval == 2
