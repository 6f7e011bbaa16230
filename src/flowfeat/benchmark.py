"""`flowfeat-benchmark`: what a method costs on this machine, part by part, in one run."""

import copy
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig

from flowfeat import cli
from flowfeat.acceleration import Acceleration, acceleration_of
from flowfeat.benchmarking.end_to_end import end_to_end_figures
from flowfeat.benchmarking.page import page
from flowfeat.benchmarking.peers import peer_figures, reading_beside_pyav
from flowfeat.benchmarking.reading import reading_figures
from flowfeat.benchmarking.streams import (
    Parts,
    key_loads,
    measure_parts,
    memory_after,
    switch_times,
    throughput,
)
from flowfeat.benchmarking.training import training_figures
from flowfeat.build import build_data, build_task
from flowfeat.prediction import Describing
from flowfeat.profile import (
    Profile,
    build_random,
    comparisons,
    device_of,
    figures,
    frame_size,
)
from flowfeat.profile_tables import print_table, speed_table
from flowfeat.ratios import random_weights
from flowfeat.reproduction.machine import hardware, load_word, versions
from flowfeat.tasks.recognition import RecognitionTask
from flowfeat.tasks.video_task import VideoTask

log = logging.getLogger(__name__)


def benchmark(config: DictConfig, folder: Path) -> dict[str, float]:
    """Measure, print, and write `benchmark.json` and `benchmark.md` into the run folder."""
    settings = config.benchmark
    running = acceleration_of(config)
    device = device_of(config)
    pl.seed_everything(cli.checked_seed(config), workers=True, verbose=False)
    before = load_word()
    task = build_random(config).to(device)
    found: dict[str, float] = {}
    for height, width in _sizes(config):
        found |= _at_size(config, copy.deepcopy(task), (height, width), device, running)
    found |= _streams(config, task, device)
    if settings.peers:
        found |= peer_figures(_sizes(config)[0], settings.peers, device)
    if settings.video is not None:
        found |= _video(config, task, device, running)
    if settings.training_steps:
        found |= _training(config, folder)
    about = (
        f"{hardware()}; {device.type}, {torch.get_num_threads()} threads; load (processes that "
        f"wanted to run) {before} before, {load_word()} after; {versions()}. Random weights and "
        f"frames; medians; switches: {running}."
    )
    title = f"Benchmark of {config.task} / {config.method}"
    write(found, page(title, about, found), folder)
    log.info(f"{about}\nbenchmark: {folder / 'benchmark.md'}")
    return found


def _at_size(
    config: DictConfig,
    task: VideoTask,
    size: tuple[int, int],
    device: torch.device,
    running: Acceleration,
) -> dict[str, float]:
    """Return the parts, r and s at one size, and what OFF adds where the method has it."""
    frames = torch.rand(1, config.profile.frames, 3, *size, device=device)
    sizes = torch.tensor([size], device=device)
    parts = measure_parts(task, frames, sizes, config.profile.seconds, running)
    key_frames = task.temporal.key_frames
    interval = None if key_frames is None else key_frames.interval
    profile = Profile(interval, *parts, parameters={}, paper=None)
    name = f"{size[0]}x{size[1]}"
    wanted = [interval] if interval is not None else []
    if "F" in parts.flops.costs:
        log.info(name)
        print_table(speed_table(comparisons(profile, wanted)))
    if parts.stream.doubt:
        log.warning(f"the measured speed is doubtful: {parts.stream.doubt}")
    found = figures(profile, wanted)
    found |= {f"ms/frame_{share}": v for share, v in _latencies(parts).items()}
    if interval is not None and "F" in parts.flops.costs:
        measured = found[f"speedup/measured_l{interval}"]
        runs = parts.stream.runs
        found["s_of_eq7_time"] = measured / parts.seconds.speedup_of(runs)
        found["s_of_eq7_flops"] = measured / parts.flops.speedup_of(runs)
    return {f"{name}/{key}": value for key, value in (found | _off(parts)).items()}


