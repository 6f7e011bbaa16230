"""What the console scripts share: compose with Hydra, and end bad input in one clear line.

Nothing here imports torch, which takes seconds: help and a mistyped key do not wait for it.
"""

import errno
import importlib
import logging
import os
import re
import sys
import tempfile
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, InstantiationException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from flowfeat.renamed import NOW
from flowfeat.settings import word


def _configs(package: Path) -> Path:
    """Return where the configs lie: in an installed package, else beside a checkout's `src`."""
    inside = package / "configs"
    return inside if inside.is_dir() else package.parents[1] / "configs"


CONFIGS = _configs(Path(__file__).resolve().parent)


def user_errors() -> tuple[type[Exception], ...]:
    """Return what bad input raises, for an ``except``."""
    known = (ValueError, OSError, InstantiationException, OmegaConfBaseException)
    # Settings of the trainer that do not go together; only Lightning raises it, once imported.
    lightning = sys.modules.get("lightning_fabric.utilities.exceptions")
    return known if lightning is None else (*known, lightning.MisconfigurationException)


class UsageError(ValueError):
    """Bad input; the message is the one line that the user reads."""


class RunFailedError(Exception):
    """A run that ends badly although its input was fine; the message is the one line."""


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """Compose configs/config.yaml with Hydra overrides.

    Raises:
        UsageError: An unknown key or choice, with what could have been chosen.
    """
    try:
        return _compose(overrides)
    except MissingConfigException as error:
        raise UsageError(_unknown_choice(error, overrides)) from None
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # the last of Hydra's
        raise UsageError(_unknown_key(str(error), overrides)) from None


def _compose(overrides: Sequence[str]) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def _unknown_choice(error: MissingConfigException, overrides: Sequence[str]) -> str:
    missing = error.missing_cfg_file
    name = missing if isinstance(missing, str) else missing[0] if missing else "config"
    group, _, choice = name.rpartition("/")
    given = dict(word.split("=", 1) for word in overrides if "=" in word)
    method = given.get("method")
    tasks = [file.stem for file in sorted((CONFIGS / "task").glob("*.yaml"))]
    task = next((t for t in tasks if choice.endswith(f"_{t}")), None)
    if task and method and group not in given:
        # The method's preset asks for a leaf of the task's own, and the task has none. An
        # experiment may have chosen the task.
        stem = choice.removesuffix(task)
        served = ", ".join(t for t in tasks if stem + t in (error.options or []))
        return (
            f"method={method} does not fit task={task}: there is no {group}={choice}, "
            f"only those of {served}"
        )
    options = ", ".join(error.options or [])
    return f"{group}={choice}: unknown choice, expected one of {options}"


def _unknown_key(message: str, overrides: Sequence[str]) -> str:
    """Turn Hydra's message about an override into a line that names the keys that exist."""
    if message.startswith("Config group override must be"):
        for change in OverridesParser.create().parse_overrides(list(overrides)):
            if is_group(change.key_or_group) and not isinstance(change.value(), (str, list)):
                return no_choice(change.key_or_group, change.get_value_string())
    found = re.search(r"override '([^'=]+)", message) or re.search(r"full_key: (\S+)", message)
    if not found:
        return " ".join(message.split())
    key = found.group(1).lstrip("+~")
    kept = [o for o in overrides if o.lstrip("+~").split("=")[0] != key]
    try:
        node = _compose(kept)
    except HydraException:
        return " ".join(message.split())
    return unknown_key(node, key)


def is_group(key: str) -> bool:
    """Tell whether a key is a config group, of which one file is chosen."""
    return "." not in key and (CONFIGS / key).is_dir()


def choices(group: str) -> list[str]:
    """Return the choices of a group by name."""
    return sorted(file.stem for file in (CONFIGS / group).glob("*.yaml"))


def choice(group: str, name: str) -> str:
    """Return a choice of a group; UsageError where there is no such."""
    if name not in choices(group):
        known = ", ".join(choices(group))
        raise UsageError(f"{group}={name}: unknown choice, expected one of {known}")
    return name


