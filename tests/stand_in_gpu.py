"""A stand-in for a GPU on the CPU: knows what would lie there, and when the host would wait for it.

Inside `StandInGPU`, a device "cuda" is accepted everywhere and its tensors are computed on the CPU.
They carry a mark, which results inherit; reading one on the host, or copying to it from the host
without ``non_blocking``, is noted as a wait, and mixing both in one operation is an error, as with
a real one. What it cannot see: waits inside compiled functions other than those named here.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

GPU = torch.device("cuda", 0)

READS = (
    "item tolist numpy __array__ __bool__ __int__ __float__ __index__ __complex__ __contains__ "
    "nonzero argwhere masked_select unique unique_consecutive equal allclose is_nonzero bincount "
    "histc nms"
)
"""What gives the host a value, or a result whose size depends on values."""

UPLOADS = "tensor as_tensor new_tensor asarray from_numpy"
"""What makes tensors of the host's numbers."""

INDEXING = "__getitem__ __setitem__"


class StandInGPU(TorchFunctionMode):
    """Marks tensors and notes waits while it is active.

    Attributes:
        waits: Names of the operations in which the host would wait, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = _name(func), dict(kwargs or {})
        if name in ("device", "is_cuda") and on_gpu(args[0]):
            return GPU if name == "device" else True
        given = [t for t in tensors((args, kwargs)) if t.ndim or on_gpu(t)]
        marked = [t for t in given if on_gpu(t)]
        args, kwargs, target = _on_cpu(args, kwargs)
        if name == "pin_memory":
            return args[0]
        if name == "cpu":  # a copy, since the mark is the tensor's
            self.waits += [name] * len(marked)
            return mark(func(*args).view_as(args[0]), False)
        if name in ("to", "copy_"):
            goes = on_gpu(args[0]) if name == "copy_" else target
            if name == "to" and len(given) == 2:  # like another tensor
                goes = on_gpu(given[1])
            comes = on_gpu(given[-1] if name == "copy_" else args[0])
            goes = comes if goes is None else goes
            if comes != goes and (comes or not kwargs.get("non_blocking")):
                self.waits.append(name)
            result = func(*args, **kwargs)
            return mark(
                result if result is not args[0] or comes == goes else result.view_as(result), goes
            )
        self._note(name, args, kwargs, marked, target)
        if marked and len(marked) < len(given) and name not in INDEXING.split():
            raise RuntimeError(f"{name}: expected all tensors to be on the same device")
        results = func(*args, **kwargs)
        if name == "__iter__":
            return iter([mark(t, bool(marked)) for t in results])
        here = (bool(marked) or bool(target)) and target is not False and name != "numpy"
        for result in tensors(results):
            mark(result, here)
        return results

    def _note(self, name: str, args: Any, kwargs: Any, marked: list[Tensor], target: Any) -> None:
        """Note a wait, if the operation is one."""
        if name in UPLOADS.split() and (target or marked):
            self.waits.append(name)
        elif name == "repeat_interleave" and marked and kwargs.get("output_size") is None:
            if any(isinstance(a, Tensor) for a in (*args[1:], *kwargs.values())):
                self.waits.append(name)
        elif marked and (name in READS.split() or (name == "where" and len(args) == 1)):
            self.waits.append(name)
        elif name in INDEXING.split() and on_gpu(args[0]):
            fill = name == "__setitem__" and not isinstance(args[2], Tensor)  # becomes masked_fill
            for index in tensors(args[1]):
                if not on_gpu(index) or (index.dtype == torch.bool and not fill):
                    self.waits.append(name)


def on_gpu(value: Any) -> bool:
    """Say whether a tensor would lie on the GPU."""
    return isinstance(value, Tensor) and getattr(value, "stands_on_gpu", False)


def mark(value: Tensor, here: bool = True) -> Tensor:
    """Let a tensor count as one on the GPU."""
    if isinstance(value, Tensor):
        value.stands_on_gpu = here  # type: ignore[attr-defined]
    return value


def moved(module: nn.Module) -> nn.Module:
    """Let a module's parameters and buffers lie on the GPU."""
    for value in (*module.parameters(), *module.buffers()):
        mark(value)
    return module


def tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested containers."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))
    elif isinstance(value, Iterable) and isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors(item)


def _name(func: Any) -> str:
    name = getattr(func, "__name__", "")
    if name == "__get__":
        return func.__self__.__name__
    return name.removesuffix(".default")


def _on_cpu(args: Any, kwargs: Any) -> tuple[Any, Any, bool | None]:
    """Replace the GPU by the CPU; say whether a device was named, and whether it was the GPU."""
    target = None

    def plain(value: Any) -> Any:
        nonlocal target
        if isinstance(value, str) and value.split(":")[0] in ("cpu", "cuda"):
            value = torch.device(value)
        if isinstance(value, torch.device):
            target = value.type == "cuda"
            return torch.device("cpu")
        return value

    return tuple(map(plain, args)), {k: plain(v) for k, v in kwargs.items()}, target
