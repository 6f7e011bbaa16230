"""OpenCV's flow through the wrapper: the bare call's values, and every frame turned grey once."""

import copy
from typing import get_args

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from flowfeat.features.timm_features import TimmFeatures
from flowfeat.flow.opencv_flow import DIS, Farneback, Preset
from flowfeat.key_frames.schedules import Fixed
from flowfeat.temporal.feature_flow import FeatureFlow


def textures(seed: int, count: int, height: int, width: int) -> torch.Tensor:
    """Return smooth random frames (count, 3, H, W) that move by 3 and -2 pixels."""
    noise = torch.rand(1, 3, height + 40, width + 40, generator=torch.Generator().manual_seed(seed))
    smooth = F.avg_pool2d(noise, 5, 1, 2)[0]
    whole = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    places = [(20 + 3 * n, 20 - 2 * n) for n in range(count)]
    return torch.stack([whole[:, y : y + height, x : x + width] for x, y in places])


def gray(frame: torch.Tensor) -> np.ndarray:
    """Turn a frame (3, H, W) grey the long way."""
    picture = (frame.double() * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
    return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)


@pytest.mark.parametrize("size", [(96, 128), (75, 101)])
@pytest.mark.parametrize("preset", get_args(Preset))
def test_dis_is_the_bare_call_on_the_same_greys(preset, size):
    frames = textures(0, 3, *size)
    for current, key in ((1, 0), (2, 0)):  # the key frame's grey is an old one in the second
        ours = DIS((1,), (1,), preset=preset).displacement(frames[[current]], frames[[key]])
        bare = cv2.DISOpticalFlow.create(get_args(Preset).index(preset))
        theirs = bare.calc(gray(frames[current]), gray(frames[key]), None)
        assert np.array_equal(ours[0].permute(1, 2, 0).numpy(), theirs)


@pytest.mark.parametrize("preset", get_args(Preset))
def test_no_field_of_zeros_is_given_to_start_from(preset):
    """Where nothing matches, a start changes what is found: by many pixels here."""
    current, key = textures(7, 1, 151, 202), textures(8, 1, 151, 202)
    ours = DIS((1,), (1,), preset=preset).displacement(current, key)
    bare = cv2.DISOpticalFlow.create(get_args(Preset).index(preset))
    grays, zeros = (gray(current[0]), gray(key[0])), np.zeros((151, 202, 2), np.float32)
    without, started = bare.calc(*grays, None), bare.calc(*grays, zeros)
    assert np.abs(without - started).max() > 1
    assert np.array_equal(ours[0].permute(1, 2, 0).numpy(), without)


def test_farneback_is_the_bare_call_on_the_same_greys():
    frames = textures(1, 2, 75, 101)
    ours = Farneback((1,), (1,)).displacement(frames[1:], frames[:1])
    grays = gray(frames[1]), gray(frames[0])
    theirs = cv2.calcOpticalFlowFarneback(*grays, None, 0.5, 5, 15, 3, 5, 1.1, 0)
    assert np.array_equal(ours[0].permute(1, 2, 0).numpy(), theirs)


@pytest.mark.parametrize("size", [(96, 128), (75, 101)])
def test_half_size_is_the_bare_call_on_pooled_frames(size):
    frames = textures(2, 2, *size)
    ours = DIS((1,), (2,), halve=True)(frames[1:], frames[:1]).displacement
    grays = [gray(F.avg_pool2d(frame, 2, ceil_mode=True)) for frame in frames.double()]
    theirs = cv2.DISOpticalFlow.create(2).calc(grays[1], grays[0], None)
    assert np.array_equal(ours[0].permute(1, 2, 0).numpy(), theirs)


@pytest.mark.parametrize("halve", [False, True])
def test_a_stream_turns_every_frame_grey_once(halve, monkeypatch):
    """Two streams of 6 frames at l = 3: 12 frames, though key frames serve two calls each."""
    torch.manual_seed(0)
    features = TimmFeatures("test_resnet", reduce_to=8).eval()
    flow = DIS(features.trunk_channels, features.trunk_strides, halve)
    method = FeatureFlow(features, flow, Fixed(3)).eval()
    clips = torch.stack((textures(3, 6, 64, 96), textures(4, 6, 64, 96)))
    turned, convert = [], cv2.cvtColor

    def count(picture, code):
        turned.append(picture.copy())
        return convert(picture, code)

    monkeypatch.setattr(cv2, "cvtColor", count)
    monkeypatch.setattr("flowfeat.ops.pieces.PIXELS", 64 * 96)  # one row at a time
    with torch.inference_mode():
        state = None
        for step in range(6):
            _, state = method.step(clips[:, step], torch.tensor([step == 0] * 2), state)
    assert len(turned) == 12
    assert len({picture.tobytes() for picture in turned}) == 12


def test_a_frame_that_was_written_to_counts_anew():
    frames = textures(5, 2, 64, 96)
    flow = DIS((1,), (1,))
    before = flow.displacement(frames[1:], frames[:1])
    assert before.abs().mean() > 1
    frames[0] = frames[1]
    assert flow.displacement(frames[1:], frames[:1]).abs().mean() < 0.1


def test_a_copy_gives_the_same():
    frames = textures(6, 2, 64, 96)
    flow = DIS((1,), (4,))
    expected = flow(frames[1:], frames[:1]).displacement
    assert torch.equal(copy.deepcopy(flow)(frames[1:], frames[:1]).displacement, expected)


@torch.inference_mode()
def test_compiled_it_gives_the_same():
    frames = textures(6, 2, 64, 96)
    flow = DIS((1,), (4,))
    compiled = torch.compile(flow, backend="eager")(frames[1:], frames[:1]).displacement
    assert torch.equal(compiled, flow(frames[1:], frames[:1]).displacement)
