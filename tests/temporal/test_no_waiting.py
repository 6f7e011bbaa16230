"""No step reads a value from the device: the meta device has none, so any such read fails."""

from contextlib import nullcontext

import pytest
import torch

from flowfeat.key_frames.schedules import Fixed
from flowfeat.temporal.feature_flow import FeatureFlow


@pytest.mark.parametrize("staggered", [False, True])
def test_a_fixed_schedule_never_makes_the_host_wait(
    features, flow, staggered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # meta knows none
    method = FeatureFlow(features, flow, Fixed(interval=3)).to("meta").eval()
    state, seen = None, []
    for t in range(7):
        frames = torch.empty(2, 3, 32, 48, device="meta")
        starts = torch.tensor([t == 0, t == (2 if staggered else 0)]) | torch.tensor([t == 0] * 2)
        with torch.inference_mode():
            output, state = method.step(frames, starts, state)
        seen.append(output.is_key.tolist())
        assert output.features[0].device.type == "meta"
    expected = [[t % 3 == 0] * 2 for t in range(7)]
    if staggered:
        expected = [[t % 3 == 0, t == 0 or t % 3 == 2] for t in range(7)]
    assert seen == expected


def test_reading_from_the_meta_device_fails() -> None:
    """What the test above rests on."""
    with pytest.raises((RuntimeError, NotImplementedError)):
        bool(torch.ones(1, device="meta").any())
