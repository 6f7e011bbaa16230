"""How fast RGB with a method is beside RGB alone, and beside RGB with a second network on flow."""

import statistics
import time
from typing import cast

import torch
from torch import Tensor

from flowfeat.features.first_layer import copy_for_channels
from flowfeat.heads.recognition import Recognition
from flowfeat.interfaces import FeatureNetwork
from flowfeat.speed import run_stream, seconds_of
from flowfeat.tasks.recognition import RecognitionTask
from flowfeat.temporal.per_frame import PerFrame


def speeds_beside_flow(
    task: RecognitionTask,
    frames: Tensor,
    sizes: Tensor,
    channels: int,
    flow_seconds: float,
    seconds: float = 2.0,
    rounds: int = 5,
) -> dict[str, float]:
    """Time the task, its feature network alone, and a second one on flow, in turns.

    The network on flow is as large as that on RGB and has a classifier of its own, as in two
    streams (TSN); the flow of every segment is computed, not read.

    Args:
        task: On RGB.
        frames: (1, T, 3, H, W), segments of one video.
        sizes: (1, 2).
        channels: Of a segment of flow.
        flow_seconds: That it takes to compute one.
        seconds: Start no further round that would end later; the first two always run.
        rounds: At most so many.

    Returns:
        ``speed_over_rgb``: of RGB with the method over RGB alone, and ``speed_over_rgb_flow``: over
        RGB and flow; medians of the rounds' ratios.
    """
    features = cast(FeatureNetwork, task.parts()["features"])
    wide = copy_for_channels(features, channels)
    plain = Recognition(features.channels, features.strides, len(task.classes)).to(frames.device)
    flow = torch.rand(1, frames.shape[1], channels, *frames.shape[3:], device=frames.device)
    streams = (
        (task.temporal, task.head, frames),
        (PerFrame(features), plain, frames),
        (PerFrame(wide), plain, flow),
    )
    over_rgb: list[float] = []
    over_both: list[float] = []
    begin = time.perf_counter()
    for done in range(rounds + 1):
        own, rgb, second = (
            seconds_of(lambda s=s: run_stream(s[0], s[1].eval(), s[2], sizes), frames.device)  # type: ignore[misc]
            for s in streams
        )
        if done:  # the first one warms up
            over_rgb.append(rgb / own)
            over_both.append((rgb + second + frames.shape[1] * flow_seconds) / own)
        spent = time.perf_counter() - begin
        if done >= 2 and spent * (done + 2) / (done + 1) > seconds:
            break
    return {
        "speed_over_rgb": statistics.median(over_rgb),
        "speed_over_rgb_flow": statistics.median(over_both),
    }
