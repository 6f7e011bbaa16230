"""`flowfeat-profile`: FLOPs, times and parameters of a config's parts, r and s; needs no data."""

import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
from omegaconf import DictConfig

from flowfeat import cli
from flowfeat.build import build_data, build_task
from flowfeat.profile_tables import Comparison, part_table, print_table, ratio_table, speed_table
from flowfeat.ratios import (
    TABLE_2,
    best_flow,
    inverse_ratios,
    leaves,
    meta_features,
    paper_ratio,
    random_weights,
)
from flowfeat.speed import (
    PartCosts,
    key_frame_interval,
    part_flops,
    part_seconds,
)
from flowfeat.stream_speed import StreamSpeed, measure_stream
from flowfeat.tasks.video_task import VideoTask, video_task

log = logging.getLogger(__name__)

PAPER_SIZE = (600, 1000)
NO_GAIN = 1.5  # a speedup below it is not worth the loss of accuracy

NAMES = {"N_feat": "features", "F": "flow", "W": "warp", "N_task": "head"}
"""Metered parts -> names in `profile.json`; other parts keep theirs."""


class Profile(NamedTuple):
    """What a model costs."""

    interval: int | None  # l of the config; None for methods without key frames
    flops: PartCosts
    seconds: PartCosts | None  # None: not timed
    stream: StreamSpeed | None
    parameters: dict[str, int]
    paper: float | None  # 1/r in the paper's Table 2, where the networks are the paper's
    adaptive: bool = False  # l is a ceiling: what runs is known only where it was measured


def frame_size(config: DictConfig, default: tuple[int, int] | None = None) -> tuple[int, int]:
    """Return the height and width to profile at.

    Raises:
        ValueError: Neither `profile.size` nor the sides of the data tell.
    """
    size = config.profile.size or default
    if size is None and isinstance(config.data.get("crop"), int):
        size = (config.data.crop, config.data.crop)  # what recognition sees of a frame
    if size is None:
        size = (config.data.get("short_side"), config.data.get("long_side"))
    if len(size) != 2 or any(not isinstance(side, int) or side < 1 for side in size):
        raise ValueError(f"profile.size: expected [height, width], found {list(size)}")
    return size[0], size[1]


def build_random(config: DictConfig) -> VideoTask:
    """Build the task of a config with random weights, for as many classes as the data have."""
    config = config.copy()
    config.features = random_weights(config.features)
    config.flow = random_weights(config.flow)
    number = config.profile.num_classes
    if number is None:
        classes: tuple[str, ...] = build_data(config).classes
    else:
        classes = tuple(f"class {index}" for index in range(number))
    return video_task(build_task(config, classes), f"profile method={config.method}").eval()


def measure(config: DictConfig, size: tuple[int, int], device: torch.device) -> Profile:
    """Count and time the model of a config on random frames of H by W.

    Raises:
        ValueError: Fewer than two frames.
    """
    settings = config.profile
    if settings.frames < 2:
        raise ValueError(f"profile.frames={settings.frames}: expected at least 2")
    task = build_random(config).to(device)
    frames = torch.rand(1, settings.frames, 3, *size, device=device)
    stream = (task.temporal, task.head, frames, torch.tensor([size], device=device))
    key_frames = task.temporal.key_frames
    interval = None if key_frames is None else key_frames.interval
    at_work: AbstractContextManager[None] = nullcontext()
    if interval == 1:  # at l = 1 the flow network never runs, but its cost is asked for
        at_work = key_frame_interval(task.temporal, 2)
    with at_work:
        flops = part_flops(*stream)
        seconds = part_seconds(*stream, seconds=settings.seconds / 4) if settings.time else None
    speed = measure_stream(*stream, seconds=settings.seconds) if settings.time else None
    parameters = {
        name: sum(p.numel() for p in part.parameters()) for name, part in task.parts().items()
    }
    paper = None
    if "F" in flops.costs and config.flow:
        paper = paper_ratio(config.features, task.temporal.parts()["features"], config.flow)
    adaptive = key_frames is not None and key_frames.needs_flow
    return Profile(interval, flops, seconds, speed, parameters, paper, adaptive)


def figures(profile: Profile, intervals: Sequence[int]) -> dict[str, float]:
    """Return what `profile.json` holds; s of Eq. 7 at the given l."""
    out = {f"gflops/{NAMES.get(k, k)}": v / 1e9 for k, v in profile.flops.costs.items()}
    out |= {f"params/{name}": float(count) for name, count in profile.parameters.items()}
    if profile.seconds is not None:
        out |= {f"ms/{NAMES.get(k, k)}": v * 1e3 for k, v in profile.seconds.costs.items()}
    own = "" if profile.interval is None else f"_l{profile.interval}"
    if profile.stream is not None:
        out[f"fps/measured{own}"] = profile.stream.fps
        if profile.interval is not None:
            out[f"speedup/measured{own}"] = profile.stream.speedup
            out[f"speedup/spread{own}"] = profile.stream.spread
    if "F" not in profile.flops.costs:
        return out
    for row in comparisons(profile, intervals):
        for kind in ("flops", "time", "paper"):
            value = getattr(row, kind)
            if value is not None and math.isfinite(value):
                out[row.key.format(kind)] = value
    return out


