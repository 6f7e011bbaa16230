"""Networks recorded as CUDA graphs, once per size of their inputs, and replayed.

A GPU that gets its small operations one by one waits for the host between them; a graph is handed
over at once. Never run on a GPU so far: the tests replay with a stand-in for the recording.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple
from weakref import ref

import torch
from torch import Tensor, nn

MOST = 8  # sizes recorded: each keeps its own memory
WARM_UP = 3  # calls before the recording, in which libraries choose and allocate


class Recording(NamedTuple):
    """A function's fixed inputs and outputs, and what computes the latter from the former."""

    inputs: Any
    outputs: Any
    replay: Callable[[], None]


Record = Callable[[Callable[..., Any], Sequence[Any]], Recording]


class Places:
    """Where a module's weights lie, to be asked at every call: 0.1 ms for those of ResNet-101."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._parameters: list[Tensor] = []
        self._addresses: list[int] = []
        self._buffers: list[ref[Tensor]] = []

    def changed(self) -> bool:
        """Say whether the module was moved since the last time; of the first time, that it was."""
        # Moving gives parameters other memory; buffers are made anew, and the old ones forgotten.
        stay = self._addresses == [p.data_ptr() for p in self._parameters]
        if stay and self._addresses and all(buffer() is not None for buffer in self._buffers):
            return False
        self._parameters = list(self.module.parameters())
        self._addresses = [p.data_ptr() for p in self._parameters]
        self._buffers = [ref(buffer) for buffer in self.module.buffers()]
        return bool(self._addresses)


class Graphed:
    """Calls a function of tensors by a recording of it, one for every size of its inputs.

    Inputs are copied into the recording's, and outputs out of it: what a caller keeps is his own,
    whatever comes later. Sizes beyond the first ``MOST`` run as they would without.

    A recording reads the weights where they lay. A trainer moves a network to the CPU after every
    test and back before the next, to other places: then all is recorded again.

    Args:
        function: Of tensors, or tuples and lists of them, to the same; without choices by value.
        record: Makes a recording with inputs of its own.
        module: Whose weights the function reads; None: it has none.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        record: Record | None = None,
        module: nn.Module | None = None,
    ) -> None:
        self.function = function
        self.record = record or record_graph
        self._places = Places(nn.Module() if module is None else module)
        self._recordings: dict[tuple[object, ...], Recording] = {}

    def __call__(self, *inputs: Any) -> Any:
        """Return the function's outputs."""
        if self._places.changed():
            self._recordings.clear()
        key = _key(inputs)
        recording = self._recordings.get(key)
        if recording is None:
            if len(self._recordings) >= MOST:
                return self.function(*inputs)
            recording = self._recordings[key] = self.record(self.function, inputs)
        for own, given in zip(tensors(recording.inputs), tensors(inputs), strict=True):
            own.copy_(given)
        recording.replay()
        return copied(recording.outputs)


def record_graph(function: Callable[..., Any], inputs: Sequence[Any]) -> Recording:
    """Record a function on the GPU, as torch's notes on CUDA graphs describe."""
    own = copied(inputs)
    enabled, dtype = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    # Weights in half precision that autocast keeps would be freed before the graph is.
    with torch.autocast("cuda", dtype, enabled=enabled, cache_enabled=False):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                function(*own)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Other threads copy frames to the GPU meanwhile; only this one's calls are recorded.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            outputs = function(*own)
    return Recording(own, outputs, graph.replay)


def _key(inputs: Sequence[Any]) -> tuple[object, ...]:
    """Return what a recording is bound to: sizes and types, and the modes that choose kernels."""
    modes = (torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cuda"))
    return (*modes, *((t.shape, t.dtype, t.stride(), t.device) for t in tensors(inputs)))


def tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested tuples and lists, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors(item)


def copied(value: Any) -> Any:
    """Copy nested tuples (also named ones) and lists of tensors; what is no tensor stays."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(copied(item) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(copied(item) for item in value)
    return value
