"""What must not change while places and names do: composed configs, weights' shapes, small reports.

`make golden` compares with the files beside this one; `python tests/golden/golden.py write` makes
them. Configs and shapes stand there as hashes, a line each; `text FOLDER` writes them out, to be
compared by `diff -r` with those of another checkout.
"""

import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf

from flowfeat import cli
from flowfeat.build import build_data, build_task
from flowfeat.reproduction.jobs import plan
from flowfeat.reproduction.table import read_table, table_names
from flowfeat.train import train
from flowfeat.trial import shrink

HERE = Path(__file__).parent
TOLERANCE = 1e-3
"""Of the reports' figures: processors differ."""

TINY = (
    "logger=none",
    "callbacks=quiet",
    "callbacks.pictures=null",
    "callbacks.learning_rate=null",
    "callbacks.speed=null",
    "data.num_workers=0",
    "data.batch_size=2",
    "trainer.accelerator=cpu",
    "trainer.max_steps=2",
    "trainer.val_check_interval=2",
)
DETECTION = (
    "features.model=test_resnet",
    "flow.width=16",
    "data.short_side=64",
    "data.long_side=80",
    "warmup.data.num_workers=0",
    "warmup.trainer.max_steps=2",
    "warmup.trainer.val_check_interval=2",
    "evaluation.intervals=[1]",
    "evaluation.pairs_every=6",
    "++data.synthetic={train_snippets: 2, val_snippets: 1, frames: 12, stills: 2, "
    "scene: {size: [64, 80]}}",
)
RUNS = {
    "vid dff": (*DETECTION, "task=vid", "method=dff"),
    "vid off": (*DETECTION[:1], *DETECTION[2:4], DETECTION[-1], "task=vid", "method=off"),
    "cityscapes dff": (
        *DETECTION[:2],
        *DETECTION[4:7],
        "task=cityscapes",
        "method=dff",
        "+data.synthetic.train_snippets=2",
        "+data.synthetic.val_snippets=1",
        "evaluation.intervals=[1]",
    ),
    "ucf101 per_frame": ("task=ucf101", "method=per_frame"),
    "vimeo90k per_frame": ("task=vimeo90k", "method=per_frame"),
    "flying_chairs flow": ("task=flying_chairs", "method=flow"),
}
"""A tiny seeded training per task."""

MEASURED = ("seconds", "fps", "ms_", "memory", "speed", "gflops")
"""In names of figures that no two runs share."""


def leaves(group: str) -> list[str]:
    return sorted(path.stem for path in (cli.CONFIGS / group).glob("*.yaml"))


def compositions() -> Iterator[tuple[str, list[str]]]:
    """Yield name and overrides of every task x method, experiment x method, and run of a table."""
    for method in leaves("method"):
        for task in leaves("task"):
            yield f"{task} {method}", [f"task={task}", f"method={method}"]
        for experiment in leaves("experiment"):
            if experiment != "none":
                yield f"{experiment} {method}", [f"experiment={experiment}", f"method={method}"]
    tables = {name: table for name in table_names() if (table := read_table(name)).runs}
    for (table, run, _), job in sorted(plan(tables, [0], HERE).items()):
        if job.command != "evaluate":
            yield f"table {table} {run}", list(job.overrides)


def plain(node: Any) -> Any:
    """Return a config without the places of its code, and with its keys in order."""
    if isinstance(node, dict):
        return {
            key: value.rsplit(".", 1)[-1] if key == "_target_" else plain(value)
            for key, value in sorted(node.items())
        }
    return [plain(item) for item in node] if isinstance(node, list) else node


def config_text(config: DictConfig) -> str:
    text = json.dumps(plain(OmegaConf.to_container(config, resolve=True)), indent=1, default=str)
    return text.replace("flowfeat", "carryflow")


def shape_text(config: DictConfig) -> str:
    data = build_data(shrink(config))
    with torch.device("meta" if config.features.get("model") else "cpu"):
        task = build_task(shrink(config), data.classes or ("a", "b"))
    return "\n".join(f"{name} {list(value.shape)}" for name, value in task.state_dict().items())


def texts() -> Iterator[tuple[str, str]]:
    """Yield every composed config, and the weights of every model that it builds."""
    for name, overrides in compositions():
        try:
            config = cli.compose_config(overrides)
            yield f"config {name}", config_text(config)
            if not name.startswith("table"):
                yield f"shapes {name}", shape_text(config)
        except cli.user_errors() as error:
            yield f"refused {name}", type(error).__name__


def report(overrides: tuple[str, ...], folder: Path) -> dict[str, float]:
    words = [*overrides, *TINY, f"data.synthetic_root={folder / 'data'}", "seed=0"]
    figures = train(cli.compose_config(words), folder / "run")
    return {
        name: float(value)
        for name, value in sorted(figures.items())
        if not any(word in name for word in MEASURED)
    }


def reports() -> dict[str, dict[str, float]]:
    """Run the tiny trainings on one thread."""
    torch.set_num_threads(1)
    found = {}
    for name, overrides in RUNS.items():
        with tempfile.TemporaryDirectory() as folder:
            found[name] = report(overrides, Path(folder))
        pl.seed_everything(0, verbose=False)
    return found


def hashes() -> dict[str, str]:
    return {name: hashlib.sha256(text.encode()).hexdigest()[:12] for name, text in texts()}


def differences(exact: bool) -> list[str]:
    """Return what is not as it was, a line each; figures to the bit, or within the tolerance."""
    before = dict(line.rsplit(" ", 1) for line in (HERE / "hashes.txt").read_text().splitlines())
    now = hashes()
    lines = [
        f"{name}: {before.get(name, 'not there')} -> {now.get(name, 'not there')}"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]
    kept, found = json.loads((HERE / "reports.json").read_text()), reports()
    for run in sorted({*kept, *found}):
        old, new = kept.get(run, {}), found.get(run, {})
        for key in sorted({*old, *new}):
            a, b = old.get(key), new.get(key)
            near = a is not None and b is not None and abs(a - b) <= (0 if exact else TOLERANCE)
            if not (near or (a != a and b != b)):
                lines.append(f"{run} {key}: {a} -> {b}")
    return lines


def main(words: list[str]) -> int:
    if words[:1] == ["text"]:
        folder = Path(words[1])
        folder.mkdir(parents=True)
        for name, text in texts():
            (folder / name.replace(" ", "_")).write_text(text + "\n")
        return 0
    if words == ["write"]:
        lines = [f"{name} {value}" for name, value in hashes().items()]
        (HERE / "hashes.txt").write_text("\n".join(lines) + "\n")
        (HERE / "reports.json").write_text(json.dumps(reports(), indent=1, sort_keys=True) + "\n")
        return 0
    lines = differences(exact="exact" in words)
    sys.stdout.write("".join(f"{line}\n" for line in lines) or "all as it was\n")
    return int(bool(lines))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
