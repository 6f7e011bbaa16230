"""Switches that make a model faster and leave its results equal within a tolerance.

`flowfeat-predict`, `-evaluate` and `-benchmark` act on them in the same three steps: read
(``acceleration_of``), change the networks (``prepare``), run (``at_work``, or ``precision`` where
somebody else turns gradients off). Training knows none of them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from omegaconf import DictConfig
from torch import nn

from flowfeat.compilation import Compiled
from flowfeat.cuda_graphs import Graphed
from flowfeat.flow.full_flow import FullFlow
from flowfeat.interfaces import FeatureNetwork
from flowfeat.metering import counting
from flowfeat.tasks.task import Task
from flowfeat.trust import build

AnyTask = TypeVar("AnyTask", bound=Task)

PATHS = ("key", "non_key")
"""What ``compile`` may name: N_feat's trunk; the flow network and the head's convolutions."""


@dataclass(frozen=True)
class Acceleration:
    """How a model runs in inference.

    Args:
        inference_mode: Keep no record for gradients at all, where ``no_grad`` keeps versions.
        channels_last: Weights, and with them maps, as (B, h, w, C) in memory.
        autocast: Convolutions and matrix products in bfloat16; results differ by its 8 bits.
        compile: Paths through ``torch.compile``, of ``PATHS``, for frames of any size.
        backend: Of ``torch.compile``.
        cuda_graphs: Record the networks of both paths once per size, and replay them (NVIDIA GPUs).
            Hand-made flow and RAFT run as they would without.

    Raises:
        ValueError: An unknown path; graphs beside ``compile``.
    """

    inference_mode: bool = True
    channels_last: bool = False
    autocast: bool = False
    compile: Sequence[str] = ()
    backend: str = "inductor"
    cuda_graphs: bool = False

    def __post_init__(self) -> None:
        unknown = [path for path in self.compile if path not in PATHS]
        if unknown:
            raise ValueError(
                f"acceleration.compile={list(self.compile)}: expected some of {', '.join(PATHS)}"
            )

        if self.cuda_graphs and self.compile:
            raise ValueError("acceleration.cuda_graphs=true: expected acceleration.compile=[]")

    def prepare(self, task: AnyTask, device: torch.device) -> AnyTask:
        """Change a task's networks in place; their weights keep their values and names.

        Args:
            task: On any device.
            device: Where it will run.

        Raises:
            ValueError: A path to compile that the method does not have; graphs without a GPU.
        """
        if self.cuda_graphs and device.type != "cuda":
            raise ValueError(
                f"acceleration.cuda_graphs=true: needs an NVIDIA GPU, this run is on {device.type}"
            )
        if self.channels_last:
            task.to(memory_format=torch.channels_last)
        for module, name in self._calls(task, self.compile):
            title = f"{type(module).__name__}.{name}"
            _replace(module, name, partial(Compiled, name=title, backend=self.backend))
        if self.cuda_graphs:
            has_key = isinstance(task.parts().get("features"), FeatureNetwork)
            for module, name in self._calls(task, PATHS if has_key else PATHS[1:]):
                # Flow of another's making reads what the host has, while it runs.
                if not isinstance(module, FullFlow):
                    # With split 0 the trunk also reads the head's weights.
                    owner = task if name == "trunk" else module
                    _replace(module, name, partial(Graphed, module=owner))
        return task

    def _calls(self, task: Task, paths: Sequence[str]) -> Iterator[tuple[nn.Module, str]]:
        """Yield the modules of the paths, with the name of what is called on them."""
        parts = task.parts()
        if paths and "head" not in parts:
            raise ValueError(
                f"acceleration.compile, cuda_graphs: {type(task).__name__} runs on no stream"
            )
        if "key" in paths:
            features = parts.get("features")
            if not isinstance(features, FeatureNetwork):
                raise ValueError("acceleration.compile=[key]: the method has no feature network")
            yield features, "trunk"
        if "non_key" in paths:
            yield from ((parts[name], "forward") for name in ("flow", "head") if name in parts)

    def precision(self, device: torch.device) -> AbstractContextManager[Any]:
        """Run what is inside in the switches' precision; without one, whatever is around stays."""
        return torch.autocast(device.type, torch.bfloat16) if self.autocast else nullcontext()

    @contextmanager
    def at_work(self, device: torch.device) -> Iterator[None]:
        """Run what is inside as the switches say; nothing in it keeps gradients."""
        grad = torch.inference_mode() if self.inference_mode else torch.no_grad()
        with grad, self.precision(device):
            yield


def acceleration_of(config: DictConfig) -> Acceleration:
    """Read the switches of a composed config."""
    running: Acceleration = build(config.acceleration, "acceleration", trust=config.trust)
    return running


def _replace(
    module: nn.Module, name: str, change: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> None:
    """Put a changed method of a module in the place of its own, on this module alone.

    What is compiled hides its operations, so meters that count them see the method as it was.
    """
    plain = getattr(module, name)
    fast = change(plain)

    def call(*inputs: Any) -> Any:
        return plain(*inputs) if counting() else fast(*inputs)

    setattr(module, name, call)
