"""Going on from a run: which checkpoint, and that nothing has changed which decides its result."""

from pathlib import Path

from omegaconf import DictConfig

from flowfeat.checkpoint import checkpoint_of, read_content
from flowfeat.settings import changed, first_few, under, word

MAY_CHANGE = (
    "resume",
    "run_root",
    "trust",
    "logger",
    "callbacks",
    "profile",
    "evaluation",
    "expected",
    "trainer",  # but for MUST_STAY: how long, how often and on which devices
    "warmup",  # what came before the checkpoint: its weights hold the result
    "first_stage",
    "start_from",
    *("pretrained_on", "allow_random"),
    "usual",  # where values start that stand elsewhere
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
        found = first_few(sorted(p.name for p in path.iterdir())) or "nothing"
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
    # Its config is compared, not built, so it may name what a hub describes.
    checkpoint = checkpoint_of(content, config.resume, tuple(config.trust), typed=("features",))
    stored = checkpoint.trained
    differing = differences(stored, config)
    if not differing and "optimizer_states" not in content:
        raise ValueError(
            f"resume={config.resume}: expected the last.ckpt of a training, found weights alone "
            "(start_from.<part>= begins with them)"
        )
    if not differing:
        return
    raise ValueError(
        f"resume={config.resume}: expected the settings of that run, found {first_few(differing)} "
        "(resume= goes on with the same training; start_from.<part>= begins another)"
    )


def differences(stored: DictConfig, config: DictConfig) -> list[str]:
    """List settings that decide the result and differ, as ``key=new (was old)``.

    Task and method come first: what else differs follows from them.
    """
    found = []
    for key, old, new in sorted(changed(stored, config), key=lambda change: change[0] not in FIRST):
        if key not in MUST_STAY and under(key, MAY_CHANGE):
            continue
        if key == "data.root" and None not in (old, new):
            continue
        found.append(f"{key}={word(new)} (was {word(old)})")
    return found
