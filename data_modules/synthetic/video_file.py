"""Encode pictures as one H.264 file, the same bytes in every run on a machine."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray


def write_video(
    path: Path,
    pictures: Iterable[NDArray[np.uint8]],
    size: tuple[int, int],
    fps: int,
    crf: int,
    gop: int,
) -> None:
    """Write pictures (H, W, 3) RGB.

    Args:
        path: ``.mp4``.
        pictures: In order.
        size: Height and width, both even.
        fps: Pictures per second.
        crf: H.264's quality; lower is better.
        gop: Pictures from one random access point to the next.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps))
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1  # the same bytes on every machine
        # x264's macroblock tree reads past its rows in small pictures: other bytes in every run.
        fixed = {"x264-params": "mbtree=0"}
        stream.options = {"crf": str(crf), "g": str(gop), **fixed}
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
