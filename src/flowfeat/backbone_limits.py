"""`flowfeat-backbones`: where propagation pays most, s of Eq. 7 by FLOPs over backbones."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from omegaconf import DictConfig
from rich.table import Table

from flowfeat import cli
from flowfeat.commands import chosen_backbones
from flowfeat.drawing.charts import save_chart
from flowfeat.interfaces import FeatureNetwork, TaskHead
from flowfeat.metering import count_flops
from flowfeat.profile_tables import print_table
from flowfeat.ratios import features_flops, flow_flops, leaves, meta_features
from flowfeat.reproduction.machine import versions
from flowfeat.speed import PartCosts
from flowfeat.trust import build

MODELS = (
    "mobilenetv3_small_100",
    "mobilenetv3_large_100",
    "mobilenetv4_conv_small",
    "efficientnet_b0",
    "resnet18",
    "resnet50",
    "resnet101",
    "convnext_tiny",
    "convnext_base",
    "convnext_large",
    "vit_base_patch16_224",
    "vit_large_patch16_224",
)
FLOWS = {
    "flownet": "FlowNet",
    "flownet_half": "FlowNet Half",
    "flownet_inception": "FlowNet Inception",
}
CLASSES = 30  # of ImageNet VID; N_task is R-FCN
SAMPLING = 8  # operations per value of W: four bilinear taps, a multiply and an add each


class Limit(NamedTuple):
    """What propagation gives over one backbone."""

    model: str
    gflops: float  # of N_feat on one frame
    ratios: Mapping[str, float]  # flow network -> r of Eq. 5
    speedups: Mapping[str, float]  # flow network -> s of Eq. 7


def features_node(model: str) -> DictConfig:
    """Return the config of N_feat at stride 16 over a timm model: its own leaf, or one like it."""
    known = leaves("features")
    for leaf in known.values():
        if leaf.get("model") == model and leaf.get("stride") == 16 and leaf.get("levels") == [-1]:
            return leaf
    node = known["convnext_tiny"].copy()
    node.model = model
    return node


def limit(model: str, size: tuple[int, int], interval: int) -> Limit:
    """Count the parts of DFF over one backbone, all on the meta device, without weights.

    N_feat is all that a key frame runs before N_task: the backbone up to its last stage at stride
    16 (a ViT: patches, all blocks, attention included) and the 3x3 reduction. W is bilinear
    sampling of its maps, N_task the convolutions of R-FCN; post-processing has no countable part.

    Args:
        model: Name of a timm model.
        size: Height, width of the frames.
        interval: l.

    Raises:
        ValueError: See ``TimmFeatures``.
    """
    network = meta_features(features_node(model))
    feat = features_flops(network, size)
    height, width = (-(-side // network.trunk_strides[0]) for side in size)
    shared = {
        "N_feat": feat,
        "W": float(SAMPLING * sum(network.trunk_channels) * height * width),
        "N_task": head_flops(network, size),
    }
    costs = {}
    for flow in FLOWS:
        flops = flow_flops(leaves("flow")[flow], network, size)
        costs[flow] = PartCosts({**shared, "F": flops or 0.0})
    return Limit(
        model,
        feat / 1e9,
        {flow: cost.ratio for flow, cost in costs.items()},
        {flow: cost.speedup(interval) for flow, cost in costs.items()},
    )


def head_flops(network: FeatureNetwork, size: tuple[int, int]) -> float:
    """Count R-FCN's convolutions over the features of frames of H by W."""
    with torch.device("meta"):
        head: TaskHead = build(leaves("head")["rfcn"])(
            channels=network.channels, strides=network.strides, num_classes=CLASSES
        )
        frames = torch.empty(1, 3, *size)
        features = tuple(
            torch.empty(1, channels, *(-(-side // stride) for side in size))
            for channels, stride in zip(network.channels, network.strides, strict=True)
        )
    return count_flops(lambda: head.eval()(features, frames))


def sentence(limits: Sequence[Limit], interval: int) -> str:
    """Say where propagation pays most and least, and from where on it gains nothing."""
    best = {one.model: max(one.speedups.values()) for one in limits}
    most, least = max(best, key=lambda m: best[m]), min(best, key=lambda m: best[m])
    lost = [one.model for one in limits if min(one.speedups.values()) < 1]
    text = (
        f"At l = {interval} propagation pays most over {most} (s = {best[most]:.2f} with the "
        f"cheapest flow network) and least over {least} (s = {best[least]:.2f})"
    )
    return text + (f"; with FlowNet it is a loss over {', '.join(lost)}." if lost else ".")


def rows(limits: Sequence[Limit]) -> list[tuple[str, ...]]:
    """Return the cells of the table, by rising cost of N_feat."""
    return [
        (
            one.model,
            f"{one.gflops:.1f}",
            *(f"{one.speedups[flow]:.2f}" for flow in FLOWS),
            *(f"{1 / one.ratios[flow]:.1f}" for flow in FLOWS),
        )
        for one in sorted(limits, key=lambda one: one.gflops)
    ]


def headings(interval: int) -> tuple[str, ...]:
    """Return the headings of the table; 1/r is the limit of s for long intervals."""
    return (
        "N_feat",
        "GFLOPs",
        *(f"s at l = {interval}, {name}" for name in FLOWS.values()),
        *(f"1/r, {name}" for name in FLOWS.values()),
    )


def page(limits: Sequence[Limit], size: tuple[int, int], interval: int, picture: str) -> str:
    """Write the page."""
    names = headings(interval)
    lines = [
        "# Where propagation pays most",
        "",
        f"**{sentence(limits, interval)}**",
        "",
        f"s of Eq. 7 with r of Eq. 5, by FLOPs (2 per multiply-add) on {size[0]} x {size[1]} "
        "frames: an upper bound, not a measured speed. N_feat is the timm backbone at stride 16 "
        "(later stages dilated where the architecture can; a ViT: patches and all blocks, with "
        "attention) and the 3x3 reduction; F has its scale output; W is bilinear sampling; N_task "
        "is R-FCN's convolutions. Networks lie on the meta device, without weights.",
        "",
        f"![s over the cost of N_feat]({picture})",
        "",
        "| " + " | ".join(names) + " |",
        "|" + "|".join(["---", *["---:"] * (len(names) - 1)]) + "|",
        *("| " + " | ".join(cells) + " |" for cells in rows(limits)),
        "",
        f"1/r is the limit of s for ever longer intervals. {versions()}.",
    ]
    return "\n".join(lines) + "\n"


def draw(limits: Sequence[Limit], interval: int, path: Path) -> None:
    """Draw s over the cost of N_feat, a line per flow network; PNG under 100 kB."""
    ordered = sorted(limits, key=lambda one: one.gflops)
    figure = Figure(figsize=(8, 5), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    x = [one.gflops for one in ordered]
    for flow, name in FLOWS.items():
        axes.plot(x, [one.speedups[flow] for one in ordered], marker="o", markersize=4, label=name)
    for one in ordered:
        top = max(one.speedups.values())
        axes.annotate(
            one.model,
            (one.gflops, top),
            (-2, 5),
            textcoords="offset points",
            fontsize=6,
            rotation=60,
        )
    axes.axhline(interval, color="gray", linestyle=":", linewidth=1)
    axes.axhline(1, color="gray", linestyle="--", linewidth=1)
    axes.set(
        xscale="log",
        ylim=(0, interval * 1.4),
        xlabel="GFLOPs of N_feat on one frame",
        ylabel=f"s at l = {interval} by FLOPs",
        title="Where propagation pays most",
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    save_chart(figure, path)


def backbones(models: Sequence[str], size: tuple[int, int], interval: int, out: Path) -> Path:
    """Count, print and write `backbones.md` and `backbones.png` into a folder."""
    limits = [limit(model, size, interval) for model in models]
    table = Table(*headings(interval), title=f"s by FLOPs, {size[0]} x {size[1]}")
    for cells in rows(limits):
        table.add_row(*cells)
    print_table(table)
    draw(limits, interval, out / "backbones.png")
    path = out / "backbones.md"
    path.write_text(page(limits, size, interval, "backbones.svg"))
    return path


def main() -> None:
    """Entry point of `flowfeat-backbones`."""
    try:
        size, interval, models, out = chosen_backbones()
        path = backbones(models or MODELS, size, interval, out)
        sys.stdout.write(f"table: {path}\n")
    except cli.user_errors() as error:
        cli.fail(error)
