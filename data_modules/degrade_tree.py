"""Make degraded frames once: clip by clip, all or nothing, in parallel, resumable."""

import fcntl
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import numpy as np

from data_modules.clean_clips import CleanClip, CleanFrames
from data_modules.degrade_codecs import PINNED, Degradation, ffmpeg
from data_modules.degrade_manifest import (
    JOURNAL,
    Done,
    Recipe,
    difference,
    journal_line,
    mean_psnr,
    read_journal,
    read_recipe,
    still_whole,
    write_manifest,
)
from data_modules.pictures import Picture, write_png
from data_modules.resize import Frames
from flowfeat.progress import tracked

log = logging.getLogger(__name__)

_PARTIAL = ".partial"
_MOST = 100.0  # dB, for frames that come back unchanged: a mean must stay finite


class _Stopped(Exception):
    """The user wants no more."""


def degrade_clips(
    clips: Sequence[CleanClip],
    tree: Path,
    degradation: Degradation,
    source: str | None = None,
    reader: str = "auto",
    workers: int | None = None,
    replace: bool = False,
) -> dict[str, Done]:
    """Make the degraded frames of all clips that have none yet.

    Every clip is compressed whole, as one video, into ``tree/<name>/*.png``. A folder appears under
    its name when it is complete; a line in the journal says so.

    Args:
        clips: What to degrade.
        tree: Where to; made with its parents.
        degradation: How.
        source: Hash of the embedded set, for the manifest.
        reader: Of ``open_video``.
        workers: FFmpeg processes at once; None: as many as cores.
        replace: Throw away a tree that was made otherwise.

    Returns:
        The wanted clips, with their frames and PSNR.

    Raises:
        ValueError: The tree was made otherwise or holds something else, or clips cannot be read.
        OSError: FFmpeg fails, or the tree cannot be written.
        KeyboardInterrupt: By the user; the next call goes on.
    """
    names = [clip.name for clip in clips]
    if workers is not None and workers < 1:
        raise ValueError(f"workers={workers}: expected 1 or more")
    recipe = Recipe.of(degradation, source)
    if read_recipe(tree) == recipe and not set(names).difference(done := _done(tree)):
        return {name: done[name] for name in names}
    if not ffmpeg().version.startswith(PINNED):
        log.warning(
            "FFmpeg %s: figures are for %s, others give other PSNR", ffmpeg().version, PINNED
        )
    tree.parent.mkdir(parents=True, exist_ok=True)
    with _locked(tree):
        done = _begin(tree, recipe, replace)
        todo = [clip for clip in clips if clip.name not in done]
        try:
            failures = _run(todo, tree, degradation, reader, workers, done)
        except KeyboardInterrupt:
            write_manifest(tree, recipe, done, complete=False)
            left = len(set(names).difference(done))
            raise KeyboardInterrupt(
                f"{tree}: interrupted, {left} of {len(names)} clips are left; "
                "the same command goes on"
            ) from None
        write_manifest(tree, recipe, done, complete=not failures)
    if failures:
        raise ValueError(
            f"{tree}: {len(failures)} of {len(names)} clips could not be degraded (the others "
            f"are done): {failures[0]}"
        ) from failures[0]
    return {name: done[name] for name in names}


