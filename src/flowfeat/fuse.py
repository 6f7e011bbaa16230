"""`flowfeat-fuse`: add the saved scores of several evaluations, and report what that gives."""

import sys
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from flowfeat import cli
from flowfeat.commands import path_and_weights, scores_to_fuse
from flowfeat.report import print_table
from flowfeat.scores import VideoScores, figures, read_scores


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
    path, given = path_and_weights(word)
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
        raise ValueError("no scores, expected those of one evaluation or more")
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


def main() -> None:
    """Entry point of `flowfeat-fuse`."""
    try:
        scores_to_fuse()
        streams = [read_stream(word) for word in sys.argv[1:]]
        results = fuse(streams)
    except cli.user_errors() as error:
        cli.fail(error)
        return
    for stream in streams:
        alone = figures(stream.fused(), stream.videos.labels)["accuracy"]
        weights = ",".join(f"{weight:g}" for weight in stream.weights)
        sys.stdout.write(f"{stream.path} x {weights}: accuracy {alone:.4f} alone\n")
    print_table(results, f"{len(streams[0].videos.names)} videos")
