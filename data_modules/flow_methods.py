"""Flow between the frames of a video: OpenCV's DIS, fast, or TV-L1, the one of the papers."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, cast, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from flowfeat.flow.opencv_flow import Preset

FlowMethod = Literal["dis", "tvl1"]

Grey = NDArray[np.uint8]
"""(H, W) luminance."""
Between = Callable[[Grey, Grey], NDArray[np.float32]]
"""A frame and the next one -> (H, W, 2), (dx, dy) in pixels, from the one to the other."""


def flow_method(name: str) -> FlowMethod:
    """Take a config's word for a method.

    Raises:
        ValueError: An unknown one.
    """
    if name not in get_args(FlowMethod):
        known = ", ".join(get_args(FlowMethod))
        raise ValueError(f"data.flow_method={name!r}: expected one of {known}")
    return cast(FlowMethod, name)


def settings_of(method: FlowMethod, preset: Preset) -> dict[str, Any]:
    """Return all that a method's flow depends on beside the frames."""
    if method == "dis":
        return {"method": "opencv_dis", "preset": preset}
    return {"method": "skimage_tvl1"}  # with the defaults of scikit-image


def flows(
    frames: Iterable[NDArray[np.uint8]], method: FlowMethod, preset: Preset
) -> Iterator[NDArray[np.float32]]:
    """Yield the flow (H, W, 2) from every frame (H, W, 3) to the next one, one less than frames.

    Raises:
        ValueError: ``tvl1`` without scikit-image.
    """
    between = _dis(preset) if method == "dis" else _tvl1()
    last: Grey | None = None
    for frame in frames:
        grey = np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8)
        if last is not None:
            yield between(last, grey)
        last = grey


def _dis(preset: Preset) -> Between:
    search = cv2.DISOpticalFlow.create(get_args(Preset).index(preset))

    def between(frame: Grey, following: Grey) -> NDArray[np.float32]:
        # Without a field to start from: one of zeros changes the result.
        found = search.calc(frame, following, None)  # type: ignore[call-overload]
        return np.asarray(found, np.float32)

    return between


def _tvl1() -> Between:
    # OpenCV's TV-L1 lies in contrib, whose package excludes the headless one.
    try:
        from skimage.registration import optical_flow_tvl1
    except ImportError:
        raise ValueError(
            "data.flow_method=tvl1: needs scikit-image, expected pip install -e '.[tvl1]', or "
            "data.flow_method=dis"
        ) from None

    def between(frame: Grey, following: Grey) -> NDArray[np.float32]:
        down, across = optical_flow_tvl1(frame, following, dtype=np.float32)
        return np.stack((across, down), axis=-1)

    return between
