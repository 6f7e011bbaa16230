"""Measure the parts of a running method: `with part("N_feat")` costs nothing until a meter listens.

Temporal modules and runners name their parts where they run them, so one mechanism yields times and
FLOPs for every method on a real stream.
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode

Number = TypeVar("Number", int, float)

PARTS = ("decode", "preprocess", "shallow", "N_feat", "F", "W", "OFF", "tail", "N_task", "post")
"""The names in use. Where the first stages run on every frame, they are "shallow", and N_feat is
the rest. What Eq. 5 calls N_task is the feature network's tail (if the split point
moved), the head's convolutions (N_task) and the rest of the head (post)."""


class Meter(Protocol):
    """Receives the entry and exit of named parts."""

    def enter(self, name: str) -> Any:
        """Note that a part begins; the result is handed to ``leave``."""

    def leave(self, name: str, token: Any) -> None:
        """Note that a part ends."""

    def next_frame(self) -> None:
        """Note that a frame is done: what a part did for it in several calls becomes one."""


class Calls(Generic[Number]):
    """Costs by part, one entry per call until ``fold`` makes one per frame of them."""

    def __init__(self) -> None:
        self.costs: dict[str, list[Number]] = defaultdict(list)
        self._folded: dict[str, int] = {}

    def fold(self) -> None:
        """Add up the calls of each part since the last time."""
        for name, calls in self.costs.items():
            done = self._folded.get(name, 0)
            if len(calls) > done:
                calls[done:] = [sum(calls[done:])]
            self._folded[name] = len(calls)


_meter: ContextVar[Meter | None] = ContextVar("flowfeat_meter", default=None)


@contextmanager
def part(name: str) -> Iterator[None]:
    """Name the work inside the block; nested parts count in both."""
    meter = _meter.get()
    if meter is None:
        yield
        return
    token = meter.enter(name)
    try:
        yield
    finally:
        meter.leave(name, token)


@contextmanager
def metering(meter: Meter) -> Iterator[None]:
    """Let ``meter`` listen inside the block."""
    token = _meter.set(meter)
    try:
        yield
    finally:
        _meter.reset(token)


def next_frame() -> None:
    """Tell the listening meter, if any, that a frame is done."""
    meter = _meter.get()
    if meter is not None:
        meter.next_frame()


def counting() -> bool:
    """Say whether operations are being counted, which only what runs one by one shows."""
    return isinstance(_meter.get(), FlopMeter)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done its queued work (accelerators queue; a CPU does not)."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class Stopwatch:
    """Collects seconds per call of each part, with the device synchronised around it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._calls: Calls[float] = Calls()
        self.seconds = self._calls.costs

    def enter(self, name: str) -> float:
        """Start timing a part."""
        synchronize(self.device)
        return time.perf_counter()

    def leave(self, name: str, token: float) -> None:
        """Store the seconds since ``enter``."""
        synchronize(self.device)
        self.seconds[name].append(time.perf_counter() - token)

    def next_frame(self) -> None:
        """Make one entry of a part's calls for one frame."""
        self._calls.fold()


def _grid_sample_flops(
    features: tuple[int, ...],
    grid: tuple[int, ...],
    *args: object,
    out_shape: Any,
    **kwargs: object,
) -> int:
    """Bilinear sampling: four multiply-adds, two operations each, for every output value."""
    batch, channels = features[0], features[1]
    return 8 * batch * channels * grid[1] * grid[2]


def _weighted_rows_flops(
    table: tuple[int, ...], rows: tuple[int, ...], *args: object, **kwargs: object
) -> int:
    """Weighted sums of rows: a multiply-add, two operations, for every value read."""
    return 2 * math.prod(rows) * table[1]


class FlopMeter:
    """Collects floating-point operations (2 per multiply-add) per call of each part.

    Counted are convolutions, matrix products, attention and bilinear sampling, as papers count;
    element-wise work and normalisation are not. Works on the meta device too.
    """

    def __init__(self) -> None:
        self._calls: Calls[int] = Calls()
        self.flops = self._calls.costs

    def enter(self, name: str) -> FlopCounterMode:
        """Start counting a part."""
        sampling = torch.ops.aten.grid_sampler_2d, torch.ops.aten.cudnn_grid_sampler
        bags = torch.ops.aten._embedding_bag, torch.ops.aten._embedding_bag_forward_only
        formulas: dict[Any, Any] = dict.fromkeys(sampling, _grid_sample_flops)
        formulas |= dict.fromkeys(bags, _weighted_rows_flops)
        counter = FlopCounterMode(display=False, custom_mapping=formulas)
        counter.__enter__()
        return counter

    def leave(self, name: str, token: FlopCounterMode) -> None:
        """Store the operations since ``enter``."""
        token.__exit__(None, None, None)
        self.flops[name].append(token.get_total_flops())

    def next_frame(self) -> None:
        """Make one entry of a part's calls for one frame."""
        self._calls.fold()


def count_flops(function: Callable[[], object]) -> float:
    """Count the operations (2 per multiply-add) of one call, without gradients."""
    meter = FlopMeter()
    with torch.inference_mode(), metering(meter), part("all"):
        function()
    return float(meter.flops["all"][0])
