"""`flowfeat-predict`: any video or frame folder -> annotated video and JSON lines."""

import logging
import os
import sys
import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, ListConfig

from flowfeat import cli, overrides
from flowfeat.acceleration import acceleration_of
from flowfeat.action_prediction import WindowsSummary, write_windows
from flowfeat.action_windows import ActionWindows, off_pace, window_of
from flowfeat.build import build_data
from flowfeat.checkpoint import restore_task
from flowfeat.commands import PREDICT
from flowfeat.prediction import (
    LabelMapping,
    ModelClock,
    Restoring,
    Summary,
    measure_baseline,
)
from flowfeat.speed import run_stream
from flowfeat.tasks.recognition import RecognitionTask
from flowfeat.tasks.video_task import VideoTask, video_task
from flowfeat.video_prediction import Drawing, Finals, Video, predict_video
from flowfeat.video_writer import PRESETS

log = logging.getLogger(__name__)

OF_ACTIONS = ("window", "stride")
"""Arguments of recognition alone, in seconds: length and distance of the windows."""
WINDOW = 2.0  # seconds, where a checkpoint does not say what its training saw
DAY = 86400  # seconds, the longest window
CRF = 20  # quality of the video, where the task does not want another
PRESET = "veryfast"  # of the encoder: at the same quality 2 to 3 times as fast as its own default


def predict(stored: overrides.Stored, arguments: Mapping[str, str]) -> str:
    """Predict one video and write `<out>/<name>.mp4` and `<out>/<name>.jsonl`.

    Recognition writes a line per window, and `<out>/<name>_timeline.png`; see ``_predict_actions``.
    With `baseline=40` the first 40 frames are also timed beside the per-frame network. With
    `label_maps=true` also one PNG per frame, whose grey values are labels, in
    `<out>/<name>_labels/`. With `side_by_side=true` the video shows each frame before and after.

    Args:
        stored: The checkpoint and its config.
        arguments: Those of the command line, see ``commands.PREDICT``.

    Returns:
        The summary line.

    Raises:
        FileNotFoundError, ValueError: The video cannot be opened or read to its end.
        KeyboardInterrupt: By the user; nothing is left under the final names.
    """
    most = overrides.whole(arguments, "baseline", 0, least=0)
    wants_maps = overrides.switch(arguments, "label_maps")
    fabric = _fabric(stored.config)
    task = video_task(restore_task(stored.checkpoint, stored.config), str(stored.checkpoint.path))
    running = acceleration_of(stored.config)
    running.prepare(task.to(fabric.device), fabric.device)
    path = Path(os.path.abspath(Path(arguments["video"]).expanduser()))
    if isinstance(task, RecognitionTask):
        return _predict_actions(task, stored, arguments, path, fabric)
    for name in set(OF_ACTIONS) & set(arguments):
        raise cli.UsageError(f"{name}: task {stored.config.task} is predicted frame by frame")
    drawing = _drawing(arguments, task)
    video = Video(path, build_data(stored.config), fabric.device)
    finals = Finals(*_finals(stored, arguments, video))
    if wants_maps and not isinstance(task, LabelMapping):
        raise cli.UsageError(f"label_maps=true: task {stored.config.task} predicts no label maps")
    if wants_maps:
        finals = finals._replace(maps=finals.video.with_name(f"{video.name}_labels"))
    clock = ModelClock(fabric.device)
    with fabric.autocast(), running.at_work(fabric.device):
        _warm_up(task, video)
        begin = time.perf_counter()
        try:
            predict_video(task, video, clock, finals, drawing)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"{path}: interrupted after {clock.frames} of {len(video.source)} frames, "
                "nothing was written"
            ) from None
        seconds = time.perf_counter() - begin
        log.info(f"wrote {finals.video} and {finals.lines.name}")
        if most and task.temporal.key_frames is None:
            log.info(f"baseline={most}: nothing to compare, the method has no key frames")
        elif most:
            log.info(f"comparing with per-frame evaluation on the first {most} frames at most")
        baseline = measure_baseline(task, video.chunks(), most)
    return Summary(video.name, clock.frames, seconds, clock.seconds, baseline).line(task.temporal)