@contextmanager
def _locked(tree: Path) -> Iterator[None]:
    """Let one process at a time write a tree; the system unlocks it if the process dies."""
    with (tree.parent / f".{tree.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("%s: waiting for another process that makes it", tree)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _begin(tree: Path, recipe: Recipe, replace: bool) -> dict[str, Done]:
    """Make the tree or find out how far it is; return what is done."""
    found = read_recipe(tree)
    if found is not None and (other := difference(found, recipe)):
        if not replace:
            raise ValueError(
                f"{tree}: {other}; remove that folder, or data.degraded= names another place"
            )
        log.warning("%s: %s; it is made anew", tree, other)
        shutil.rmtree(tree)
    tree.mkdir(exist_ok=True)
    shutil.rmtree(tree / _PARTIAL, ignore_errors=True)  # of a process that was killed
    (tree / _PARTIAL).mkdir()
    done = _done(tree)
    write_manifest(tree, recipe, done, complete=False)
    partial = tree / _PARTIAL / JOURNAL  # anew: a line that was cut off would spoil the next
    partial.write_text("".join(journal_line(name, d) for name, d in done.items()))
    os.replace(partial, tree / JOURNAL)
    return done


def _done(tree: Path) -> dict[str, Done]:
    return still_whole(tree, read_journal(tree))


def _run(
    todo: Sequence[CleanClip],
    tree: Path,
    degradation: Degradation,
    reader: str,
    workers: int | None,
    done: dict[str, Done],
) -> list[Exception]:
    """Degrade clips, add them to ``done``, and return what went wrong."""
    stop = threading.Event()
    failures: list[Exception] = []
    # Threads, because the work is done by FFmpeg's processes and by code that leaves the lock.
    pool = ThreadPoolExecutor(workers or os.cpu_count() or 1)
    with (tree / JOURNAL).open("a") as journal:
        try:
            futures: dict[Future[Done], CleanClip] = {
                pool.submit(_degrade, clip, tree, degradation, reader, stop): clip for clip in todo
            }
            label = f"compressing by {degradation.name}"
            for future in tracked(as_completed(futures), label, len(todo), "clips"):
                name = futures[future].name
                try:
                    done[name] = future.result()
                except (ValueError, OSError) as error:
                    failures.append(error)
                    continue
                journal.write(journal_line(name, done[name]))
                journal.flush()
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
            shutil.rmtree(tree / _PARTIAL, ignore_errors=True)
    return failures


def _degrade(
    clip: CleanClip, tree: Path, degradation: Degradation, reader: str, stop: threading.Event
) -> Done:
    folder = Path(tempfile.mkdtemp(dir=tree / _PARTIAL))
    try:
        done = _write_degraded(clip, folder, degradation, CleanFrames(reader), stop)
        final = tree / clip.name
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.exists():  # complete, but the process died before it said so
            shutil.rmtree(final)
        folder.chmod(0o755)  # mkdtemp's 0700 would shut out the other users of shared storage
        os.rename(folder, final)
        return done
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_degraded(
    clip: CleanClip,
    folder: Path,
    degradation: Degradation,
    source: CleanFrames,
    stop: threading.Event,
) -> Done:
    def chunks() -> Iterator[Frames]:
        for frames in source.chunks(clip):
            if stop.is_set():
                raise _Stopped
            yield frames

    begin = chunks()
    first = next(begin)
    degraded = degradation(chain([first], begin), (first.shape[1], first.shape[2]))
    clean = (frame for frames in chunks() for frame in frames)
    scores: list[float] = []
    for picture in degraded:
        truth = next(clean, None)
        if truth is None:
            break
        write_png(folder / clip.degraded(len(scores)), picture)
        scores.append(psnr(picture, truth))
    if len(scores) != source.length(clip) or next(degraded, None) is not None:
        raise OSError(
            f"{clip.path}: {source.length(clip)} frames went into FFmpeg: expected as many to "
            f"come out, not {len(scores)}"
        )
    return Done(len(scores), round(float(np.mean(scores)), 4))


def psnr(picture: Picture, truth: Picture) -> float:
    """Return the PSNR over all RGB values of two 8-bit pictures in dB, at most 100."""
    error = float(np.mean((picture.astype(np.float32) - truth.astype(np.float32)) ** 2))
    return min(_MOST, 10 * float(np.log10(255**2 / error))) if error else _MOST


def summary(tree: Path, degradation: Degradation, done: dict[str, Done]) -> str:
    """Say in one line what a tree holds."""
    frames = sum(clip.frames for clip in done.values())
    return (
        f"{degradation.name}: {len(done)} clips, {frames} frames, mean input PSNR "
        f"{mean_psnr(done):.2f} dB (FFmpeg {ffmpeg().version}) in {tree}"
    )
