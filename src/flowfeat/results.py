"""From a method's output to the results of its frames: the head, and what carries its results."""

from typing import Any

import torch
from torch import Tensor

from flowfeat.interfaces import Detections, Motion, Output, TaskHead
from flowfeat.metering import part
from flowfeat.ops.move import move_boxes, move_labels
from flowfeat.ops.pieces import rows_at_once
from flowfeat.ops.upload import upload


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
        return _inside(moved)


def move(result: Any, motion: Motion, size: tuple[int, int]) -> Any:
    """Move one picture's result, a label map (H, W) or detections, which end at its border.

    Detections that have left the picture have no area any more.

    Raises:
        ValueError: A result that has no place in the picture.
    """
    if isinstance(result, Detections):
        height, width = size
        limit = upload(
            torch.tensor([width, height, width, height], dtype=result.boxes.dtype),
            result.boxes.device,
        )
        boxes = torch.minimum(move_boxes(result.boxes, motion).clamp(min=0), limit)
        return Detections(boxes, result.scores, result.labels)
    if isinstance(result, Tensor) and result.ndim == 2:
        return move_labels(result, motion)
    raise ValueError(f"method move: cannot move {type(result).__name__}, only boxes and label maps")


def _inside(results: list[Any]) -> list[Any]:
    """Drop detections without an area; the host waits for a device once, whatever their number."""
    if not all(isinstance(result, Detections) for result in results):
        return results
    there = [(each.boxes[:, 2:] > each.boxes[:, :2]).all(dim=1) for each in results]
    counts = torch.stack([each.sum() for each in there]).tolist()
    inside = []
    for each, kept, count in zip(results, there, counts, strict=True):
        first = kept.byte().argsort(descending=True, stable=True)[:count]
        inside.append(Detections(*(column[first] for column in each)))
    return inside


def on_host(result: Any) -> Any:
    """Bring one picture's result to the CPU, in one copy: the host waits once."""
    if isinstance(result, Detections) and result.boxes.device.type != "cpu":
        columns = (result.boxes, result.scores[:, None], result.labels[:, None])
        rows = torch.cat([column.float() for column in columns], dim=1).cpu()  # (N, 6)
        return Detections(rows[:, :4], rows[:, 4], rows[:, 5].long())
    return result.cpu() if isinstance(result, Tensor) else result


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
            there = upload(rows, output.frames.device)
            some = Output(
                tuple(level[there] for level in output.features),
                output.frames[there],
                output.valid[there],
                output.is_key[rows],
            )
            fresh = results_of(head, some, sizes[rows])
            for row, result in zip(rows.tolist(), fresh, strict=True):
                self._results[row] = result
        return carry(list(self._results), output, sizes)
