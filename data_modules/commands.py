"""The console scripts of the data; see ``flowfeat.commands``."""

from flowfeat import cli
from flowfeat.commands import Script, start

DEGRADE = Script(
    "flowfeat-degrade data=vimeo90k|video_folder data.root=<folder> "
    "[data.codec=jpeg2000|h264|h265] [data.quality=20] [data.degraded=<folder>] [workers=<cores>] "
    "[overrides]",
    optional=("workers",),
    counts=("workers",),
)


def degrade() -> None:
    """Entry point of `flowfeat-degrade`."""
    start("data_modules.degrade", lambda: cli.compose_config(DEGRADE.checked().overrides))


def benchmark() -> None:
    """Entry point of `flowfeat-benchmark-data`."""
    cli.run("data_modules.benchmark")
