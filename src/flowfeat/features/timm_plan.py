"""Find out what a timm backbone yields before it has weights: a dry run on the meta device."""

import difflib
import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import timm
import torch
from timm.layers.format import Format
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

# What timm's architectures raise when an argument or an input size does not suit them.
REFUSALS = (TypeError, AssertionError, NotImplementedError, ValueError, RuntimeError)
# Attention over windows or a grid asks for multiples of so many cells of the coarsest level.
CELLS = (1, 2, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 32)
CUT = 4  # cells that convolutions without padding may take off a level, in all


class NoSuchLevel(ValueError):
    """Levels that the backbone does not have."""


class Plan(NamedTuple):
    """A backbone as it will be built."""

    arguments: dict[str, Any]  # for timm.create_model
    channels: tuple[int, ...]  # per published level
    strides: tuple[int, ...]
    stages: tuple[str, ...]  # module names of all levels at stride 4 or more
    multiple: int  # inputs are padded to multiples of this; 1 for no padding
    macs_per_cell: tuple[float, ...]  # of the whole backbone, over the cells of each level


def plan_backbone(
    model: str, levels: tuple[int, ...], stride: int, arguments: dict[str, Any]
) -> Plan:
    """Choose timm's arguments for the wanted stride, and the levels that have it.

    Later stages are dilated where the architecture can do that; else the levels that are fine
    enough by themselves remain. ``levels`` count among those whose stride is at most ``stride``.

    Raises:
        ValueError: An unknown model; no such level; a backbone bound to one input size.
    """
    if not timm.is_model(model):
        near = difflib.get_close_matches(model, timm.list_models(), n=3) or ["see timm.list_models"]
        raise ValueError(f"features.model={model!r}: timm has no such model ({', '.join(near)})")
    if not levels or stride < 1:
        raise ValueError(f"levels={levels}, stride={stride}: expected levels, and a stride >= 1")
    arguments = _any_size(model) | arguments
    problem = ""
    for dilated in ({"output_stride": stride}, {}):
        try:
            return _dry_run(model, levels, stride, arguments | dilated)
        except NoSuchLevel as error:
            raise ValueError(f"features.model={model!r}: {error}") from error
        except REFUSALS as error:
            problem = str(error)  # that of the undilated run speaks
    raise ValueError(f"features.model={model!r}: {' '.join(problem.split())}")


def run_backbone(
    network: nn.Module, frames: Tensor, strides: tuple[int, ...], multiple: int
) -> list[Tensor]:
    """Run a features_only network on normalised frames (B, 3, H, W), padded right and bottom.

    Returns:
        Levels (B, C, ceil(H / stride), ceil(W / stride)). The few cells that convolutions without
        padding cut off all around (Inception) are filled with their neighbours' values.

    Raises:
        ValueError: The backbone does not yield these sizes for H by W after all.
    """
    padded = pad(frames, multiple)
    size, padded_size = frames.shape[-2:], padded.shape[-2:]
    return fit(channels_first(network, network(padded)), strides, size, padded_size)


def pad(frames: Tensor, multiple: int, mode: str = "constant") -> Tensor:
    """Pad frames or maps (B, C, H, W) right and bottom to multiples."""
    height, width = frames.shape[-2:]
    if height % multiple == width % multiple == 0:
        return frames
    return F.pad(frames, (0, -width % multiple, 0, -height % multiple), mode)


def channels_last(network: nn.Module) -> bool:
    """Say whether a network's maps are (B, h, w, C)."""
    return bool(getattr(network, "output_fmt", Format.NCHW) == Format.NHWC)


def channels_first(network: nn.Module, levels: Sequence[Tensor]) -> list[Tensor]:
    """Return a network's maps as (B, C, h, w)."""
    if channels_last(network):
        return [level.permute(0, 3, 1, 2) for level in levels]
    return list(levels)


