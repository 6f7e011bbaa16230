"""Checks requested frame indices and orders them for one forward pass of a decoder."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Plan(NamedTuple):
    """Each wanted frame once, in ascending order, and where it goes."""

    frames: list[int]  # ascending, without repetition
    gather: NDArray[np.intp] | None  # (T,) positions in ``frames``; None: they are the request


def plan(indices: Sequence[int], length: int, path: Path) -> Plan:
    """Order ``indices`` so that a decoder never runs backwards.

    Raises:
        IndexError: An index outside 0 .. length - 1; the message names the file.
    """
    wanted = np.asarray(indices, dtype=np.int64).reshape(-1)
    wrong = wanted[(wanted < 0) | (wanted >= length)]
    if wrong.size:
        raise IndexError(f"{path}: frame {wrong[0]} is outside 0 .. {length - 1}")
    if (np.diff(wanted) > 0).all():
        return Plan(wanted.tolist(), None)
    frames, gather = np.unique(wanted, return_inverse=True)
    return Plan(frames.tolist(), gather.reshape(-1))


def gathered(pictures: NDArray[np.uint8], order: Plan) -> NDArray[np.uint8]:
    """Put pictures (len(order.frames), H, W, 3) back into the order of the request."""
    return pictures if order.gather is None else pictures[order.gather]
