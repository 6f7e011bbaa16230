"""DFF: batched streams, direct propagation, and training as unrolled steps."""

import pytest
import torch
from torch import Tensor

from flowfeat.flow.zero import ZeroFlow
from flowfeat.interfaces import Output, TemporalModule
from flowfeat.key_frames.schedules import Every, Fixed
from flowfeat.ops.warp import resize_flow, warp
from flowfeat.temporal.feature_flow import FeatureFlow
from flowfeat.temporal.per_frame import PerFrame

LENGTH = 7


def video(seed: int, length: int = LENGTH, size: tuple[int, int] = (24, 32)) -> Tensor:
    return torch.rand(length, 3, *size, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def run(module: TemporalModule, clips: Tensor, starts: Tensor | None = None) -> list[Output]:
    """Stream clips (B, T, 3, H, W) step by step."""
    state, outputs = None, []
    for t in range(clips.shape[1]):
        first = torch.full((len(clips),), t == 0)
        output, state = module.step(clips[:, t], first if starts is None else starts[:, t], state)
        assert output is not None
        outputs.append(output)
    return outputs


def assert_same(a: Output, b: Output, exactly: bool = False) -> None:
    for one, other in zip(a.features, b.features, strict=True):
        torch.testing.assert_close(one, other, **({"rtol": 0, "atol": 0} if exactly else {}))


def test_interval_one_equals_per_frame_bit_for_bit(features, flow):
    clips = torch.stack([video(0), video(1)])
    for ours, frame in zip(
        run(FeatureFlow(features, flow, Every()), clips),
        run(PerFrame(features), clips),
        strict=True,
    ):
        assert_same(ours, frame, exactly=True)
        assert ours.is_key.all()


def test_zero_flow_copies_the_key_frame(features):
    copy = FeatureFlow(features, ZeroFlow(features.channels, features.strides), Fixed(3))
    clip = video(0)[None]
    frame = run(PerFrame(features), clip)
    for t, output in enumerate(run(copy, clip)):
        assert_same(output, frame[t - t % 3], exactly=True)
        assert output.is_key.tolist() == [t % 3 == 0]


def test_copying_shares_the_feature_network(features, flow):
    dff = FeatureFlow(features, flow, Fixed(3))
    clip = video(0)[None]
    zero = FeatureFlow(features, ZeroFlow(features.channels, features.strides), Fixed(3))
    for a, b in zip(run(dff.controls()["copy"], clip), run(zero, clip), strict=True):
        assert_same(a, b, exactly=True)
    assert dff.controls()["copy"].features is features


def test_controls_leave_out_what_they_say(features, flow):
    """On frame 1 of l = 3: warped or not, scaled or not; the method itself does both."""
    dff, clip = FeatureFlow(features, flow, Fixed(3)), video(0)[None]
    with torch.no_grad():
        key, (moved, scale, _) = features(clip[:, 0]), flow(clip[:, 1], clip[:, 0])
    copied, scaled = key[0], key[0] * scale[:, :6]
    expected = {
        "copy": copied,
        "no_flow": scaled,
        "no_scale": warp(copied, moved),
    }
    controls = dff.controls()
    assert controls.keys() == expected.keys()
    for name, control in controls.items():
        torch.testing.assert_close(run(control, clip)[1].features[0], expected[name])
    torch.testing.assert_close(run(dff, clip)[1].features[0], warp(copied, moved, scale[:, :6]))


def test_without_a_scale_field_the_only_control_is_the_copy(features):
    zero = ZeroFlow(features.channels, features.strides)
    assert FeatureFlow(features, zero, Fixed(3)).controls().keys() == {"copy"}


def test_a_scaled_key_frame_has_its_own_features_times_its_scale(features, flow):
    clip, l_3 = video(0)[None], Fixed(3)
    scaled, plain = (FeatureFlow(features, flow, l_3, scale_keys=on) for on in (True, False))
    ours, paper = run(scaled, clip), run(plain, clip)
    with torch.no_grad():
        own, scale = features(clip[:, 3]), flow(clip[:, 3], clip[:, 3]).scale
        half = torch.nn.functional.interpolate(scale[:, 6:], size=(3, 4), mode="bilinear")
    torch.testing.assert_close(ours[3].features[0], own[0] * scale[:, :6])
    torch.testing.assert_close(ours[3].features[1], own[1] * half)
    for t in (1, 2, 4, 5):  # what is kept for other frames is not scaled
        assert_same(ours[t], paper[t], exactly=True)


def test_a_scaled_key_frame_is_scaled_in_training_and_in_mixed_batches_too(features, flow):
    module = FeatureFlow(features, flow, Fixed(3), scale_keys=True)
    clips = torch.stack([video(0), video(1)])
    starts = torch.zeros(2, LENGTH, dtype=torch.bool)
    starts[:, 0], starts[1, 2] = True, True
    together = run(module, clips, starts)
    apart = run(module, clips[1:, 2:])
    for step, alone in zip(together[2:], apart, strict=True):
        for level, other in zip(step.features, alone.features, strict=True):
            torch.testing.assert_close(level[1], other[0])
    is_key = torch.zeros(2, LENGTH, dtype=torch.bool)
    is_key[:, 0], is_key[1, 2] = True, True
    targets = torch.tensor([[0, 1], [2, 3]])
    trained = module(clips, is_key, targets)
    expected = [(0, 0), (1, 0), (2, 1), (3, 1)]  # step, stream
    for row, (t, b) in enumerate(expected):
        torch.testing.assert_close(trained.features[0][row], together[t].features[0][b])


def test_propagation_is_direct_from_the_key_frame(features, flow):
    """Frame 3 of l = 5 comes from frame 0 by one warp per level, all under the finest flow."""
    clip = video(0)[None]
    with torch.no_grad():
        fine, coarse = features(clip[:, 0])
        moved, scale, _ = flow(clip[:, 3], clip[:, 0])
        expected_fine = warp(fine, moved, scale[:, :6])
        half = torch.nn.functional.interpolate(scale[:, 6:], size=(3, 4), mode="bilinear")
        expected_coarse = warp(coarse, resize_flow(moved, (3, 4), 0.5), half)
    output = run(FeatureFlow(features, flow, Fixed(5)), clip)[3]
    torch.testing.assert_close(output.features[0], expected_fine)
    torch.testing.assert_close(output.features[1], expected_coarse)


def test_feature_network_runs_on_key_frames_only(features, flow):
    run(FeatureFlow(features, flow, Fixed(3)), video(0)[None])
    assert features.frames_seen == 3  # frames 0, 3 and 6 of 7


def test_streams_whose_key_frames_differ_equal_streams_run_alone(features, flow):
    """Stream 1 begins a new video at step 2, so its key frames fall at other times."""
    module = FeatureFlow(features, flow, Fixed(3))
    clips = torch.stack([video(0), torch.cat((video(1)[:2], video(2)[: LENGTH - 2]))])
    starts = torch.zeros(2, LENGTH, dtype=torch.bool)
    starts[:, 0] = starts[1, 2] = True
    together = run(module, clips, starts)
    first = run(module, clips[:1])
    second = run(module, clips[1:, :2]) + run(module, clips[1:, 2:])
    assert [o.is_key.tolist() for o in together] == [
        [bool(a.is_key), bool(b.is_key)] for a, b in zip(first, second, strict=True)
    ]
    for both, a, b in zip(together, first, second, strict=True):
        for level in range(2):
            torch.testing.assert_close(
                both.features[level], torch.cat((a.features[level], b.features[level]))
            )


def test_state_is_not_kept_on_the_module(features, flow):
    """Two videos interleaved through one module give what they give alone."""
    module = FeatureFlow(features, flow, Fixed(4))
    alone = [run(module, video(s)[None]) for s in (0, 1)]
    states = [None, None]
    for t in range(LENGTH):
        for s in (0, 1):
            with torch.no_grad():
                output, states[s] = module.step(
                    video(s)[None, t], torch.tensor([t == 0]), states[s]
                )
            assert_same(output, alone[s][t], exactly=True)


def test_another_resolution_starts_anew(features, flow):
    module = FeatureFlow(features, flow, Fixed(9))
    start = torch.tensor([False])
    with torch.no_grad():
        _, state = module.step(video(0)[:1], torch.tensor([True]), None)
        output, _ = module.step(video(0, size=(40, 48))[:1], start, state)
    assert output.is_key.all()
    assert_same(output, run(PerFrame(features), video(0, size=(40, 48))[None, :1])[0])


@pytest.mark.parametrize("interval", [1, 2, 3, 7])
def test_forward_equals_unrolled_steps(features, flow, interval):
    module = FeatureFlow(features, flow, Fixed(interval))
    clips = torch.stack([video(0), video(1)])
    steps = run(module, clips)
    is_key = torch.stack([o.is_key for o in steps], dim=1)
    targets = torch.tensor([[0, 4, 6], [5, 2, 3]])
    with torch.no_grad():
        together = module(clips, is_key, targets)
    for b in range(2):
        for s in range(3):
            row, t = b * 3 + s, targets[b, s]
            for level in range(2):
                torch.testing.assert_close(
                    together.features[level][row], steps[t].features[level][b]
                )
            assert torch.equal(together.frames[row], clips[b, t])
            assert together.is_key[row] == steps[t].is_key[b]


def test_pairs_are_all_propagated_from_where_they_say(features, flow):
    """The l pairs of section 5.2 for i = 4: each equals a fresh stream that begins at k."""
    module = FeatureFlow(features, flow, Fixed(9))
    clip = video(0)[None]
    keys = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        ours = module.pairs(clip, keys, torch.full((1, 4), 4))
    for s, k in enumerate(keys[0].tolist()):
        alone = run(module, clip[:, k:5])[-1]
        for level in range(2):
            torch.testing.assert_close(ours.features[level][s], alone.features[level][0])


def test_a_target_without_a_key_frame_is_refused(features, flow):
    module = FeatureFlow(features, flow, Fixed(2))
    with pytest.raises(ValueError, match="key frame at or before"):
        module(video(0)[None], torch.zeros(1, LENGTH, dtype=torch.bool), torch.tensor([[3]]))


def test_training_keys_are_the_first_picture_and_its_repetitions(features, flow):
    module = FeatureFlow(features, flow, Fixed(10))
    indices = torch.tensor([[4, 9], [7, 7]])
    assert module.training_keys(indices).tolist() == [[True, False], [True, True]]


def test_a_batch_of_unmoved_pairs_still_gives_every_part_a_gradient(features, flow):
    module = FeatureFlow(features, flow, Fixed(10)).train()
    clip = video(0)[None, :2]
    output = module(clip, torch.tensor([[True, True]]), torch.tensor([[1]]))
    sum(level.sum() for level in output.features).backward()
    assert all(p.grad is not None and p.grad.abs().sum() == 0 for p in flow.parameters())
    assert features.fine.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("interval", [0, -1, 2.5, True])
def test_an_impossible_interval_is_refused(interval):
    with pytest.raises(ValueError, match=r"key_frames.interval: expected an integer >= 1, found"):
        Fixed(interval)
