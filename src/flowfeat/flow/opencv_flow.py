"""Hand-made flow from OpenCV: DIS and Farneback, for shallow feature flow (SFF of Table 3)."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, cast, get_args
from weakref import WeakKeyDictionary

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

    def __init__(
        self, channels: Sequence[int], strides: Sequence[int], halve: bool = False
    ) -> None:
        super().__init__(channels, strides, halve)
        self._grays = Grays()

    @abstractmethod
    def between(self, current: Gray, key: Gray) -> NDArray[np.float32]:
        """Return (H, W, 2), (dx, dy) in pixels with current(x) = key(x + d)."""

    def displacement(self, current: Tensor, key: Tensor) -> Tensor:
        """Compute every pair's flow.

        Raises:
            ValueError: Frames that OpenCV refuses (DIS wants at least 8 x 8 pixels).
        """
        return self._flows(current, key, halve=False)

    def at_half_size(self, current: Tensor, key: Tensor) -> Tensor:
        return self._flows(current, key, halve=True)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _flows(self, current: Tensor, key: Tensor, halve: bool) -> Tensor:
        grays = [self._grays(frames, halve) for frames in (current, key)]
        height, width = grays[0][0].shape
        # Planes, not pairs: what pools them to the feature grid reads a plane in half the time.
        flows = np.empty((len(current), 2, height, width), dtype=np.float32)
        for planes, ours, theirs in zip(flows, *grays, strict=True):
            try:
                cv2.split(self.between(ours, theirs), list(planes))
            except cv2.error as error:
                reason = str(error).strip().splitlines()[-1]
                raise ValueError(
                    f"{type(self).__name__} refuses frames of {height}x{width} ({reason})"
                ) from error
        return torch.from_numpy(flows).to(current.device)


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
        # Without a field to start from: one of zeros is slower, and changes the result.
        return cast(NDArray[np.float32], search.calc(current, key, None))  # type: ignore[call-overload]


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
            np.zeros((*current.shape, 2), dtype=np.float32),  # for the result, no start
            0.5,
            self.levels,
            self.window,
            self.iterations,
            self.neighbourhood,
            sigma,
            0,
        )
        return cast(NDArray[np.float32], flow)


class Grays:
    """Luminance of frames (B, 3, H, W) RGB in [0, 1], in 0 .. 255; of every frame once.

    A key frame serves many calls. What is kept goes with the frame's memory, and does not count
    once the frame was written to.
    """

    def __init__(self) -> None:
        self._kept: WeakKeyDictionary[Any, dict[Any, tuple[int | None, Gray]]] = WeakKeyDictionary()

    def __reduce__(self) -> tuple[type["Grays"], tuple[()]]:
        return Grays, ()  # copies begin anew, also those in other processes

    def __call__(self, frames: Tensor, halve: bool = False) -> list[Gray]:
        """Return the luminance of every frame, or of frames of half the size (rounded up)."""
        kept = self._kept.setdefault(frames.untyped_storage(), {})
        version = None if frames.is_inference() else frames._version
        grays = []
        for frame in frames:
            place = (frame.storage_offset(), frame.shape, frame.stride(), halve)
            found = kept.get(place)
            if found is None or found[0] != version:
                found = kept[place] = (version, _gray(frame, halve))
            grays.append(found[1])
        return grays


def _gray(frame: Tensor, halve: bool) -> Gray:
    """Return the luminance of a frame (3, H, W)."""
    planes = [plane.numpy() for plane in frame.detach().float().cpu()]
    if halve:
        planes = [_halved(plane) for plane in planes]
    # OpenCV rounds and converts in one pass per plane: a tenth of the time of torch's five.
    picture = cv2.merge([cv2.convertScaleAbs(plane, alpha=255) for plane in planes])
    return cast(Gray, cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))


def _halved(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    """Average 2 x 2 pixels; at an odd border, those that are there."""
    height, width = plane.shape
    if height % 2 or width % 2:
        edge = cv2.BORDER_REPLICATE
        plane = cv2.copyMakeBorder(plane, 0, height % 2, 0, width % 2, edge)  # type: ignore[assignment]
    size = (-(-width // 2), -(-height // 2))
    return cast(NDArray[np.float32], cv2.resize(plane, size, interpolation=cv2.INTER_AREA))
