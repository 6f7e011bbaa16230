"""W&B's logger: online when the user is logged in and the server answers, else offline."""

import logging
import netrc
import os
import sys
import urllib.error
import urllib.request
from functools import cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import wandb
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

log = logging.getLogger(__name__)

SERVER = "https://api.wandb.ai"
Mode = Literal["online", "offline", "disabled", "shared"]
MODES: dict[str, Mode] = {
    "online": "online",
    "offline": "offline",
    "disabled": "disabled",
    "shared": "shared",
    "run": "online",  # older names
    "dryrun": "offline",
}


def wandb_logger(
    folder: Path,
    config: DictConfig,
    project: str = "flowfeat",
    timeout: float = 5.0,
    **arguments: Any,
) -> WandbLogger:
    """Begin a W&B run and say in one line where it is.

    Without `WANDB_MODE`, the run is online if there is a key (`WANDB_API_KEY` or the netrc file,
    where `wandb login` puts it) and the server answers; a run that starts offline stays offline,
    and `wandb sync` uploads it later.

    Args:
        folder: The run folder; W&B writes into its folder `wandb`.
        config: The composed config, shown beside the run.
        project: Of the W&B run.
        timeout: Seconds to wait for the server's first answer.
        **arguments: Passed to ``wandb.init``, for example ``entity``, ``group``, ``tags``.

    Raises:
        ValueError: A `WANDB_MODE` that does not exist.
    """
    run = _begin(folder, config, {"project": project, **arguments}, timeout)
    return WandbLogger(save_dir=folder, project=project, experiment=run)


@cache
def _spare_workers() -> None:
    """Take W&B's import hooks out of forked processes.

    They report the libraries that a run imports, and fail in a fork: data workers that import one
    of these (augmentation does) would die.
    """

    def forget() -> None:
        sys.meta_path[:] = [f for f in sys.meta_path if not type(f).__module__.startswith("wandb.")]

    if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
        os.register_at_fork(after_in_child=forget)


@rank_zero_only
def _begin(
    folder: Path, config: DictConfig, arguments: dict[str, Any], timeout: float
) -> wandb.Run | None:
    """Begin the run, on the first process alone."""
    mode, reason = choose_mode(timeout)
    folder.mkdir(parents=True, exist_ok=True)
    arguments = {
        "name": "/".join(folder.resolve().parts[-3:]),  # task/method/time
        "dir": folder,
        "config": OmegaConf.to_container(config, resolve=True),
        # Its own console capture would fight with the progress bars.
        "settings": wandb.Settings(silent=True, console="off"),
        **arguments,
    }
    _spare_workers()
    os.environ.setdefault("WANDB_SILENT", "true")  # its settings come too late for some lines
    try:
        run = wandb.init(mode=mode, **arguments)
    except wandb.Error as error:  # a key that is refused, a server that gives up half-way
        reason = f"refused, {type(error).__name__}: {' '.join(str(error).split())}"
        mode = "offline"
        run = wandb.init(mode=mode, **arguments)
    # As Lightning's logger does for the runs that it begins itself.
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    if mode == "offline":
        log.info(f"W&B: offline ({reason}), in {Path(run.dir).parent}")
    else:
        log.info(f"W&B: {mode} ({reason})" if mode == "disabled" else f"W&B: {run.url}")
    return run


def choose_mode(timeout: float) -> tuple[Mode, str]:
    """Return W&B's mode, and why it is not online."""
    wanted = os.environ.get("WANDB_MODE", "")
    if wanted:
        if wanted not in MODES:
            raise ValueError(f"WANDB_MODE={wanted}: expected one of {', '.join(MODES)}")
        if MODES[wanted] != "online":
            return MODES[wanted], "WANDB_MODE"
    server = os.environ.get("WANDB_BASE_URL") or SERVER
    if not has_key(server):
        return "offline", "not logged in"
    if not _answers(server, timeout):
        return "offline", f"{server} does not answer"
    return "online", ""


def has_key(server: str) -> bool:
    """Say whether there is a key for a server, without asking anybody."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    given = os.environ.get("NETRC")
    for path in [Path(given)] if given else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        try:
            entry = netrc.netrc(path).authenticators(urlsplit(server).netloc)
        except (OSError, netrc.NetrcParseError):
            continue
        if entry and entry[2]:
            return True
    return False


def _answers(server: str, timeout: float) -> bool:
    # W&B itself would try for a minute and a half before it gives up.
    try:
        urllib.request.urlopen(server, timeout=timeout).close()
    except urllib.error.HTTPError:
        return True  # it answered
    except (OSError, ValueError):
        return False
    return True
