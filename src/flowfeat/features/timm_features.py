"""N_feat from any timm backbone: chosen levels at a chosen stride, then the 3x3 reduction."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self

import timm
from torch import Tensor, nn

from flowfeat.features.batch_norm import Norm, batch_norms, convert_norm
from flowfeat.features.first_layer import RGB, input_statistics
from flowfeat.features.reduction import Reduction, automatic_width
from flowfeat.features.split import find_split, measure_trunk
from flowfeat.features.timm_hub import look_up, reaches_out
from flowfeat.features.timm_plan import (
    Plan,
    fit,
    pad,
    plan_backbone,
    run_backbone,
)
from flowfeat.features.timm_weights import build_backbone
from flowfeat.features.units import end_of_stage, run_units
from flowfeat.interfaces import FeatureNetwork, Features


class TimmFeatures(FeatureNetwork):
    """N_feat of section 4: a timm backbone, its stride lowered by dilation, and the reduction.

    The defaults are the paper's (ResNet-50, stride 16, 1024 channels, dilation 6). ``levels`` count
    among the backbone's levels whose stride is at most ``stride``. Where the architecture can,
    later stages are dilated, so that -1 is its last stage; where it cannot (Swin, MaxViT,
    DenseNet, ...), -1 is the last level that has this stride by itself. ``strides`` says what came
    out: a ViT with patches of 14 pixels has 14.

    Any H and W work. Backbones whose maps are not ceil(H / stride) by themselves, or that ask for
    whole windows, see the frame padded right and bottom (with the mean colour), and the maps are
    cropped.

    Args:
        model: Name of a timm model, or of one that a hub or a folder describes (`hf-hub:...`,
            `local-dir:...`); ``architecture`` then says which one that is.
        levels: Levels to publish, in this order; negative ones count from the coarsest.
        stride: The coarsest stride allowed.
        reduce_to: Channels after the 3x3 reduction of every level, ``auto`` for
            :func:`automatic_width`, None for the raw levels.
        dilation: Dilation of the reduction.
        pretrained: Fetch timm's weights.
        checkpoint_path: Read the backbone's weights from this file instead (timm's key names).
        norm: What becomes of BatchNorm; see :func:`convert_norm`. The paper's ``frozen`` wants
            pretrained weights; ``group`` is the choice for training from scratch on small batches.
        frozen_affine: Freeze scale and shift of frozen BatchNorm too.
        frozen_stages: The stem and this many stages (levels at stride 4 or more) get no gradient
            and stay in eval mode; 1 is what the released code freezes of a ResNet.
        dilate_first_block: Also dilate the first block of a dilated stage (ResNets only).
        split: Layers of N_task, or the block that it begins with; see :func:`find_split`. Where
            the backbone asks for padded frames, a tail repeats the border of what it is given.
        pretrained_cfg: What timm would know of the model by its name (its input, and where weights
            are), for one that it does not know.
        in_channels: Channels of the input: 3 for RGB; others start from the RGB weights as
            :func:`widen_first_layer` says.
        mean: What is taken from the input, one number or one per channel; null for the backbone's
            own. Differences of frames want 0, flow in 0..1 wants 0.5 (rest).
        std: By what the rest is divided; null for the backbone's own, for other channels than RGB
            the mean of its three (0.226 for ImageNet's).
        **arguments: Passed to ``timm.create_model``.

    Raises:
        ValueError: No such model, level, norm or stage; a stride finer than the backbone's first;
            channels that are not RGB without a mean.
        FileNotFoundError: Weights that cannot be had.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: str = "resnet50",
        levels: Sequence[int] = (-1,),
        stride: int = 16,
        reduce_to: int | Literal["auto"] | None = "auto",
        dilation: int = 6,
        pretrained: bool = False,
        checkpoint_path: str | None = None,
        norm: Norm = "frozen",
        frozen_affine: bool = False,
        frozen_stages: int = 0,
        dilate_first_block: bool = False,
        split: int | str = 1,
        pretrained_cfg: Mapping[str, Any] | None = None,
        in_channels: int = RGB,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__()
        if in_channels < 1 or "in_chans" in arguments:
            raise ValueError(
                f"features.in_channels={arguments.get('in_chans', in_channels)}: expected 1 or "
                "more, by this name"
            )
        if pretrained_cfg is not None:
            arguments["pretrained_cfg"] = dict(pretrained_cfg)  # timm knows no other mapping
        self.architecture = look_up(model) if reaches_out(model) else None
        if self.architecture is not None:
            model, found, cfg = self.architecture
            arguments = {**found, "pretrained_cfg": cfg, **arguments}
        plan = plan_backbone(model, tuple(int(level) for level in levels), int(stride), arguments)
        weights = (pretrained, checkpoint_path)
        backbone = build_backbone(model, plan.arguments, *weights, in_channels=in_channels)
        if dilate_first_block:
            _dilate_first_blocks(backbone)
        usual = _usual_input(model, arguments.get("pretrained_cfg"))
        centre, deviation = input_statistics(in_channels, (mean, std), usual)
        self.register_buffer("mean", centre, persistent=False)
        self.register_buffer("std", deviation, persistent=False)
        self.norm = norm
        self.backbone = convert_norm(backbone, norm, frozen_affine)
        self.multiple = plan.multiple
        self.stages = plan.stages
        self.strides = self._plan_strides = plan.strides
        self.channels = plan.channels
        self.reductions = nn.ModuleList()
        if reduce_to is not None:
            self.channels = _widths(plan, reduce_to)
            pairs = zip(plan.channels, self.channels, strict=True)
            self.reductions.extend(Reduction(inner, outer, dilation) for inner, outer in pairs)
        self.split = split
        self._first, self._late = find_split(backbone, split, min(1, len(self.reductions)))
        self._cut: tuple[tuple[int, ...], tuple[int, ...]] | None = None
        if self._first is not None:
            cut = measure_trunk(model, plan.arguments, self._first, plan.multiple)
            self._cut = (cut[:1], cut[1:])
        elif self._late:
            self._cut = (plan.channels, plan.strides)
        self._appended: tuple[Callable[[Features], Features], ...] = ()
        self._still = _freeze(self.backbone, plan.stages, frozen_stages)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; frozen stages and frozen statistics stay in eval mode."""
        super().train(mode)
        frozen = batch_norms(self.backbone) if self.norm == "frozen" else []
        for module in (*self._still, *frozen):
            module.eval()
        return self

    @property
    def trunk_channels(self) -> tuple[int, ...]:
        return self.channels if self._cut is None else self._cut[0]

    @property
    def trunk_strides(self) -> tuple[int, ...]:
        return self.strides if self._cut is None else self._cut[1]

    def append(self, maps: Callable[[Features], Features], channels: tuple[int, ...]) -> None:
        self._appended = (maps,)  # in a tuple, or its weights would become ours too
        self.channels, self.strides = channels, (self.strides[-1],) * len(channels)

    def trunk(self, frames: Tensor) -> Features:
        """Compute the reduced levels of frames (B, C, H, W), or what comes before a split."""
        normal = self._normal(frames)
        if self._first is None:
            levels = run_backbone(self.backbone, normal, self._plan_strides, self.multiple)
            return self._end(levels)
        return self._run(pad(normal, self.multiple), frames, 0)

    def shallow(self, frames: Tensor, stages: int) -> Tensor:
        """Run the stem and the first stages (levels at stride 4 or more)."""
        padded = pad(self._normal(frames), self.multiple)
        return run_units(self.backbone, padded, 0, self._end_of(stages))[0]

    def deepen(self, maps: Tensor, frames: Tensor, stages: int) -> Features:
        return self._run(maps, frames, self._end_of(stages))

    def tail(self, features: Features) -> Features:
        if not self._late:
            return features
        levels = list(features)
        if self._first is not None:
            [maps], [stride] = features, self.trunk_strides
            cells = max(1, self.multiple // stride)
            size = maps.shape[-2:]
            padded = pad(maps, cells, "replicate")
            _, raw = run_units(self.backbone, padded, self._first)
            ratios = tuple(s // stride for s in self.strides)
            levels = fit(raw, ratios, size, padded.shape[-2:])
        return self._reduce(levels)

    def _run(self, maps: Tensor, frames: Tensor, first: int) -> Features:
        """Run the trunk's units from ``first`` on, given the maps of padded frames before it."""
        last, levels = run_units(self.backbone, maps, first, self._first)
        raw, strides = levels, self._plan_strides
        if self._first is not None:
            raw, strides = [last], self.trunk_strides
        padded = pad(frames, self.multiple).shape[-2:]
        return self._end(fit(raw, strides, frames.shape[-2:], padded))

    def _end(self, levels: list[Tensor]) -> Features:
        """Finish the trunk."""
        features = tuple(levels) if self._late else self._reduce(levels)
        for maps in self._appended:
            features = maps(features)
        return features

    def _end_of(self, stages: int) -> int:
        end = end_of_stage(self.backbone, self._stage(stages))
        if self._first is not None and end > self._first:
            raise ValueError(
                f"features.split={self.split}: expected a block behind {self._stage(stages)} "
                f"(temporal.stages={stages})"
            )
        return end

    def _stage(self, stages: int) -> str:
        if not 1 <= stages < len(self.stages):
            raise ValueError(f"temporal.stages={stages}: expected 1 .. {len(self.stages) - 1}")
        return self.stages[stages - 1]

    def _normal(self, frames: Tensor) -> Tensor:
        return (frames - self.mean) / self.std

    def _reduce(self, levels: list[Tensor]) -> Features:
        if not self.reductions:
            return tuple(levels)
        pairs = zip(self.reductions, levels, strict=True)
        return tuple(reduction(level) for reduction, level in pairs)


def _usual_input(
    model: str, given: Mapping[str, Any] | None
) -> tuple[Sequence[float], Sequence[float]]:
    """Return the mean and the deviation that a model's weights want."""
    known = timm.get_pretrained_cfg(model)
    mean, std = (known.mean, known.std) if known else ((0.5,) * 3, (0.5,) * 3)
    given = given or {}
    return given.get("mean", mean), given.get("std", std)


def _widths(plan: Plan, reduce_to: int | str) -> tuple[int, ...]:
    if reduce_to == "auto":
        pairs = zip(plan.channels, plan.macs_per_cell, strict=True)
        return tuple(automatic_width(channels, macs) for channels, macs in pairs)
    if not isinstance(reduce_to, int) or reduce_to < 1:
        raise ValueError(f"features.reduce_to={reduce_to!r}: expected 'auto', null or a width >= 1")
    return (reduce_to,) * len(plan.channels)


def _dilate_first_blocks(backbone: nn.Module) -> None:
    """Give the 3x3 convolutions of each stage's first block the dilation of the later ones."""
    # The paper dilates all 3x3 convolutions of conv5; by default timm leaves out the first, because
    # its ResNets stride there, and not in the 1x1 before it: what follows the removed stride is
    # dilated in both, and timm's way keeps the values that the weights were trained for.
    changed = False
    for stage in backbone.children():
        if not isinstance(stage, nn.Sequential) or len(stage) < 2:
            continue
        first, last = (
            [m for m in block.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
            for block in (stage[0], stage[-1])
        )
        wanted = max((conv.dilation for conv in last), default=(1, 1))
        for conv in first:
            if conv.stride == (1, 1) and conv.dilation < wanted:
                conv.dilation = conv.padding = wanted
                changed = True
    if not changed:
        raise ValueError("dilate_first_block=true: expected a ResNet with a dilated stage")


def _freeze(backbone: nn.Module, stages: tuple[str, ...], count: int) -> list[nn.Module]:
    """Take the gradient from everything up to stage ``count``; return what stays in eval mode.

    timm's networks register their modules in the order in which they run.
    """
    if not 0 <= count <= len(stages):
        raise ValueError(f"features.frozen_stages={count}: expected 0 .. {len(stages)}")
    if count == 0:
        return []
    wanted = stages[count - 1].replace(".", "_")
    named = list(backbone.named_modules())
    flat = [name.removeprefix("model.").replace(".", "_") for name, _ in named]
    inside = [i for i, n in enumerate(flat) if n == wanted or n.startswith(f"{wanted}_")]
    if not inside:
        raise ValueError(
            f"features.frozen_stages={count}: found no module {stages[count - 1]} in the backbone"
        )
    before = [module for _, module in named[: inside[-1] + 1]]
    for module in before:
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)
    return [m for m in before if not any(p.requires_grad for p in m.parameters())]