def comparisons(profile: Profile, intervals: Sequence[int]) -> list[Comparison]:
    """Lay r and s side by side: by FLOPs, by times, measured, and in the paper."""
    flops, seconds = profile.flops, profile.seconds
    rows = [
        Comparison(
            "inverse_r/{}",
            "1/r: N_feat over F (Eq. 6)",
            flops.inverse_ratio_eq6,
            None if seconds is None else seconds.inverse_ratio_eq6,
            paper=profile.paper,
        ),
        Comparison(
            "inverse_r/eq5_{}",
            "1/r with W and N_task (Eq. 5)",
            1 / flops.ratio,
            None if seconds is None else 1 / seconds.ratio,
        ),
    ]
    for interval in intervals:
        own = profile.stream if interval == profile.interval else None
        if own is None and profile.adaptive:
            continue
        rows.append(
            Comparison(
                f"speedup_eq7/{{}}_l{interval}",
                f"s at l = {interval} (Eq. 7)",
                _eq7(flops, interval, own),
                None if seconds is None else _eq7(seconds, interval, own),
                None if own is None else own.speedup,
            )
        )
    return rows


def _eq7(costs: PartCosts, interval: int, measured: StreamSpeed | None) -> float:
    """Return s of Eq. 7, by what ran where a stream was measured."""
    return costs.speedup(interval) if measured is None else costs.speedup_of(measured.runs)


def gain_warning(config: DictConfig, flops: PartCosts, size: tuple[int, int]) -> str | None:
    """Say in one line that a backbone is too light for its flow network, and which one helps."""
    interval = config.key_frames.get("interval", 1)
    if interval == 1 or "F" not in flops.costs or flops.speedup(interval) >= NO_GAIN:
        return None
    features = meta_features(config.features, config.trust)
    name, speedup = best_flow(flops, features, size, interval, config.trust)
    now = flops.speedup(interval)
    gain = f"{'little' if now > 1 else 'no'} gain: s = {now:.2f} by FLOPs at l = {interval}"
    return f"{gain}; flow={name} would give s = {speedup:.2f}"


def profile_model(config: DictConfig) -> dict[str, float]:
    """Profile one config, print its tables and return its figures."""
    if not config.temporal:
        raise ValueError(f"profile: method {config.method} runs on no stream, it trains F alone")
    size = frame_size(config)
    device = device_of(config)
    profile = measure(config, size, device)
    intervals = sorted({*config.evaluation.get("intervals", ()), profile.interval or 1} - {1})
    title = f"{config.task} / {config.method}, {size[0]} x {size[1]}, {_name(device)}"
    print_table(part_table(title, profile.flops, profile.seconds, profile.parameters, NAMES))
    if "F" in profile.flops.costs:
        print_table(speed_table(comparisons(profile, intervals)))
    if profile.stream is not None:
        log.info(f"{profile.stream.fps:.2f} frames per second on a stream of random frames")
        if profile.stream.doubt:
            log.warning(f"the measured speed is doubtful: {profile.stream.doubt}")
    warning = gain_warning(config, profile.flops, size)
    if warning:
        log.warning(warning)
    return figures(profile, intervals)


def compare(config: DictConfig) -> dict[str, float]:
    """Print 1/r of feature networks times flow networks, and return it by name."""
    if config.profile.table2:
        size = frame_size(config, PAPER_SIZE)
        names = sorted({features for features, _ in TABLE_2}, key=len)
        ratios = {k: v for k, v in inverse_ratios(names, size).items() if k in TABLE_2}
        title = "Table 2: 1/r of Eq. 6 (in brackets: the paper's, and ours beside it)"
    else:
        size = frame_size(config)
        chosen = config.profile.compare
        names = list(leaves("features")) if chosen is True else [str(name) for name in chosen]
        ratios = inverse_ratios(names, size, config.trust)
        title = "1/r of Eq. 6"
    paper = TABLE_2 if config.profile.table2 else {}
    print_table(ratio_table(f"{title}, {size[0]} x {size[1]}", ratios, paper))
    return {f"inverse_r/{features}/{flow}": value for (features, flow), value in ratios.items()}


def write(figures: Mapping[str, float], folder: Path) -> Path:
    """Write `profile.json` atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "profile.json"
    partial = path.with_suffix(".json.tmp")
    partial.write_text(json.dumps(dict(figures), indent=2) + "\n")
    os.replace(partial, path)
    return path


def profile(config: DictConfig, folder: Path) -> dict[str, float]:
    """Run one profile as composed, into its run folder."""
    settings = config.profile
    result = compare(config) if settings.table2 or settings.compare else profile_model(config)
    log.info(f"profile: {write(result, folder)}")
    return result


def device_of(config: DictConfig) -> torch.device:
    """Return the device of `profile.device`; ValueError where this machine has none such."""
    name = str(config.profile.device)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch raises either for a missing device
        raise ValueError(f"profile.device={name}: {str(error).splitlines()[0]}") from error


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"


def run(config: DictConfig, folder: Path) -> None:
    """Profile, and drop the figures."""
    profile(config, folder)


def main() -> None:
    """Entry point of `flowfeat-profile`."""
    cli.run(__name__)
