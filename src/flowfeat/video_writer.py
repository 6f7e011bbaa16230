"""Writes pictures to a video file that plays everywhere, and appears only when it is complete."""

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from flowfeat.written_aside import WrittenAside, aside

_SMPTE170M = 6  # the matrix by which pictures are converted; told, so that players do not guess
_CRF_CODECS = ("libx264", "libx265")
PRESETS = (
    *("ultrafast", "superfast", "veryfast", "faster", "fast"),
    *("medium", "slow", "slower", "veryslow", "placebo"),
)
"""Of x264 and x265, from the least effort to the most."""


class VideoWriter(WrittenAside):
    """A context manager that encodes RGB pictures, by default as H.264 in yuv420p.

    Encodes into a hidden file beside ``path`` and renames it when the block ends well. After an
    error, or without a single picture, nothing is left and an older file stays as it was. Odd
    sizes are padded by repeating the last row or column, because yuv420p halves its colours.

    Args:
        path: File to write; its suffix names the container (.mp4, .avi, .mkv, ...). Missing
            folders are made.
        fps: Frames per second, above 0.
        size: Height and width of every picture.
        codec: Name of an encoder: ``libx264``, ``mpeg4``, ...
        crf: Constant quality, lower is better: 0 .. 51 for H.264 and H.265, the quantiser
            1 .. 31 for others.
        preset: Of H.264 and H.265: how much effort goes into a small file, one of ``PRESETS``; None
            leaves it to the encoder (medium).
        gop: Frames from key frame to key frame at most; None leaves it to the encoder.
        threads: 1 gives the same bytes on every machine; None uses all cores.

    Raises:
        ValueError: A wrong setting or picture, or a block that wrote no picture.
        OSError: The file cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        fps: float,
        size: tuple[int, int],
        codec: str = "libx264",
        crf: int = 20,
        gop: int | None = None,
        threads: int | None = None,
        preset: str | None = None,
    ) -> None:
        if not 0 < fps < 1000:
            raise ValueError(f"fps {fps}: expected above 0 and below 1000")
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"size {size}: expected (height, width) of at least 1")
        if not _encodes(codec):
            raise ValueError(f"codec {codec!r}: no such video encoder in this build of FFmpeg")
        highest = 51 if codec in _CRF_CODECS else 31
        if not 0 <= crf <= highest:
            raise ValueError(f"crf {crf}: expected 0 .. {highest} for {codec}")
        if gop is not None and gop < 1:
            raise ValueError(f"gop {gop}: expected at least 1")
        if preset is not None and codec not in _CRF_CODECS:
            raise ValueError(f"preset {preset}: {codec} has none, expected None")
        if preset is not None and preset not in PRESETS:
            raise ValueError(f"preset {preset}: expected one of {', '.join(PRESETS)}")
        self.path = Path(path)
        self.size = (int(size[0]), int(size[1]))
        self.frames = 0
        self._partial = aside(self.path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        rate = Fraction(fps).limit_denominator(1001)  # 29.97003 becomes 30000 / 1001
        try:
            self._container = av.open(str(self._partial), "w", options={"fflags": "+bitexact"})
        except (av.FFmpegError, ValueError) as error:
            raise _refused(self.path, error) from error
        try:
            self._stream = self._encoder(codec, rate, crf, gop, threads, preset)
            self._container.start_encoding()  # opens the file, so that it is refused now or never
        except (av.FFmpegError, ValueError) as error:
            self.discard()
            raise _refused(self.path, error) from error

    def _encoder(
        self,
        codec: str,
        rate: Fraction,
        crf: int,
        gop: int | None,
        threads: int | None,
        preset: str | None,
    ) -> Any:
        """Add the video stream; its true types differ between versions of the stubs."""
        options = {"crf": str(crf)} if codec in _CRF_CODECS else {}
        if preset is not None:
            options["preset"] = preset
        if codec == "libx264" and threads == 1:
            # Its macroblock tree reads memory that nobody wrote: one run in fifty would differ.
            options["x264-params"] = "mbtree=0"
        stream: Any = self._container.add_stream(codec, rate=rate, options=options)
        context = stream.codec_context
        context.height, context.width = (side + side % 2 for side in self.size)
        context.pix_fmt = "yuv420p"
        context.thread_count = threads or 0
        context.colorspace = _SMPTE170M
        if gop is not None:
            context.gop_size = gop
        if not options:
            context.qmin = context.qmax = max(1, crf)
        return stream

    def write(self, picture: NDArray[np.uint8]) -> None:
        """Append a picture (H, W, 3) RGB uint8."""
        if picture.shape != (*self.size, 3) or picture.dtype != np.uint8:
            raise ValueError(
                f"{self.path}: a picture of {picture.shape} {picture.dtype},"
                f" expected {(*self.size, 3)} uint8"
            )
        height, width = self.size
        if height % 2 or width % 2:
            picture = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame.pts = self.frames
        frame.time_base = 1 / Fraction(self._stream.codec_context.framerate)
        self._mux(frame)
        self.frames += 1

    def close(self) -> None:
        """Finish the file and give it its name."""
        if self.frames == 0:
            self.discard()
            raise ValueError(f"{self.path}: no picture was written to this video")
        try:
            self._mux(None)
            self._container.close()
            self._stream = None  # frees the encoder's threads, which would not survive a fork
            os.replace(self._partial, self.path)
        except (av.FFmpegError, OSError) as error:
            self.discard()
            raise _refused(self.path, error) from error

    def _mux(self, frame: av.VideoFrame | None) -> None:
        try:
            self._container.mux(self._stream.encode(frame))
        except av.FFmpegError as error:
            raise _refused(self.path, error) from error

    def discard(self) -> None:
        """Remove the unfinished file."""
        try:
            self._container.close()
        except (av.FFmpegError, OSError):  # a full disk fails here again; the file goes anyway
            pass
        finally:
            self._partial.unlink(missing_ok=True)


def _encodes(codec: str) -> bool:
    try:
        return av.Codec(codec, "w").type == "video"
    except ValueError:  # PyAV's "unknown codec" is one
        return False


def _refused(path: Path, error: Exception) -> Exception:
    """Name the file in one line; an OSError stays one."""
    said = getattr(error, "strerror", None) or str(error)
    text = f"{path}: this video cannot be written ({said})"
    return OSError(text) if isinstance(error, OSError) else ValueError(text)
