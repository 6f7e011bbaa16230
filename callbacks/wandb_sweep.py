"""W&B's side of a sweep: a sweep on its server with an agent here, points and pictures of it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from callbacks.wandb_logger import choose_mode


class WandbSweep:
    """Talks to W&B's server where the user is logged in; see ``choose_mode``.

    Args:
        project: Of the sweep and its runs.
        timeout: Seconds to wait for the server's first answer.
    """

    def __init__(self, project: str = "flowfeat", timeout: float = 5.0) -> None:
        self.project = project
        mode, self.reason = choose_mode(timeout)
        self.online = mode == "online"

    @property
    def in_agent(self) -> bool:
        """Whether an agent of W&B started this process, as one point of its sweep."""
        return bool(os.environ.get("WANDB_SWEEP_ID"))

    def serve(self, content: Mapping[str, Any], count: int) -> str | None:
        """Begin a sweep on the server and work off its points; return why it could not.

        Args:
            content: The sweep file.
            count: Points of the grid.
        """
        try:
            sweep = wandb.sweep(dict(content), project=self.project)
            wandb.agent(sweep, project=self.project, count=count)
        except (wandb.Error, OSError) as error:
            return f"{type(error).__name__}: {' '.join(str(error).split())}"
        return None

    def log_point(self, figures: Mapping[str, float]) -> None:
        """Log a point into the run that the agent began."""
        with wandb.init(project=self.project) as run:
            run.log(dict(figures))

    def log_tradeoff(self, name: str, picture: Path, said: str, figures: Mapping[str, Any]) -> None:
        """Log the whole sweep: its picture, its sentence and its table."""
        with wandb.init(project=self.project, name=name, job_type="tradeoff") as run:
            rows = figures["points"]
            heads = list(rows[0]) if rows else []
            points = wandb.Table(heads, [[row[head] for head in heads] for row in rows])
            run.log({"tradeoff": wandb.Image(str(picture), caption=said), "points": points})
            run.summary["tradeoff_says"] = said
