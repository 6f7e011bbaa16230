"""Scores of whole videos: how steps, crops and levels become one, what they are worth, their file.

Scores are pre-softmax everywhere. A level that says nothing about a video (OFF on one frame) is
NaN there, and a video about which nothing is said counts as wrong.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_confusion_matrix

Crops = Literal["mean", "max"]
KEYS = ("names", "classes", "labels", "scores", "weights")


class VideoScores(NamedTuple):
    """What a model says about N videos, each of them once."""

    names: tuple[str, ...]  # N, in alphabetical order
    classes: tuple[str, ...]  # C
    labels: Tensor  # (N,) i64
    scores: Tensor  # (N, L, C) f32, NaN where a level says nothing
    weights: tuple[float, ...]  # L, of the levels in the fused score

    def fused(self, weights: Sequence[float] | None = None) -> Tensor:
        """Return the weighted sum over levels (N, C), by other weights if they are given."""
        return fuse_levels(self.scores, self.weights if weights is None else weights)


def consensus(steps: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Average scores over time (Eq. 8).

    Args:
        steps: (..., T, L, C).
        counts: (..., T, L) bool, the steps that are real results and no repetitions.

    Returns:
        Scores (..., L, C), 0 where no step counts, and (..., L) bool: whether any does.
    """
    number = counts.sum(-2)
    total = torch.where(counts[..., None], steps, 0.0).sum(-3)
    return total / number.clamp(min=1)[..., None], number > 0


def fuse_levels(scores: Tensor, weights: Sequence[float]) -> Tensor:
    """Return the weighted sum (N, C) of scores (N, L, C); levels that say nothing are left out."""
    factors = scores.new_tensor(list(weights))
    said = ~scores.isnan().any(-1)  # (N, L)
    total = (scores.nan_to_num() * factors[:, None]).sum(1)
    silent = ~(said & (factors > 0)).any(1)
    return total.masked_fill(silent[:, None], torch.nan)


def figures(scores: Tensor, labels: Tensor) -> dict[str, float]:
    """Return accuracy, top5 and mean_class_accuracy (0..1) of scores (N, C), N >= 1.

    The mean over classes is over those that occur; with 5 classes or fewer, top5 is 1.
    """
    classes = scores.shape[1]
    said = ~scores.isnan().any(1)
    support = labels.bincount(minlength=classes)
    if not said.any():
        return {"accuracy": 0.0, "top5": 0.0, "mean_class_accuracy": 0.0}
    some, truth, share = scores[said], labels[said], float(said.float().mean())
    right = multiclass_confusion_matrix(some, truth, classes).diagonal()
    top = {
        name: multiclass_accuracy(some, truth, classes, average="micro", top_k=k)
        for name, k in (("accuracy", 1), ("top5", min(5, classes)))
    }
    per_class = (right / support)[support > 0]
    return {
        **{name: share * float(value) for name, value in top.items()},
        "mean_class_accuracy": float(per_class.mean()),
    }


class Collected:
    """Collects the videos of one evaluation, over batches, crops and processes.

    Args:
        crops: How the crops of a video that comes in several parts are combined.
    """

    def __init__(self, crops: Crops) -> None:
        self.crops = crops
        self._videos: dict[str, tuple[int, Tensor, int]] = {}  # label, sum of scores, crops

    def add(self, name: str, label: int, scores: Tensor, crops: int) -> None:
        """Add the scores (L, C) of one video, of so many of its crops.

        Raises:
            ValueError: Crops whose maximum is wanted, apart from each other.
        """
        before = self._videos.get(name)
        if before is None:
            self._videos[name] = (label, crops * scores, crops)
            return
        if self.crops == "max":
            raise ValueError(
                f"module.crops=max: expected all crops of {name} in one batch, found them in two"
            )
        self._videos[name] = (label, before[1] + crops * scores, before[2] + crops)

    def gathered(self, classes: Sequence[str], weights: Sequence[float]) -> VideoScores:
        """Return the videos of all processes, on every one of them; all must call it."""
        videos = dict(self._videos)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            parts = [videos] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(parts, videos)
            # A video that two processes were given has the same scores on both, and counts once.
            videos = {name: video for part in parts for name, video in part.items()}
        names = sorted(videos)
        ordered = [videos[name] for name in names]
        shape = (0, len(weights), len(classes))
        return VideoScores(
            tuple(names),
            tuple(classes),
            torch.tensor([label for label, _, _ in ordered], dtype=torch.int64),
            torch.stack([s / n for _, s, n in ordered]) if ordered else torch.zeros(shape),
            tuple(weights),
        )


def write_scores(videos: VideoScores, path: Path) -> None:
    """Write an `.npz` without pickled objects; the file appears when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".npz.tmp")
    with partial.open("wb") as file:
        np.savez_compressed(
            file,
            names=np.array(videos.names, dtype=np.str_),
            classes=np.array(videos.classes, dtype=np.str_),
            labels=videos.labels.numpy(),
            scores=videos.scores.numpy().astype(np.float32),
            weights=np.array(videos.weights, dtype=np.float32),
        )
    os.replace(partial, path)


def read_scores(path: str | Path) -> VideoScores:
    """Read what ``write_scores`` wrote.

    Raises:
        FileNotFoundError: No such file.
        ValueError: A file of another kind, or whose parts do not fit together.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such scores")
    try:
        with np.load(path, allow_pickle=False) as stored:
            missing = [key for key in KEYS if key not in stored]
            found = {} if missing else {key: stored[key] for key in KEYS}
    except MemoryError:
        raise
    except Exception as error:  # damaged archives raise anything; nothing is unpickled
        raise ValueError(f"{path}: expected an .npz of scores ({error})") from error
    if missing:
        raise ValueError(f"{path}: expected an .npz of scores, its {missing[0]} are missing")
    _check(found, path)
    return VideoScores(
        tuple(found["names"].tolist()),
        tuple(found["classes"].tolist()),
        torch.from_numpy(found["labels"].astype(np.int64)),
        torch.from_numpy(found["scores"].astype(np.float32)),
        tuple(found["weights"].tolist()),
    )


def _check(found: dict[str, NDArray[np.generic]], path: Path) -> None:
    names, classes, labels = found["names"], found["classes"], found["labels"]
    shape = (names.size, found["weights"].size, classes.size)
    if found["scores"].shape != shape or labels.shape != names.shape:
        raise ValueError(
            f"{path}: expected scores of {shape[0]} videos, {shape[1]} levels and {shape[2]} "
            f"classes, found {found['scores'].shape}"
        )
    if found["scores"].dtype.kind != "f" or found["weights"].dtype.kind not in "fiu":
        raise ValueError(f"{path}: expected scores and weights that are numbers")
    if names.dtype.kind != "U" or len(set(names.tolist())) != names.size or not names.size:
        raise ValueError(f"{path}: expected the names of videos, each once")
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= classes.size:
        raise ValueError(f"{path}: labels expected 0 .. {classes.size - 1}")
