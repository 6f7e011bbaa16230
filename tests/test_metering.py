"""Parts are metered where they run: times, FLOPs against hand counts; free when nobody listens."""

import time

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from flowfeat.metering import FlopMeter, Stopwatch, count_flops, metering, next_frame, part

CPU = torch.device("cpu")


def test_parts_are_free_until_a_meter_listens() -> None:
    watch = Stopwatch(CPU)
    with part("N_feat"):
        pass
    with metering(watch), part("F"):
        pass
    with part("W"):
        pass
    assert list(watch.seconds) == ["F"]


@pytest.mark.usefixtures("clock")
def test_stopwatch_sees_the_time_spent_in_each_part() -> None:
    watch = Stopwatch(CPU)
    with metering(watch):
        with part("N_feat"):
            time.sleep(0.03)
            with part("inner"):
                time.sleep(0.02)
        with part("F"):
            time.sleep(0.01)
    (outer,), (inner,), (flow,) = (watch.seconds[n] for n in ("N_feat", "inner", "F"))
    assert (outer, inner, flow) == pytest.approx((0.05, 0.02, 0.01))


def test_a_part_that_fails_is_left_again() -> None:
    watch = Stopwatch(CPU)
    with pytest.raises(RuntimeError, match="broken"), metering(watch), part("F"):
        raise RuntimeError("broken")
    with part("F"):
        pass
    assert len(watch.seconds["F"]) == 1


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_flops_are_two_per_multiply_add(device: str) -> None:
    conv = nn.Conv2d(3, 8, 5, stride=2, padding=2, device=device)
    deconv = nn.ConvTranspose2d(8, 4, 4, 2, padding=1, device=device)
    linear = nn.Linear(4, 7, device=device)
    x = torch.zeros(2, 3, 9, 12, device=device)  # -> 5 x 6 -> 10 x 12
    convolution = 2 * (2 * 8 * 5 * 6) * (3 * 5 * 5)
    transposed = 2 * (2 * 8 * 5 * 6) * (4 * 4 * 4)  # every input cell meets every weight once
    matrix = 2 * (2 * 10 * 12) * 4 * 7
    total = count_flops(lambda: linear(deconv(conv(x)).permute(0, 2, 3, 1)))
    assert total == convolution + transposed + matrix


def test_bilinear_sampling_is_four_multiply_adds_per_value() -> None:
    x, grid = torch.zeros(2, 5, 8, 8), torch.zeros(2, 3, 4, 2)
    assert count_flops(lambda: F.grid_sample(x, grid, align_corners=False)) == 2 * 5 * 3 * 4 * 8


def test_nested_parts_count_in_both_and_calls_apart() -> None:
    linear = nn.Linear(4, 4, bias=False)
    meter = FlopMeter()
    with torch.no_grad(), metering(meter):
        for rows in (1, 3):
            with part("outer"):
                linear(torch.zeros(rows, 4))
                with part("inner"):
                    linear(torch.zeros(2, 4))
    assert meter.flops == {"outer": [32 + 64, 96 + 64], "inner": [64, 64]}


def test_calls_for_one_frame_are_one_cost() -> None:
    meter = FlopMeter()
    square = torch.ones(2, 2)
    with metering(meter):
        for calls in (2, 1):
            for _ in range(calls):
                with part("OFF"):
                    square @ square
            next_frame()
        with part("W"):
            square @ square
    next_frame()  # nobody listens any more
    assert meter.flops == {"OFF": [32, 16], "W": [16]}
