"""An open decoder that belongs to one process: reopened after a fork, left out of pickles.

A decoder holds a file offset and threads. After a fork the child shares the first and lacks the
second, so a data-loading worker must open its own. Nor may the child free the inherited decoder,
because freeing waits for threads that do not exist there.
"""

import os
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_inherited: list[Any] = []
_living: "weakref.WeakSet[PerProcess[Any]]" = weakref.WeakSet()


class PerProcess(Generic[T]):
    """Opens lazily, once per process, what ``make`` returns (picklable, as it travels along)."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._value: T | None = None
        _living.add(self)

    def __call__(self) -> T:
        if self._value is None:
            self._value = self._make()
        return self._value

    def abandon(self) -> None:
        """Forget a value that another process opened, without freeing it."""
        if self._value is not None:
            _inherited.append(self._value)
        self._value = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_make": self._make, "_value": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        _living.add(self)


def _after_fork() -> None:
    for holder in list(_living):
        holder.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
