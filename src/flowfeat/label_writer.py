"""Writes label maps as PNG files in a folder that appears only when it is complete."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flowfeat.written_aside import WrittenAside, aside

_NAME = re.compile(r"\d{6,}\.png")


class LabelWriter(WrittenAside):
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
        self._partial = aside(folder)
        self._partial.mkdir(parents=True)
        self._names: list[str] = []

    def write(self, number: int, labels: NDArray[np.uint8]) -> None:
        """Write the label map (H, W) of a frame."""
        name = f"{number:06}.png"
        Image.fromarray(labels).save(self._partial / name)
        self._names.append(name)

    def close(self) -> None:
        """Put the files in place, or none of them."""
        try:
            self._put_in_place()
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove what was written so far."""
        shutil.rmtree(self._partial, ignore_errors=True)

    def _put_in_place(self) -> None:
        self.folder.mkdir(exist_ok=True)
        for name in self._names:
            os.replace(self._partial / name, self.folder / name)
        for path in self.folder.iterdir():  # a longer video of the same name leaves some behind
            if _NAME.fullmatch(path.name) and path.name not in self._names:
                path.unlink()