def fit(
    raw: Sequence[Tensor], strides: tuple[int, ...], size: Sequence[int], padded: Sequence[int]
) -> list[Tensor]:
    """Crop or fill the levels of padded frames to what frames of ``size`` shall have.

    Raises:
        ValueError: See :func:`run_backbone`.
    """
    height, width = size
    levels = []
    for level, stride in zip(raw, strides, strict=True):
        rows, columns = -(-padded[0] // stride), -(-padded[1] // stride)
        lost = (rows - level.shape[-2], columns - level.shape[-1])
        if not (0 <= lost[0] <= CUT and 0 <= lost[1] <= CUT):
            raise ValueError(
                f"frames of {height}x{width}: the backbone yields {tuple(level.shape[-2:])} cells "
                f"at stride {stride}, expected ({rows}, {columns})"
            )
        if any(lost):
            left, top = lost[1] // 2, lost[0] // 2
            around = (left, lost[1] - left, top, lost[0] - top)
            level = F.pad(level, around, mode="replicate")
        levels.append(level[..., : -(-height // stride), : -(-width // stride)])
    return levels


def _any_size(model: str) -> dict[str, Any]:
    """Return the arguments with which a transformer accepts any input size."""
    with torch.device("meta"):
        network = timm.create_model(model)
    accepted = inspect.signature(type(network).__init__).parameters
    if "dynamic_img_size" in accepted:
        pad = {"dynamic_img_pad": True} if "dynamic_img_pad" in accepted else {}
        return {"dynamic_img_size": True} | pad
    return {"strict_img_size": False} if "strict_img_size" in accepted else {}


def _dry_run(model: str, levels: tuple[int, ...], stride: int, arguments: dict[str, Any]) -> Plan:
    with torch.device("meta"):
        every: Any = timm.create_model(model, features_only=True, **arguments)
    info: list[dict[str, Any]] = every.feature_info.info
    reductions = [int(level["reduction"]) for level in info]
    fine = [index for index, reduction in enumerate(reductions) if reduction <= stride]
    if any(not -len(fine) <= level < len(fine) for level in levels):
        raise NoSuchLevel(
            f"levels={levels}: there are {len(fine)} levels at stride {stride} or finer "
            f"(the backbone has strides {sorted(set(reductions))})"
        )
    chosen = tuple(fine[level] for level in levels)
    order = tuple(sorted(set(chosen)))
    if chosen != order:
        raise NoSuchLevel(f"levels={levels}: expected different levels, fine ones first")
    arguments = arguments | {"features_only": True, "out_indices": chosen}
    with torch.device("meta"):
        network = timm.create_model(model, **arguments).eval()
    strides = tuple(reductions[index] for index in chosen)
    multiple = _find_multiple(network, strides, max(reductions))
    return Plan(
        arguments=arguments,
        channels=tuple(int(info[index]["num_chs"]) for index in chosen),
        strides=strides,
        stages=tuple(str(level["module"]) for level in info if level["reduction"] >= 4),
        multiple=multiple,
        macs_per_cell=_macs_per_cell(network, strides, multiple),
    )


def _find_multiple(network: nn.Module, strides: tuple[int, ...], coarsest: int) -> int:
    """Find the least padding with which every level measures ceil(size / stride)."""
    # 2 by 11 cells of the coarsest level: no window of two cells or more divides both.
    height, least = coarsest + 1, 10 * coarsest + 1
    multiples = (1, *(cells * coarsest for cells in CELLS))
    problem = ""
    for allowed in (0, CUT):
        for multiple in multiples:
            width = max(least, multiple + 1)  # not square: one fixed size is not enough
            padded = (-(-height // multiple) * multiple, -(-width // multiple) * multiple)
            frames = torch.empty(1, 3, *padded, device="meta")
            try:
                levels = channels_first(network, network(frames))
            except REFUSALS as error:
                problem = str(error)
                continue
            wanted = [(-(-padded[0] // stride), -(-padded[1] // stride)) for stride in strides]
            sizes = [(level.shape[-2], level.shape[-1]) for level in levels]
            pairs = zip(wanted, sizes, strict=True)
            if all(0 <= w - s <= allowed for pair in pairs for w, s in zip(*pair, strict=True)):
                return multiple
            problem = f"maps of {sizes}, expected {wanted}"
    raise ValueError(f"it does not take any input size, padded or not ({problem})")


def _macs_per_cell(
    network: nn.Module, strides: tuple[int, ...], multiple: int
) -> tuple[float, ...]:
    size = -(-256 // multiple) * multiple
    frames = torch.empty(1, 3, size, size, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(frames)
    macs = counter.get_total_flops() / 2
    return tuple(macs / (size / stride) ** 2 for stride in strides)