def _predict_actions(
    task: RecognitionTask,
    stored: overrides.Stored,
    arguments: Mapping[str, str],
    path: Path,
    fabric: Fabric,
) -> str:
    """Recognise actions in windows of ``window`` seconds, one every ``stride`` seconds.

    By default segments lie as far apart in time as in training, and half of a window is new.

    Each is scored as a test video, with beta segments (``clip.beta``) at equal steps in time. The
    video shows the best classes of the window whose centre is nearest, those of a probability from
    ``threshold`` (0) on.
    """
    for name in ("label_maps", "side_by_side"):
        if overrides.switch(arguments, name):
            raise cli.UsageError(f"{name}=true: task {stored.config.task} predicts no pictures")
    data, trained = build_data(stored.config), stored.checkpoint.measured.get("step_seconds")
    fitting = WINDOW if trained is None else window_of(trained, data.sampler)
    window = _seconds(arguments, "window", fitting)
    stride = _seconds(arguments, "stride", window / 2)
    drawing = _drawing({"threshold": "0", **arguments}, task)
    video = ActionWindows(path, data, window, stride, fabric.device)
    if "step_seconds" not in stored.checkpoint.measured:
        log.warning(
            f"{stored.checkpoint.path}: does not keep the time between segments in training "
            f"(an older version wrote it), so window={window:g} may be far from it"
        )
    elif trained is not None and (warning := off_pace(video.step, trained, fitting)):
        log.warning(f"window={window:g}: {warning}")
    finals = _finals(stored, arguments, video)
    picture = finals[0].with_name(f"{video.name}_timeline.png")
    clock = ModelClock(fabric.device)
    running = acceleration_of(stored.config)
    begin = time.perf_counter()
    try:
        with fabric.autocast(), running.at_work(fabric.device):
            write_windows(
                task,
                video,
                clock,
                (*finals, picture),
                drawing.threshold,
                drawing.crf,
                drawing.preset,
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"{path}: interrupted after {video.shown} of {len(video.source)} frames, "
            "nothing was written"
        ) from None
    seconds = time.perf_counter() - begin
    log.info(f"wrote {finals[0]}, {finals[1].name} and {picture.name}")
    cost = data.segment_seconds(data.modality, video.source)
    return WindowsSummary(video.name, len(video.windows), video.shown, seconds, clock, cost).line()


def _seconds(arguments: Mapping[str, str], name: str, default: float) -> float:
    if name not in arguments:
        return default
    value = overrides.number(arguments, name, default, least=0.1)
    if value > DAY:
        raise cli.UsageError(f"{name}={arguments[name]}: expected 0.1 .. {DAY} seconds")
    return value


def _drawing(arguments: Mapping[str, str], task: VideoTask) -> Drawing:
    crf = overrides.number(
        arguments, "crf", task.crf if isinstance(task, Restoring) else CRF, least=0
    )
    if crf != int(crf) or crf > 51:
        raise cli.UsageError(f"crf={arguments['crf']}: expected a whole number, 0 .. 51")
    preset = arguments.get("preset", PRESET)
    if preset not in PRESETS:
        raise cli.UsageError(f"preset={preset}: expected one of {', '.join(PRESETS)}")
    threshold = overrides.number(arguments, "threshold", 0.3, least=0)
    return Drawing(threshold, overrides.switch(arguments, "side_by_side"), int(crf), preset)


def _fabric(config: DictConfig) -> Fabric:
    """Choose device and precision as the config's trainer does, for one process.

    Raises:
        ValueError: A device that this machine lacks.
    """
    accelerator = config.trainer.get("accelerator", "auto")
    devices = one_device(config)
    try:
        fabric = Fabric(
            accelerator=accelerator,
            devices=devices,
            precision=config.trainer.get("precision", "32-true"),
        )
    except (MisconfigurationException, RuntimeError, TypeError, ValueError) as error:
        chosen = f"trainer.accelerator={accelerator}, trainer.devices={devices}"
        raise ValueError(f"{chosen}: {error}") from error
    if fabric.device.type == "cuda":  # where streams and graphs are made
        torch.cuda.set_device(fabric.device)
    return fabric


def one_device(config: DictConfig) -> int | list[int]:
    """Return the first of the devices that the config's trainer names, or how many: one."""
    devices = config.trainer.get("devices", 1)
    return [devices[0]] if isinstance(devices, ListConfig) and devices else 1


def _finals(
    stored: overrides.Stored, arguments: Mapping[str, str], video: Video | ActionWindows
) -> tuple[Path, Path]:
    """Name the two files to write, and see that they can be."""
    default = stored.checkpoint.path.resolve().parent / "predictions"
    out = Path(arguments.get("out") or default).expanduser()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cli.UsageError(f"out={out}: {cli.one_line(error)}") from error
    if not os.access(out, os.W_OK):
        raise cli.UsageError(f"out={out}: not a writable folder")
    finals = out / f"{video.name}.mp4", out / f"{video.name}.jsonl"
    if any(path.resolve() == video.path.resolve() for path in finals):
        raise cli.UsageError(f"out={out}: would replace the video itself, choose another folder")
    return finals


def _warm_up(task: VideoTask, video: Video) -> None:
    """Run two frames, so that what happens once (memory, choice of kernels) is not timed."""
    for chunk in islice(video.chunks(), 1):
        run_stream(task.temporal, task.head, chunk.batch["frames"][:, :2], chunk.batch["sizes"])


def main() -> None:
    """Entry point of `flowfeat-predict`."""
    cli.quiet_lightning()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        command = PREDICT.command()
        log.info(predict(overrides.open_stored(command), command.arguments))
    except cli.user_errors() as error:
        cli.fail(error)
    except KeyboardInterrupt as error:
        sys.stderr.write(f"flowfeat: {str(error) or 'interrupted'}\n")
        raise SystemExit(130) from None
