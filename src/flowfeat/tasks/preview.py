"""What a task shows of one sample: the seam between tasks and the callback that saves pictures."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class Preview(NamedTuple):
    """One current frame, the key frame whose features it got, and what came of it."""

    key: Tensor | None  # (3, H, W) RGB in [0, 1]; None where no other frame is of interest
    current: Tensor  # (3, H, W) RGB in [0, 1]
    displacement: Tensor | None  # (2, h, w), current -> key, in its own pixels; None without flow
    predicted: NDArray[np.uint8]  # (H', W', 3) RGB: the current frame with the predictions drawn
    truth: NDArray[np.uint8]  # (H', W', 3) RGB: the current frame with the truth drawn
    caption: str  # snippet and frame numbers
    predicted_caption: str = "predicted"  # and which predictions are drawn, if not all


@runtime_checkable
class Previewing(Protocol):
    """A task that can show what it does."""

    def preview(self, batch: Any) -> Preview:
        """Run the first sample of a batch and show it.

        Called on one process only and between the steps of an evaluation: it must neither wait for
        other processes, nor log, nor touch the state of a stream, metrics or the training mode.
        """
