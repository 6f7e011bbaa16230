"""From a method's output to the results of its frames: the head, and what carries its results."""

from typing import Any

import torch
from torch import Tensor

from flowfeat.interfaces import Detections, Motion, Output, TaskHead
from flowfeat.metering import part
from flowfeat.ops.move import move_boxes, move_labels
from flowfeat.ops.pieces import rows_at_once


def results_of(head: TaskHead, output: Output, sizes: Tensor) -> Any:
    """Return the final results for every row of an output; sizes (B, 2) of its pictures."""
    results: list[Any] = []
    rows = rows_at_once(output.frames)
    for first in range(0, len(output.frames), rows):
        piece = slice(first, first + rows)
        with part("N_task"):
            raw = head(tuple(level[piece] for level in output.features), output.frames[piece])
        with part("post"):
            results += head.postprocess(raw, sizes[piece])
    return carry(results, output, sizes)


def carry(results: Any, output: Output, sizes: Tensor) -> Any:
    """Bring the results of key frames to their current frames: held as they are, or moved.

    Args:
        results: One entry per row, of the key frame that serves the row.
        output: Rows that are key frames keep their results.
        sizes: (B, 2), height and width inside the padding.
    """
    motion = output.moved_by
    if motion is None or output.is_key.all():
        return results
    moved = list(results)
    with part("W"):
        for row in (~output.is_key).nonzero().flatten().tolist():
            own = Motion(motion.displacement[row : row + 1], motion.stride)
            height, width = sizes[row].tolist()
            moved[row] = move(results[row], own, (int(height), int(width)))
    return moved


def move(result: Any, motion: Motion, size: tuple[int, int]) -> Any:
    """Move one picture's result, a label map (H, W) or detections, which end at its border.

    Raises:
        ValueError: A result that has no place in the picture.
    """
    if isinstance(result, Detections):
        height, width = size
        limit = result.boxes.new_tensor([width, height, width, height])
        boxes = torch.minimum(move_boxes(result.boxes, motion).clamp(min=0), limit)
        kept = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        return Detections(boxes[kept], result.scores[kept], result.labels[kept])
    if isinstance(result, Tensor) and result.ndim == 2:
        return move_labels(result, motion)
    raise ValueError(f"method move: cannot move {type(result).__name__}, only boxes and label maps")


class Held:
    """The latest results of B streams, one entry per stream: the memory of a pass over videos."""

    def __init__(self) -> None:
        self._results: list[Any] = []

    def answer(self, head: TaskHead, output: Output, sizes: Tensor) -> Any:
        """Run the head where N_feat ran, and carry the key frames' results to the other streams."""
        rows = output.is_key.nonzero().flatten()
        if len(rows) == len(output.is_key):
            self._results = list(results_of(head, output, sizes))
            return list(self._results)
        if len(rows):
            there = rows.to(output.frames.device)
            some = Output(
                tuple(level[there] for level in output.features),
                output.frames[there],
                output.valid[there],
                output.is_key[rows],
            )
            fresh = results_of(head, some, sizes[rows.to(sizes.device)])
            for row, result in zip(rows.tolist(), fresh, strict=True):
                self._results[row] = result
        return carry(list(self._results), output, sizes)
