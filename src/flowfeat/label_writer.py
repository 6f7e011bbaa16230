"""Writes label maps as PNG files in a folder that appears only when it is complete."""

import os
import re
import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_NAME = re.compile(r"\d{6,}\.png")


class LabelWriter:
    """A context manager that writes ``000000.png``, ``000001.png``, ...: one grey value per label.

    The files get their places when the block ends well; those of an earlier run are replaced, and
    other files in the folder stay. After an error nothing has changed.

    Args:
        folder: Where; made if it is missing.

    Raises:
        OSError: The folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._partial = folder.with_name(f".{folder.name}.{os.getpid()}")
        self._partial.mkdir(parents=True)
        self._names: list[str] = []

    def write(self, number: int, labels: NDArray[np.uint8]) -> None:
        """Write the label map (H, W) of a frame."""
        name = f"{number:06}.png"
        Image.fromarray(labels).save(self._partial / name)
        self._names.append(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._put_in_place()
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)

    def _put_in_place(self) -> None:
        self.folder.mkdir(exist_ok=True)
        for name in self._names:
            os.replace(self._partial / name, self.folder / name)
        for path in self.folder.iterdir():  # a longer video of the same name leaves some behind
            if _NAME.fullmatch(path.name) and path.name not in self._names:
                path.unlink()
