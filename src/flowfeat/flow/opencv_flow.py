"""Hand-made flow from OpenCV: DIS and Farneback, for shallow feature flow (SFF of Table 3)."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal, cast, get_args

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowfeat.flow.full_flow import FullFlow

Gray = NDArray[np.uint8]
"""(H, W) luminance."""

Preset = Literal["ultrafast", "fast", "medium"]


class OpenCVFlow(FullFlow):
    """Runs pair by pair on the CPU, wherever the frames are; has no weights and no gradient."""

    @abstractmethod
    def between(self, current: Gray, key: Gray) -> NDArray[np.float32]:
        """Return (H, W, 2), (dx, dy) in pixels with current(x) = key(x + d)."""

    @torch.no_grad()
    def displacement(self, current: Tensor, key: Tensor) -> Tensor:
        """Compute every pair's flow.

        Raises:
            ValueError: Frames that OpenCV refuses (DIS wants at least 8 x 8 pixels).
        """
        height, width = current.shape[-2:]
        flows = np.empty((len(current), height, width, 2), dtype=np.float32)
        for row, (ours, theirs) in enumerate(zip(_grays(current), _grays(key), strict=True)):
            try:
                flows[row] = self.between(ours, theirs)
            except cv2.error as error:
                reason = str(error).strip().splitlines()[-1]
                raise ValueError(
                    f"{type(self).__name__} refuses frames of {height}x{width} ({reason})"
                ) from error
        return torch.from_numpy(flows).permute(0, 3, 1, 2).to(current.device)


class DIS(OpenCVFlow):
    """Dense inverse search.

    Args:
        channels: See :class:`FullFlow`.
        strides: See there.
        halve: See there.
        preset: OpenCV's settings, from fast to good.

    Raises:
        ValueError: An unknown preset.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        halve: bool = False,
        preset: Preset = "medium",
    ) -> None:
        super().__init__(channels, strides, halve)
        if preset not in get_args(Preset):
            known = ", ".join(get_args(Preset))
            raise ValueError(f"flow.preset={preset!r}: expected one of {known}")
        self.preset = preset

    def between(self, current: Gray, key: Gray) -> NDArray[np.float32]:
        # One object per call: it keeps buffers, and modules are copied to other processes.
        search = cv2.DISOpticalFlow.create(get_args(Preset).index(self.preset))
        start = np.zeros((*current.shape, 2), dtype=np.float32)
        return cast(NDArray[np.float32], search.calc(current, key, start))


class Farneback(OpenCVFlow):
    """Farneback's polynomial expansion.

    Args:
        channels: See :class:`FullFlow`.
        strides: See there.
        halve: See there.
        levels: Of the image pyramid, each of half the size; more find larger motion.
        window: Pixels over which the motion is averaged; more is smoother.
        iterations: Per level.
        neighbourhood: Pixels of the polynomial expansion, 5 or 7.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        halve: bool = False,
        levels: int = 5,
        window: int = 15,
        iterations: int = 3,
        neighbourhood: int = 5,
    ) -> None:
        super().__init__(channels, strides, halve)
        for name, value in (("levels", levels), ("window", window), ("iterations", iterations)):
            if value < 1:
                raise ValueError(f"flow.{name}={value}: expected at least 1")
        if neighbourhood not in (5, 7):
            raise ValueError(f"flow.neighbourhood={neighbourhood}: expected 5 or 7")
        self.levels, self.window, self.iterations = levels, window, iterations
        self.neighbourhood = neighbourhood

    def between(self, current: Gray, key: Gray) -> NDArray[np.float32]:
        sigma = 1.1 if self.neighbourhood == 5 else 1.5  # as OpenCV recommends
        flow = cv2.calcOpticalFlowFarneback(
            current,
            key,
            np.zeros((*current.shape, 2), dtype=np.float32),
            0.5,
            self.levels,
            self.window,
            self.iterations,
            self.neighbourhood,
            sigma,
            0,
        )
        return cast(NDArray[np.float32], flow)


def _grays(frames: Tensor) -> list[Gray]:
    """Return the luminance of frames (B, 3, H, W) RGB in [0, 1], in 0 .. 255."""
    bytes_ = (frames.detach().float().clamp(0, 1) * 255).round().byte()
    pictures = bytes_.permute(0, 2, 3, 1).cpu().numpy()
    return [cast(Gray, cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)) for picture in pictures]