def _latencies(parts: Parts) -> dict[str, float]:
    shares = {"p50": 0.5, "p95": 0.95, "max": 1.0}
    return {name: 1e3 * parts.stream.latency(share) for name, share in shares.items()}


def _off(parts: Parts) -> dict[str, float]:
    """Return what OFF costs over the feature network that it stands on."""
    ratios = {}
    for kind, costs in (("flops", parts.flops.costs), ("time", parts.seconds.costs)):
        if "OFF" in costs:
            below = sum(costs.get(part, 0.0) for part in ("shallow", "N_feat", "tail"))
            ratios[f"off_ratio/{kind}"] = costs["OFF"] / below
    return ratios


def _streams(config: DictConfig, task: VideoTask, device: torch.device) -> dict[str, float]:
    """Return switches, streams in one batch and memory, at the first size."""
    settings = config.benchmark
    size = _sizes(config)[0]
    key_frames = task.temporal.key_frames
    interval = 4 if key_frames is None else min(4, key_frames.interval)  # a key frame, three others
    frames = torch.rand(1, interval + 2 * task.temporal.delay, 3, *size, device=device)
    sizes = torch.tensor([size], device=device)
    small = (settings.memory_size[0], settings.memory_size[1])
    found = switch_times(task, frames, sizes, settings.switches, settings.turns)
    if settings.streams > 1:
        found |= throughput(task, frames, sizes, settings.streams, settings.turns)
        found |= key_loads(task, small, settings.streams, device)
    return found | memory_after(task, small, settings.memory_frames, device)


def _video(
    config: DictConfig, task: VideoTask, device: torch.device, running: Acceleration
) -> dict[str, float]:
    """Return what reading a video costs, and predicting it from end to end."""
    path, frames = config.benchmark.video, config.profile.frames
    data = build_data(config)
    found = reading_figures(data, path, frames, device)
    if config.benchmark.peers:
        found |= reading_beside_pyav(data, path, frames, config.benchmark.peers)
    if not isinstance(task, Describing) or isinstance(task, RecognitionTask):
        return found  # predicted in windows, or not at all
    task = running.prepare(copy.deepcopy(task), device)
    turns = config.benchmark.turns
    return found | end_to_end_figures(task, data, path, frames, turns, running, device)


def _training(config: DictConfig, folder: Path) -> dict[str, float]:
    settings = config.benchmark
    data = build_data(config)
    data.prepare_data()
    data.setup("fit")
    plain = config.copy()
    plain.features = random_weights(config.features)
    plain.flow = random_weights(config.flow)
    task = build_task(plain, data.classes)
    return training_figures(config, task, data, settings.training_steps, settings.turns, folder)


def _sizes(config: DictConfig) -> list[tuple[int, int]]:
    """Return the sizes to measure at.

    Raises:
        ValueError: Not a list of heights and widths.
    """
    if config.benchmark.sizes is None:
        return [frame_size(config)]
    sizes = [tuple(size) for size in config.benchmark.sizes]
    if not sizes or any(len(s) != 2 or not all(isinstance(v, int) for v in s) for s in sizes):
        raise ValueError(f"benchmark.sizes: expected [[height, width], ...], found {sizes}")
    return [(height, width) for height, width in sizes]


def write(found: Mapping[str, float], text: str, folder: Path) -> None:
    """Write the figures and the page, each at once or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (
        ("benchmark.json", json.dumps(dict(found), indent=2) + "\n"),
        ("benchmark.md", text),
    ):
        partial = folder / f".{name}.tmp"
        partial.write_text(content)
        os.replace(partial, folder / name)


def run(config: DictConfig, folder: Path) -> None:
    """Benchmark, and drop the figures."""
    if not config.temporal:
        raise ValueError(f"benchmark: method {config.method} runs on no stream, it trains F alone")
    benchmark(config, folder)


def main() -> None:
    """Entry point of `flowfeat-benchmark`."""
    cli.run(__name__)
