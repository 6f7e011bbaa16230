"""Training clips of methods that compare propagated frames: a key frame, and two that follow."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class KeyedPair:
    """Key frame k, the frame i - 1 and the labelled frame i: an ``interfaces.ClipSampler``.

    The distance i - k is uniform in 1 .. max_offset; before the snippet's start stands its first
    frame. Where i is its own key frame, as one in l frames of a stream is, the clip is
    ``[i, i - 1, i]``: the frame before it then gets its features from i.

    Args:
        max_offset: The largest i - k.
        same: Share of clips whose labelled frame is its own key frame, 0..1.
    """

    max_offset: int = 9
    same: float = 0.0

    def __post_init__(self) -> None:
        if self.max_offset < 1:
            raise ValueError(f"clip.max_offset={self.max_offset}: expected 1 or more")
        if not 0 <= self.same <= 1:
            raise ValueError(f"clip.same={self.same}: expected 0..1")

    def __call__(
        self, length: int, labelled: int, rng: np.random.Generator
    ) -> tuple[list[int], list[int]]:
        """Return ``[k, i - 1, i], [2]``."""
        if not 0 <= labelled < length:
            raise ValueError(
                f"labelled frame {labelled}: expected 0 .. {length - 1} (length {length})"
            )
        key = max(0, labelled - int(rng.integers(1, self.max_offset + 1)))
        if rng.random() < self.same:
            key = labelled
        return [key, max(0, labelled - 1), labelled], [2]
