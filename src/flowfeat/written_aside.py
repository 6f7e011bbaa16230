"""What is written aside, and appears in its place only when it is complete."""

import os
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Self


def aside(path: Path) -> Path:
    """Return the hidden place beside ``path``, of this process alone, where it is written first."""
    return path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")


class WrittenAside(ABC):
    """A context manager that puts its work in place if the block ends well, else drops it."""

    @abstractmethod
    def close(self) -> None:
        """Finish, and put it in place."""

    @abstractmethod
    def discard(self) -> None:
        """Leave nothing behind, whatever state it is in."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()
