"""`flowfeat-degrade`: compresses the clean frames of a data set once, into a parallel tree."""

import logging
import sys

from data_modules.commands import DEGRADE
from data_modules.restoration_data import RestorationData
from flowfeat import cli, overrides
from flowfeat.trust import build

log = logging.getLogger(__name__)


def degrade(command: overrides.Command) -> str:
    """Degrade what the data module of a command names; return a line about it.

    Raises:
        UsageError: Data that are not for restoration, or an unknown key.
        FileNotFoundError, ValueError, OSError: Clips or the tree are missing or wrong.
    """
    config = cli.compose_config(command.overrides)
    data = build(config.data, "data", trust=command.trust)(seed=config.seed)
    if not isinstance(data, RestorationData):
        raise cli.UsageError(
            f"data={config.data._target_.rpartition('.')[2]}: expected data=vimeo90k or "
            f"data=video_folder; usage: {DEGRADE.usage}"
        )
    workers = overrides.whole(command.arguments, "workers", 0, least=0)
    return data.degrade(workers or None)


def main() -> None:
    """Entry point of `flowfeat-degrade`."""
    cli.quiet_lightning()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        log.info(degrade(DEGRADE.command()))
    except cli.user_errors() as error:
        cli.fail(error)
    except KeyboardInterrupt as error:
        sys.stderr.write(f"flowfeat: {str(error) or 'interrupted'}\n")
        raise SystemExit(130) from None
