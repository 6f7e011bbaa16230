"""Going on from a run: which checkpoint, and that nothing has changed which decides its result."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from flowfeat.checkpoint import checkpoint_of, read_content

MAY_CHANGE = (
    "resume",
    "run_root",
    "trust",
    "logger",
    "callbacks",
    "profile",
    "evaluation",
    "trainer",  # but for MUST_STAY: how long, how often and on which devices
    "warmup",  # what came before the checkpoint: its weights hold the result
    "first_stage",
    "start_from",
    "features.pretrained",
    "features.checkpoint_path",
    "flow.pretrained",
    "flow.weights",
    "data.num_workers",
    "data.synthetic_root",
    "data.val_limit",
    "data.stream_chunk",
)
"""Keys that a resumed run may set otherwise; with a group, all keys in it. `data.root` may name
another place, but not come or go: the embedded data are others."""

MUST_STAY = (
    "trainer.precision",
    "trainer.accumulate_grad_batches",
    "trainer.gradient_clip_val",
    "trainer.gradient_clip_algorithm",
)
FIRST = ("method", "task")
_SHOWN = 6  # differences in the one line


def find_last(path: str | Path) -> Path:
    """Return the checkpoint that `resume=` names: a file, or the `last.ckpt` of a run folder.

    Raises:
        FileNotFoundError: There is none.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        if not path.is_file():
            raise FileNotFoundError(f"resume={path}: no such checkpoint or run folder")
        return path
    last = path / "last.ckpt"
    if not last.is_file():
        found = ", ".join(sorted(p.name for p in path.iterdir())) or "nothing"
        raise FileNotFoundError(f"resume={path}: expected a last.ckpt in it, found {found}")
    return last


def check_resumed(config: DictConfig) -> None:
    """See that `resume` names a checkpoint of ours, made with the same settings.

    Raises:
        ValueError: Settings outside ``MAY_CHANGE`` differ, and the line lists them; or weights
            alone, without the state of a training.
        FileNotFoundError, PermissionError: See ``read_checkpoint``.
    """
    content = read_content(config.resume)
    stored = checkpoint_of(content, config.resume, tuple(config.trust)).config
    differing = differences(stored, config)
    if not differing and "optimizer_states" not in content:
        raise ValueError(
            f"resume={config.resume}: expected the last.ckpt of a training, found weights alone "
            "(start_from.<part>= begins with them)"
        )
    if not differing:
        return
    shown = ", ".join(differing[:_SHOWN])
    more = f" and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
    raise ValueError(
        f"resume={config.resume}: expected the settings of that run, found {shown}{more} "
        "(resume= goes on with the same training; start_from.<part>= begins another)"
    )


def differences(stored: DictConfig, config: DictConfig) -> list[str]:
    """List settings that decide the result and differ, as ``key=new (was old)``.

    Task and method come first: what else differs follows from them.
    """
    before, now = dict(_leaves(_plain(stored))), dict(_leaves(_plain(config)))
    found = []
    for key in sorted(before.keys() | now.keys(), key=lambda k: (k not in FIRST, k)):
        old, new = before.get(key), now.get(key)  # an absent key and null mean the same
        if old == new or _may_change(key):
            continue
        if key == "data.root" and None not in (old, new):
            continue
        found.append(f"{key}={_word(new)} (was {_word(old)})")
    return found


def _plain(config: DictConfig) -> Any:
    return OmegaConf.to_container(config, resolve=True)


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _leaves(value, f"{key}.{name}" if key else str(name))
    else:
        yield key, node


def _may_change(key: str) -> bool:
    return key not in MUST_STAY and any(
        key == free or key.startswith(f"{free}.") for free in MAY_CHANGE
    )


def _word(value: Any) -> str:
    return "null" if value is None else str(value)
