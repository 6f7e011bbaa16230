"""Compress frames and decompress them again with the pinned FFmpeg, in constant memory.

FFmpeg is part of the setting: the same JPEG 2000 quality of 20 gives about 33.8 dB on natural
pictures in versions 4 to 7 and 36.5 dB in later ones. So the binary comes with ``imageio-ffmpeg``
at one version, and its own version is recorded beside what it made.
"""

import functools
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import imageio_ffmpeg
import numpy as np

from data_modules.pictures import Picture
from data_modules.resize import Frames

PINNED = "4.2.2"
"""Version of FFmpeg in the wheel of ``imageio-ffmpeg`` 0.5.1 for Linux."""

_RATE = "25"
# Full-resolution colours and exact rounding, so that what is lost is lost to the codec.
_SCALER = "scale=flags=bicubic+accurate_rnd+full_chroma_int"


class _Codec(NamedTuple):
    letter: str  # of the quality, in names
    lowest: int
    highest: int
    suffix: str  # of the compressed file
    even: bool  # wants even sides
    arguments: tuple[str, ...]  # {} is the quality


CODECS = {
    # What TOFlow's README means: its own line, for more than one picture, does not run.
    "jpeg2000": _Codec(
        "q", 1, 255, ".mov", False, ("-c:v", "jpeg2000", "-q:v", "{}", "-format", "j2k")
    ),
    "h264": _Codec(
        *("crf", 0, 51, ".mp4", True),
        (*("-vf", f"{_SCALER},format=yuv420p"), "-c:v", "libx264", "-crf", "{}"),
    ),
    "h265": _Codec(
        *("crf", 0, 51, ".mp4", True),
        (
            *("-vf", f"{_SCALER},format=yuv420p", "-c:v", "libx265", "-crf", "{}"),
            *("-x265-params", "log-level=error:pools=none:frame-threads=1"),
        ),
    ),
}


class Ffmpeg(NamedTuple):
    """An FFmpeg binary."""

    path: str
    version: str  # as it calls itself: 4.2.2-static


@functools.cache
def ffmpeg() -> Ffmpeg:
    """Find the binary that ``imageio-ffmpeg`` brings (or that IMAGEIO_FFMPEG_EXE names).

    Raises:
        FileNotFoundError: There is none for this machine.
    """
    try:
        path = imageio_ffmpeg.get_ffmpeg_exe()
        said = subprocess.run([path, "-version"], capture_output=True, text=True, check=True)
    except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
        raise FileNotFoundError(
            "no FFmpeg that runs here: expected the one of imageio-ffmpeg==0.5.1, "
            "or IMAGEIO_FFMPEG_EXE=<another>"
        ) from error
    return Ffmpeg(path, said.stdout.split()[2])  # "ffmpeg version 4.2.2-static Copyright ..."


@dataclass(frozen=True)
class Degradation:
    """A codec and its quality: ``jpeg2000`` with FFmpeg's q, ``h264`` and ``h265`` with a CRF.

    Higher is worse in all of them. JPEG 2000 codes every frame alone, in tiles of 256 x 256 as
    FFmpeg does unless told otherwise (TOFlow left it so).

    Raises:
        ValueError: An unknown codec, or a quality outside its range.
    """

    codec: str = "jpeg2000"
    quality: int = 20

    def __post_init__(self) -> None:
        if self.codec not in CODECS:
            raise ValueError(f"data.codec={self.codec}: expected one of {', '.join(CODECS)}")
        codec = CODECS[self.codec]
        if not codec.lowest <= self.quality <= codec.highest:
            raise ValueError(
                f"data.quality={self.quality}: expected {codec.lowest} .. {codec.highest} "
                f"for {self.codec}"
            )

    @property
    def name(self) -> str:
        """What folders are called: ``jpeg2000_q20``, ``h264_crf37``."""
        return f"{self.codec}_{CODECS[self.codec].letter}{self.quality}"

    @property
    def arguments(self) -> list[str]:
        """FFmpeg's arguments that say how to compress."""
        return [word.format(self.quality) for word in CODECS[self.codec].arguments]

    def __call__(self, frames: Iterable[Frames], size: tuple[int, int]) -> Iterator[Picture]:
        """Yield what frames (T, H, W, 3) of one video, in any chunks, look like afterwards.

        Raises:
            OSError: FFmpeg fails.
        """
        codec = CODECS[self.codec]
        grid = (size[0] + size[0] % 2, size[1] + size[1] % 2) if codec.even else size
        with tempfile.TemporaryDirectory(prefix="flowfeat-degrade-") as folder:
            path = Path(folder) / f"video{codec.suffix}"
            self._compress(frames, grid, path)
            yield from (picture[: size[0], : size[1]] for picture in _decompress(path, grid))

    def _compress(self, frames: Iterable[Frames], size: tuple[int, int], path: Path) -> None:
        raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{size[1]}x{size[0]}")
        # One thread: several codec threads would not give the same bytes on every machine, and
        # there are as many processes as cores anyway.
        words = [*raw, "-r", _RATE, "-i", "-", *self.arguments, "-threads", "1", str(path)]
        with _running(words, stdin=True) as pipe:
            for chunk in frames:
                spare = ((0, 0), (0, size[0] - chunk.shape[1]), (0, size[1] - chunk.shape[2]))
                padded = np.pad(chunk, (*spare, (0, 0)), mode="edge") if any(spare[1:]) else chunk
                pipe.write(np.ascontiguousarray(padded).tobytes())


def _decompress(path: Path, size: tuple[int, int]) -> Iterator[Picture]:
    words = ["-threads", "1", "-i", str(path), "-vf", f"{_SCALER},format=rgb24"]
    expected = size[0] * size[1] * 3
    with _running([*words, "-f", "rawvideo", "-"], stdin=False) as pipe:
        while len(data := pipe.read(expected)) == expected:
            yield np.frombuffer(data, np.uint8).reshape(*size, 3)


@contextmanager
def _running(words: Sequence[str], stdin: bool) -> Iterator[IO[bytes]]:
    """Run FFmpeg and give its standard input or output; it never outlives the block.

    Raises:
        OSError: It fails; the message is its own last line.
    """
    command = [ffmpeg().path, "-hide_banner", "-nostats", "-loglevel", "error", "-y", *words]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if stdin else subprocess.PIPE,
            stderr=said,
            start_new_session=True,  # Ctrl-C is ours to handle
        )
        pipe = process.stdin if stdin else process.stdout
        if pipe is None:
            raise OSError("FFmpeg has no pipe")
        try:
            yield pipe
            pipe.close()
            failed = process.wait() != 0
        except BrokenPipeError:  # it has gone: what it said is the reason
            failed = True
        finally:
            process.kill()
            process.wait()
            with suppress(BrokenPipeError):  # what was still buffered
                pipe.close()
        if failed:
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
            raise OSError(f"FFmpeg {ffmpeg().version} failed: {lines[-1] if lines else 'silently'}")
