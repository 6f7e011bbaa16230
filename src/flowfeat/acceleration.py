"""Switches that make a model faster and leave its results equal within a tolerance."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from flowfeat.interfaces import FeatureNetwork
from flowfeat.tasks.video_task import VideoTask

PATHS = ("key", "non_key")
"""What ``compile`` may name: N_feat's trunk; the flow network and the head's convolutions."""


@dataclass(frozen=True)
class Acceleration:
    """How a model runs in inference.

    Args:
        inference_mode: Keep no record for gradients at all, where ``no_grad`` keeps versions.
        channels_last: Weights, and with them maps, as (B, h, w, C) in memory.
        autocast: Convolutions and matrix products in bfloat16; results differ by its 8 bits.
        compile: Paths through ``torch.compile``, of ``PATHS``.
        backend: Of ``torch.compile``.

    Raises:
        ValueError: An unknown path.
    """

    inference_mode: bool = True
    channels_last: bool = False
    autocast: bool = False
    compile: Sequence[str] = ()
    backend: str = "inductor"

    def __post_init__(self) -> None:
        unknown = [path for path in self.compile if path not in PATHS]
        if unknown:
            raise ValueError(
                f"acceleration.compile={list(self.compile)}: expected some of {', '.join(PATHS)}"
            )

    def prepare(self, task: VideoTask) -> VideoTask:
        """Change a task's networks in place; their weights keep their values and names.

        Raises:
            ValueError: A path to compile that the method does not have.
        """
        parts = task.parts()
        if self.channels_last:
            task.to(memory_format=torch.channels_last)
        if "key" in self.compile:
            features = parts.get("features")
            if not isinstance(features, FeatureNetwork):
                raise ValueError("acceleration.compile=[key]: the method has no feature network")
            # The trunk is called by its name, so it is not the module's own call that is compiled.
            compiled = torch.compile(features.trunk, backend=self.backend)
            features.trunk = compiled  # type: ignore[method-assign]
        if "non_key" in self.compile:
            for name in ("flow", "head"):
                if name in parts:
                    parts[name].compile(backend=self.backend)
        return task

    @contextmanager
    def at_work(self, device: torch.device) -> Iterator[None]:
        """Run what is inside as the switches say; nothing in it keeps gradients."""
        grad = torch.inference_mode() if self.inference_mode else torch.no_grad()
        with grad, torch.autocast(device.type, torch.bfloat16, enabled=self.autocast):
            yield
