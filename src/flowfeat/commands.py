"""The console scripts: read the command line, and import what does the work when it is right.

torch and Lightning take seconds to import. Help, a mistyped key and a file that is not there are
said before; what only a network or a checkpoint can tell comes after.
"""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from flowfeat import cli, overrides
from flowfeat.reproduction.table import read_tables
from flowfeat.sweeping.sweep_file import read_sweep


class Script(NamedTuple):
    """How a script is called that has arguments of its own."""

    usage: str
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()  # those that are at least 0
    counts: tuple[str, ...] = ()  # those that are whole as well
    switches: tuple[str, ...] = ()  # true or false

    def command(self) -> overrides.Command:
        """Take the command line apart; see ``overrides.take_apart``."""
        return overrides.take_apart(self.usage, self.required, self.optional)

    def checked(self) -> overrides.Command:
        """Take the command line apart and see that its numbers, switches and files are some.

        Raises:
            UsageError: See ``overrides``.
            FileNotFoundError: No such checkpoint, or video.
        """
        command = self.command()
        for name in self.numbers:
            overrides.number(command.arguments, name, 0, least=0)
        for name in self.counts:
            overrides.whole(command.arguments, name, 0, least=0)
        for name in self.switches:
            overrides.switch(command.arguments, name)
        for name, what in (("ckpt", "checkpoint"), ("video", "video or frame folder")):
            path = command.arguments.get(name)
            if path is not None and not Path(path).expanduser().exists():
                raise FileNotFoundError(f"{path}: no such {what}")
        return command


EVALUATE = Script("flowfeat-evaluate ckpt=<checkpoint> [trust=[package]] [overrides]", ("ckpt",))
PREDICT = Script(
    "flowfeat-predict ckpt=<checkpoint> video=<file or frame folder> [out=<folder>] "
    "[threshold=0.3] [baseline=0] [label_maps=true] [side_by_side=true] [crf=20] "
    "[preset=veryfast] [window=<seconds>] [stride=<seconds>] [trust=[package]] [overrides]",
    ("ckpt", "video"),
    (
        *("out", "threshold", "baseline", "label_maps", "side_by_side", "crf"),
        *("preset", "window", "stride"),
    ),
    numbers=("threshold", "window", "stride"),
    counts=("baseline", "crf"),
    switches=("label_maps", "side_by_side"),
)
REPRODUCE = Script(
    "flowfeat-reproduce table=<name> [seeds=1] [jobs=1] [threads=N] [out=folder] [overrides]",
    ("table",),
    ("seeds", "jobs", "threads", "out", "runs"),
    counts=("seeds", "jobs", "threads"),
)
SWEEP = Script(
    "flowfeat-sweep task=<task> method=<method> [sweep=interval] [ckpt=<checkpoint>] "
    "[retrain=true] [baselines=false] [also=[run folder,...]] [seed=0] [overrides]",
    ("task", "method"),
    ("sweep", "ckpt", "retrain", "baselines", "also", "seed", "point", "runs"),
    counts=("seed",),
    switches=("retrain", "baselines", "point"),
)
METHODS = Script("flowfeat-methods [task=<task>] [method=<method>]", optional=("task", "method"))
BACKBONES = Script(
    "flowfeat-backbones [size=[600,1000]] [interval=10] [models=[name,...]] [out=docs/results]",
    optional=("size", "interval", "models", "out"),
    counts=("interval",),
)
FUSE = Script(
    "flowfeat-fuse <scores.npz>[:weight] <scores.npz>[:weight] ...\n\n"
    "Every evaluation of recognition leaves scores.npz in its run folder. A file may get one "
    "weight (1 if\nnone is given) for its levels' sum, or one per level, such as "
    "off/scores.npz:1,0,1,2."
)


def start(module: str, check: Callable[[], object]) -> None:
    """Check the command line, then import a module and call its ``main``."""
    try:
        check()
    except cli.user_errors() as error:
        cli.fail(error)
    importlib.import_module(module).main()


def train() -> None:
    """Entry point of `flowfeat-train`."""
    cli.run("flowfeat.train")


