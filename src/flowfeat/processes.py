"""What the processes of one training must know of each other before they can talk."""

import os

from hydra.core.hydra_config import HydraConfig
from pytorch_lightning.utilities import rank_zero_only


def is_first() -> bool:
    """Say whether this process is the one that writes: rank 0, or the only one."""
    return not getattr(rank_zero_only, "rank", 0)


def require_common_folder() -> None:
    """See that processes which torchrun or srun started were given one run folder.

    Run folders are named by the moment at which a process starts. Those that the trainer starts
    itself are told theirs.

    Raises:
        ValueError: They were not.
    """
    count = os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_NTASKS") or "1"
    if int(count) < 2 or not HydraConfig.initialized():
        return
    if not any("hydra.run.dir=" in word for word in HydraConfig.get().overrides.hydra):
        raise ValueError(
            f"hydra.run.dir: expected one run folder for all {count} processes "
            "(hydra.run.dir=runs/<task>/<method>/<name>), found none on the command line"
        )
