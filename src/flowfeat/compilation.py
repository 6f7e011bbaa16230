"""A function through `torch.compile`, for frames of any size, that says when it compiles again."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch._dynamo import lookup_backend

from flowfeat.cuda_graphs import tensors

log = logging.getLogger(__name__)


class Compiled:
    """Calls a function by what `torch.compile` makes of it at the first call.

    Heights, widths and numbers of rows are left open, so that frames of another size run by the
    same code. Where a network holds on to a size (and with one row, which torch treats apart), it
    is compiled again: seconds to minutes, which the log explains.

    Args:
        function: Of tensors, or tuples of them.
        name: Of the function, for the log.
        backend: Of `torch.compile`, by name, or a function of a graph and its inputs.

    Example:
        >>> double = Compiled(lambda x: x * 2, "double", "eager")
        >>> double(torch.ones(3, 4)).sum().item(), double(torch.ones(5, 6)).sum().item()
        (24.0, 60.0)
        >>> double.graphs
        1
    """

    def __init__(
        self, function: Callable[..., Any], name: str, backend: str | Callable[..., Any]
    ) -> None:
        self.name = name
        self.graphs = 0
        """Compiled so far."""
        self._called = False
        self._backend = lookup_backend(backend)
        self._fast = torch.compile(function, backend=self._compile, dynamic=True)

    def _compile(self, graph: torch.fx.GraphModule, inputs: list[Any], **options: Any) -> Any:
        self.graphs += 1
        return self._backend(graph, inputs, **options)

    def __call__(self, *inputs: Any) -> Any:
        """Return the function's outputs."""
        before = self.graphs
        outputs = self._fast(*inputs)
        if self._called and self.graphs > before:
            sizes = ", ".join(" x ".join(map(str, each.shape)) for each in tensors(inputs))
            log.info(f"acceleration.compile: compiled {self.name} again, for {sizes}")
        self._called = True
        return outputs