def no_choice(group: str, value: str) -> str:
    """Say in one line that a value chooses nothing of a group."""
    return f"{group}={value}: expected one of {', '.join(choices(group))}"


def unknown_key(config: DictConfig, key: str) -> str:
    """Say in one line which keys exist where an unknown one was looked for."""
    if key in NOW:
        return f"{key}: is now {NOW[key]}"
    parent = key.rpartition(".")[0]
    while parent and not isinstance(OmegaConf.select(config, parent), DictConfig):
        parent = parent.rpartition(".")[0]
    inside = OmegaConf.select(config, parent) if parent else config
    names = ", ".join(sorted(str(k) for k in inside if not str(k).startswith("_")))
    if not names:
        return f"{key}: unknown key, {parent} has none here"
    return f"{key}: unknown key, expected one of {parent + ': ' if parent else ''}{names}"


def one_line(error: BaseException) -> str:
    """Say what went wrong in one line, without the layers that Hydra puts around it."""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"{error.filename or 'run folder'}: no space left on the device"
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror.lower()}"
    return " ".join(str(error).split()) or type(error).__name__


def fail(error: BaseException, folder: Path | None = None) -> None:
    """Print the one line, keep the traceback in the run folder, and leave with status 2.

    The status of a run that failed by itself is 1.
    """
    if os.environ.get("FLOWFEAT_TRACEBACK"):
        traceback.print_exception(error)
    sys.stderr.write(f"flowfeat: error: {one_line(error)}\n")
    if folder is not None and os.access(folder, os.W_OK):
        with suppress(OSError):  # a full disk may be what is being reported
            (folder / "error.log").write_text("".join(traceback.format_exception(error)))
    raise SystemExit(1 if isinstance(error, RunFailedError) else 2)


def run(module: str) -> None:
    """Call a module's ``run`` on the config that the command line composes, in its run folder.

    The module is imported when the command line is right.

    User errors (bad values, files, keys, choices) end in one line and status 2; the traceback goes
    to `error.log` in the run folder, or to the terminal when FLOWFEAT_TRACEBACK is set.
    """
    quiet_lightning()
    arguments = sys.argv[1:]
    try:
        if not any(word.startswith("-") for word in arguments):  # else Hydra's own: --cfg job, -m
            config = compose_config(arguments)
            checked_seed(config)
            _require_writable(config)
    except user_errors() as error:
        fail(error)

    def guarded(config: DictConfig) -> None:
        folder = Path(HydraConfig.get().runtime.output_dir)
        try:
            importlib.import_module(module).run(config, folder)
        except RunFailedError as error:
            fail(error, folder)
        except user_errors() as error:
            fail(error, folder)

    hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="config")(guarded)()


def quiet_lightning() -> None:
    """Leave out what Lightning says about itself; warnings about the run stay."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    for message in (
        ".*isinstance.treespec, LeafSpec.*",  # between Lightning and torch
        "Experiment logs directory .* exists",  # the run folder, which we made
        ".*does not have many workers.*",
        ".*weights_only.*",
    ):
        warnings.filterwarnings("ignore", message)


def run_root(config: DictConfig) -> Path:
    """Return the folder of all runs; UsageError where the config names none."""
    root = config.run_root
    if not isinstance(root, (str, int)) or isinstance(root, bool) or root == "":
        raise UsageError(f"run_root={word(root)}: expected a folder")
    return Path(str(root))


def checked_seed(config: DictConfig) -> int:
    """Return the seed of all draws; UsageError where it is none."""
    seed = config.seed
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 1 << 32:
        raise UsageError(f"seed={word(seed)}: expected a whole number, 0 .. {(1 << 32) - 1}")
    return seed


def _require_writable(config: DictConfig) -> None:
    root = run_root(config)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f"run_root={config.run_root}: cannot write there ({reason})") from error
