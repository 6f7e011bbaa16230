"""`flowfeat-fuse`: add the saved scores of several evaluations, and report what that gives."""

import sys
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from flowfeat import cli
from flowfeat.report import print_table
from flowfeat.scores import VideoScores, figures, read_scores

USAGE = "flowfeat-fuse <scores.npz>[:weight] <scores.npz>[:weight] ..."
HELP = """
Every evaluation of recognition leaves scores.npz in its run folder. A file may get one weight (1 if
none is given) for its levels' sum, or one per level, such as off/scores.npz:1,0,1,2."""


class Stream(NamedTuple):
    """One evaluation in a fusion."""

    path: str
    videos: VideoScores
    weights: tuple[float, ...]  # of the levels

    def fused(self) -> Tensor:
        """Return its part of the sum (N, C)."""
        return self.videos.fused(self.weights)


def read_stream(word: str) -> Stream:
    """Read the scores that a word of the command line names.

    Raises:
        FileNotFoundError, ValueError: See ``read_scores``; weights that do not fit the levels.
    """
    path, colon, text = word.rpartition(":")
    given = _numbers(text, word) if colon else None
    if given is None:  # no weight, but perhaps a colon in the path
        path, given = word, (1.0,)
    videos = read_scores(path)
    levels = len(videos.weights)
    if len(given) == 1:
        return Stream(path, videos, tuple(given[0] * weight for weight in videos.weights))
    if len(given) != levels:
        raise ValueError(f"{word}: expected 1 weight or {levels}, one per level")
    return Stream(path, videos, given)


def fuse(streams: Sequence[Stream]) -> dict[str, float]:
    """Return accuracy, top5 and mean_class_accuracy of the streams' sum.

    Raises:
        ValueError: No streams; other videos, classes or labels than those of the first.
    """
    if not streams:
        raise ValueError(f"no scores; usage: {USAGE}")
    first = streams[0]
    for other in streams[1:]:
        _check(first, other)
    parts = torch.stack([stream.fused() for stream in streams])  # (K, N, C)
    silent = parts.isnan().all(0)
    total = parts.nan_to_num().sum(0).masked_fill(silent, torch.nan)
    return figures(total, first.videos.labels)


def _check(first: Stream, other: Stream) -> None:
    """See that two evaluations are of the same videos."""
    ours, theirs = first.videos, other.videos
    for what, a, b in (
        ("classes", ours.classes, theirs.classes),
        ("videos", ours.names, theirs.names),
    ):
        strange = sorted(set(a) ^ set(b))
        if strange:
            raise ValueError(
                f"{other.path}: expected the {len(a)} {what} of {first.path}, found {len(b)}, of "
                f"which {len(set(a) & set(b))} are the same; {strange[0]} is only in one"
            )
    if ours.classes != theirs.classes:
        raise ValueError(f"{other.path}: the classes of {first.path} in another order")
    differing = (ours.labels != theirs.labels).nonzero().flatten().tolist()
    if differing:
        raise ValueError(
            f"{other.path}: {len(differing)} of {len(ours.names)} videos have another label than "
            f"in {first.path}, first {ours.names[differing[0]]}"
        )


def _numbers(text: str, word: str) -> tuple[float, ...] | None:
    """Read numbers of at least 0, not all 0, separated by commas; None for what are no numbers."""
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        return None
    if not all(0 <= number < float("inf") for number in numbers) or not any(numbers):
        raise ValueError(f"{word}: expected weights of at least 0, one above it, found {text}")
    return numbers


def main() -> None:
    """Entry point of `flowfeat-fuse`."""
    words = sys.argv[1:]
    if {"--help", "-h"} & set(words):
        sys.stdout.write(f"usage: {USAGE}\n{HELP}\n")
        return
    try:
        streams = [read_stream(word) for word in words]
        results = fuse(streams)
    except cli.USER_ERRORS as error:
        cli.fail(error)
        return
    for stream in streams:
        alone = figures(stream.fused(), stream.videos.labels)["accuracy"]
        weights = ",".join(f"{weight:g}" for weight in stream.weights)
        sys.stdout.write(f"{stream.path} x {weights}: accuracy {alone:.4f} alone\n")
    print_table(results, f"{len(streams[0].videos.names)} videos")
