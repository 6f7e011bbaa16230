"""Which steps of a training clip show one picture: a clip that ends with its video repeats frames.

A frame is no neighbour of itself, so methods that compare frames ask here for theirs; a clip then
gives what a stream of its different pictures gives.
"""

import torch
from torch import Tensor


def number_pictures(indices: Tensor | None, clip: Tensor) -> Tensor:
    """Number the pictures of each clip from 0 on, (B, T) i64 on the CPU; repetitions share theirs.

    Args:
        indices: (B, T), frame numbers in the video; None: no step repeats the one before it.
        clip: (B, T, 3, H, W).
    """
    if indices is None:
        return torch.arange(clip.shape[1]).expand(clip.shape[:2]).contiguous()
    changed = torch.diff(indices.cpu(), dim=1) != 0
    return torch.cat((torch.zeros(len(clip), 1, dtype=torch.bool), changed), dim=1).cumsum(1)


def neighbours(pictures: Tensor, targets: Tensor, offset: int) -> tuple[Tensor, Tensor]:
    """Return the step of the picture that lies ``offset`` pictures from each target's.

    Args:
        pictures: (B, T), as ``number_pictures`` gives them.
        targets: (B, S) steps, on the CPU.
        offset: Below 0: before the target.

    Returns:
        Steps (B, S), the nearest ones that show it, and whether there is one (B, S); where there
        is none, the target's own.
    """
    wanted = pictures.gather(1, targets) + offset
    there = (wanted >= 0) & (wanted <= pictures[:, -1:])
    earlier = offset < 0  # of its repetitions the last one is nearest
    steps = torch.searchsorted(pictures, wanted, right=earlier) - int(earlier)
    return torch.where(there, steps, targets), there
