"""Public FlowNet-S state dicts in PyTorch, under the names of our FlowNet.

They name their layers ``conv1.0`` .. ``conv6_1.0``, ``deconv5.0`` .. ``deconv2.0``,
``predict_flow6`` .. ``predict_flow2`` and ``upsampled_flow6_to_5`` .. ``upsampled_flow3_to_2``. The
layers, the order of the two frames, the order of what the decoder concatenates and the unit of 20
pixels are ours. Two habits may differ and are left to fine-tuning, as in the released DFF code
(whose frames are RGB with the mean of its own backbone): files converted from Caffe want BGR, and
the mean that was subtracted is (0.450, 0.432, 0.411) in RGB, ours is ``refinement.MEAN``.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from flowfeat.flow.refinement import FLOW_UNIT

_ENCODER = ("1", "2", "3", "3_1", "4", "4_1", "5", "5_1", "6", "6_1")
_LEVELS = (6, 5, 4, 3)  # from which the decoder grows, coarse to fine

LAYERS = {
    **{f"conv{name}.0": f"convs.{n}.0" for n, name in enumerate(_ENCODER)},
    **{f"predict_flow{level}": f"refinement.predicts.{n}" for n, level in enumerate(_LEVELS)},
    **{
        f"upsampled_flow{level}_to_{level - 1}": f"refinement.enlarges.{n}"
        for n, level in enumerate(_LEVELS)
    },
    **{f"deconv{level - 1}.0": f"refinement.deconvs.{n}" for n, level in enumerate(_LEVELS)},
    "predict_flow2": "predict",
}
"""Layers of the public files -> ours."""


class Mapped(NamedTuple):
    """A public file under our names."""

    weights: dict[str, Tensor]
    zero: list[str]  # our biases that the file lacks; 0 in ``weights``
    missing: list[str]  # our other names that it lacks
    unused: list[str]  # its names that we have no use for


def public_weights(content: object) -> dict[str, Tensor] | None:
    """Return a public FlowNet-S state dict out of a file's content; None for anything else.

    Raises:
        ValueError: One with BatchNorm, or with another unit of flow.
    """
    if not isinstance(content, Mapping):
        return None
    inner = content.get("state_dict", content)
    if not isinstance(inner, Mapping):
        return None
    # Training on several devices puts "module." in front.
    named = {str(n).removeprefix("module."): v for n, v in inner.items() if isinstance(v, Tensor)}
    if "conv1.0.weight" not in named:
        return None
    norms = [name for name in named if name.startswith("conv") and name.split(".")[1] == "1"]
    if norms:
        raise ValueError(f"it has BatchNorm ({norms[0]}), expected FlowNet-S without it")
    unit = content.get("div_flow", FLOW_UNIT)
    if unit != FLOW_UNIT:
        raise ValueError(f"its unit of flow is {unit} pixels, expected {FLOW_UNIT:g}")
    return named


def map_public(public: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> Mapped:
    """Rename public weights for a network whose state dict is ``ours``.

    The public decoders have no biases where ours have some: those are 0.
    """
    renamed: dict[str, Tensor] = {}
    unused = []
    for name, value in public.items():
        layer, _, kind = name.rpartition(".")
        if layer in LAYERS and f"{LAYERS[layer]}.{kind}" in ours:
            renamed[f"{LAYERS[layer]}.{kind}"] = value
        else:
            unused.append(name)
    zero, missing = [], []
    for name, value in ours.items():
        if name in renamed:
            continue
        layer, _, kind = name.rpartition(".")
        if kind == "bias" and f"{layer}.weight" in renamed and not layer.startswith("convs."):
            renamed[name] = torch.zeros_like(value)
            zero.append(name)
        else:
            missing.append(name)
    return Mapped(renamed, zero, missing, unused)
