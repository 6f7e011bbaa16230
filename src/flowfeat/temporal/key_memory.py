"""What streams remember of their key frames, and how training clips and pairs find theirs."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from flowfeat.interfaces import Features, KeyFrameScheduler
from flowfeat.ops.upload import upload


@dataclass(frozen=True)
class KeyFrames:
    """State of B streams: what the next frames get their features (or results) from."""

    frames: Tensor  # (B, 3, H, W), the key frames
    features: Features  # what the network gave on them
    age: Tensor  # (B,) i64 on the CPU, frames since the key frame (or as the schedule began it)
    tick: int  # steps since the state began


def fitting(state: KeyFrames | None, frames: Tensor) -> KeyFrames | None:
    """Return the state, or None for frames of another size: nothing that was remembered fits."""
    return None if state is None or state.frames.shape != frames.shape else state


def ages(state: KeyFrames | None, starts: Tensor) -> Tensor:
    """Return the frames (B,) since each stream's key frame; 0 where a stream starts."""
    if state is None:
        return torch.zeros(len(starts), dtype=torch.int64)
    return torch.where(starts, 0, state.age + 1)


def renew(
    state: KeyFrames | None,
    frames: Tensor,
    is_key: Tensor,
    age: Tensor,
    schedule: KeyFrameScheduler,
    network: Callable[[Tensor], Features],
) -> KeyFrames:
    """Run the network where a key frame falls, and remember it.

    Args:
        state: None only where every stream has a key frame.
        frames: (B, 3, H, W), the current frames.
        is_key: (B,) bool on the CPU.
        age: (B,) i64 on the CPU, as ``ages`` gives it.
        schedule: Says from which age streams count that start here.
        network: Frames (b, 3, H, W) -> features.
    """
    tick = 0 if state is None else state.tick + 1
    first = schedule.first_ages(tick, len(age))
    age = torch.where(age == 0, first, torch.where(is_key, 0, age))
    if state is not None and not is_key.any():
        return KeyFrames(state.frames, state.features, age, tick)
    if state is None or is_key.all():
        return KeyFrames(frames, network(frames), age, tick)
    rows = upload(is_key.nonzero().flatten(), frames.device)
    features = put_rows(state.features, rows, network(frames[rows]))
    return KeyFrames(state.frames.index_copy(0, rows, frames[rows]), features, age, tick)


def put_rows(features: Features, rows: Tensor, new: Features) -> Features:
    """Return features (B, ...) with the rows (b,) replaced by new ones (b, ...)."""
    # Not ``index_copy``, whose result forgets the order of its input in memory.
    return tuple(a.clone().index_copy_(0, rows, b) for a, b in zip(features, new, strict=True))


def latest_keys(is_key: Tensor, targets: Tensor) -> Tensor:
    """Return the latest key step (B, S) at or before each target (B, S); -1 where there is none.

    Args:
        is_key: (B, T) bool.
        targets: (B, S) steps.
    """
    steps = torch.arange(is_key.shape[1]).expand(is_key.shape)
    latest = torch.where(is_key.cpu(), steps, -1).cummax(dim=1).values  # (B, T)
    return latest.gather(1, targets.cpu())


def run_pairs(
    clip: Tensor, keys: Tensor, targets: Tensor, network: Callable[[Tensor], Features]
) -> tuple[Tensor, Tensor, KeyFrames]:
    """Run the network on the key frames of (key, target) pairs, on each picture once.

    Args:
        clip: (B, T, 3, H, W).
        keys: (B, S) steps to propagate from.
        targets: (B, S) steps.
        network: Frames (b, 3, H, W) -> features.

    Returns:
        The current frames (B * S, 3, H, W), whether each is its own key frame (B * S,) on the CPU,
        and the key frames with their features.

    Raises:
        ValueError: A key frame after its target, or none.
    """
    keys, targets = keys.cpu(), targets.cpu()
    if (keys < 0).any() or (keys > targets).any():
        raise ValueError("every target needs a key frame at or before it in its clip")
    first = torch.arange(len(clip))[:, None] * clip.shape[1]
    key_rows, current_rows = (first + keys).flatten(), (first + targets).flatten()
    # A key frame that serves several targets runs through the network once.
    unique, inverse = key_rows.unique(return_inverse=True)
    flat = clip.flatten(0, 1)
    fresh = network(flat[upload(unique, clip.device)])
    here = upload(inverse, clip.device)
    features = tuple(level[here] for level in fresh)
    key = flat[upload(key_rows, clip.device)]
    state = KeyFrames(key, features, torch.zeros_like(key_rows), tick=0)
    return flat[upload(current_rows, clip.device)], key_rows == current_rows, state