def profile() -> None:
    """Entry point of `flowfeat-profile`."""
    cli.run("flowfeat.profile")


def benchmark() -> None:
    """Entry point of `flowfeat-benchmark`."""
    cli.run("flowfeat.benchmark")


def evaluate() -> None:
    """Entry point of `flowfeat-evaluate`."""
    start("flowfeat.evaluate", lambda: overrides.look_over(EVALUATE.checked()))


def predict() -> None:
    """Entry point of `flowfeat-predict`."""
    start("flowfeat.predict", lambda: overrides.look_over(PREDICT.checked()))


def reproduce() -> None:
    """Entry point of `flowfeat-reproduce`."""
    start("flowfeat.reproduce", lambda: read_tables(REPRODUCE.checked().arguments["table"]))


def sweep() -> None:
    """Entry point of `flowfeat-sweep`."""
    start("flowfeat.sweep", _check_sweep)


def _check_sweep() -> None:
    given = SWEEP.checked().arguments
    cli.compose_config([f"{name}={given[name]}" for name in SWEEP.required])
    read_sweep(given.get("sweep", "interval"))


def methods() -> None:
    """Entry point of `flowfeat-methods`."""
    start("flowfeat.methods", chosen_methods)


def chosen_methods() -> list[list[str]]:
    """Return the tasks and the methods that the command line chooses: all that it leaves open."""
    command = METHODS.checked()
    if command.overrides or command.trust:
        raise cli.UsageError(f"expected task= and method= alone; usage: {METHODS.usage}")
    given = command.arguments
    return [[cli.choice(k, given[k])] if k in given else cli.choices(k) for k in METHODS.optional]


def backbones() -> None:
    """Entry point of `flowfeat-backbones`."""
    start("flowfeat.backbone_limits", chosen_backbones)


def chosen_backbones() -> tuple[tuple[int, int], int, list[str], Path]:
    """Return size, interval, models (none for all of them) and folder of the command line."""
    command = BACKBONES.checked()
    given = command.arguments
    if command.overrides:
        raise cli.UsageError(f"{command.overrides[0]}: unknown argument; usage: {BACKBONES.usage}")
    interval = overrides.whole(given, "interval", 10, 1)
    sides = given.get("size", "[600,1000]").strip("[] ").split(",")
    if len(sides) != 2 or not all(side.strip().isdigit() and int(side) for side in sides):
        raise cli.UsageError(f"size={given['size']}: expected [height,width]")
    names = given.get("models", "").strip("[] ")
    models = [name.strip() for name in names.split(",")] if names else []
    return (int(sides[0]), int(sides[1])), interval, models, Path(given.get("out", "docs/results"))


def fuse() -> None:
    """Entry point of `flowfeat-fuse`."""
    start("flowfeat.fuse", scores_to_fuse)


def scores_to_fuse() -> list[tuple[str, tuple[float, ...]]]:
    """Return the files of scores and their weights; ``--help`` prints the usage and leaves."""
    words = sys.argv[1:]
    if {"--help", "-h"} & set(words):
        sys.stdout.write(f"usage: {FUSE.usage}\n")
        raise SystemExit(0)
    if not words:
        raise cli.UsageError(f"no scores; usage: {FUSE.usage.splitlines()[0]}")
    streams = [path_and_weights(word) for word in words]
    for path, _ in streams:
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: no such scores")
    return streams


def path_and_weights(word: str) -> tuple[str, tuple[float, ...]]:
    """Take `off/scores.npz:1,0,1,2` apart; the weight is 1 where none is given.

    Raises:
        UsageError: Weights below 0, or all 0.
    """
    path, _, text = word.rpartition(":")
    try:
        weights = tuple(float(part) for part in text.split(","))
    except ValueError:
        return word, (1.0,)  # no weight, but perhaps a colon in the path
    if not path:
        return word, (1.0,)
    if not all(0 <= weight < float("inf") for weight in weights) or not any(weights):
        raise cli.UsageError(f"{word}: expected weights of at least 0, one above it, found {text}")
    return path, weights
