"""Key frames at fixed intervals: on every frame, or one in every l frames."""

from dataclasses import dataclass

from torch import Tensor

from flowfeat.interfaces import Flow


@dataclass(frozen=True)
class Fixed:
    """One key frame in every ``interval`` frames (section 3, "Key Frame Scheduling").

    Args:
        interval: The key-frame duration length l, at least 1.

    Raises:
        ValueError: An interval below 1.
    """

    interval: int
    needs_flow: bool = False

    def __post_init__(self) -> None:
        if (
            isinstance(self.interval, bool)
            or not isinstance(self.interval, int)
            or self.interval < 1
        ):
            raise ValueError(
                f"key_frames.interval: expected an integer >= 1, found {self.interval!r}"
            )

    def __call__(
        self, age: Tensor, frames: Tensor, keys: Tensor | None, flow: Flow | None
    ) -> Tensor:
        return age % self.interval == 0


@dataclass(frozen=True)
class Every(Fixed):
    """Every frame is a key frame, until ``interval`` is overridden."""

    interval: int = 1
