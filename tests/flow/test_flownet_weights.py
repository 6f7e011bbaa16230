"""Public FlowNet-S files: our FlowNet with their weights is an independent FlowNet-S."""

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from flowfeat import cli
from flowfeat.build import build_task
from flowfeat.flow.flownet import FlowNet
from flowfeat.flow.flownet_weights import map_public
from flowfeat.flow.refinement import MEAN
from flowfeat.start_from import start_parts

WIDTHS = {"1": 64, "2": 128, "3": 256, "3_1": 256, "4": 512, "4_1": 512}
WIDTHS |= {"5": 512, "5_1": 512, "6": 1024, "6_1": 1024}
KERNELS = {"1": 7, "2": 5, "3": 5}
ALLOWANCE = 1e-4


class PublicFlowNetS(nn.Module):
    """FlowNet-S as the public PyTorch ports name and build it, with a factor on its widths."""

    def __init__(self, width: float, bias: bool = False) -> None:
        super().__init__()
        inputs = 6
        for name, full in WIDTHS.items():
            kernel, stride = KERNELS.get(name, 3), 1 if "_" in name else 2
            conv = nn.Conv2d(inputs, int(full * width), kernel, stride, (kernel - 1) // 2)
            setattr(self, f"conv{name}", nn.Sequential(conv, nn.LeakyReLU(0.1)))
            inputs = int(full * width)
        for level, full, skip in ((5, 512, 512), (4, 256, 512), (3, 128, 256), (2, 64, 128)):
            out = int(full * width)
            grown = nn.ConvTranspose2d(inputs, out, 4, 2, 1, bias=bias)
            setattr(self, f"deconv{level}", nn.Sequential(grown, nn.LeakyReLU(0.1)))
            predict = nn.Conv2d(inputs, 2, 3, 1, 1, bias=bias)
            setattr(self, f"predict_flow{level + 1}", predict)
            enlarge = nn.ConvTranspose2d(2, 2, 4, 2, 1, bias=False)
            setattr(self, f"upsampled_flow{level + 1}_to_{level}", enlarge)
            inputs = int(skip * width) + out + 2
        self.predict_flow2 = nn.Conv2d(inputs, 2, 3, 1, 1, bias=bias)

    def forward(self, pair: Tensor) -> list[Tensor]:
        skips: dict[int, Tensor] = {}
        for name in WIDTHS:
            pair = getattr(self, f"conv{name}")(pair)
            skips[int(name[0])] = pair
        flows, maps = [], skips[6]
        for level in (5, 4, 3, 2):
            flow = getattr(self, f"predict_flow{level + 1}")(maps)
            flows.append(flow)
            height, width = skips[level].shape[-2:]
            up = getattr(self, f"upsampled_flow{level + 1}_to_{level}")(flow)[..., :height, :width]
            grown = getattr(self, f"deconv{level}")(maps)[..., :height, :width]
            maps = torch.cat((skips[level], grown, up), 1)
        return [*flows, self.predict_flow2(maps)]


def public(width: float = 1 / 16, bias: bool = False) -> PublicFlowNetS:
    torch.manual_seed(0)
    network = PublicFlowNetS(width, bias)
    for parameter in network.parameters():
        if parameter.ndim == 4:
            nn.init.kaiming_normal_(parameter, a=0.1)
    return network


def dff(*words: str):
    return cli.compose_config(
        [
            "features.model=test_resnet",
            "method=dff",
            "flow=flownet_half",
            "flow.width=0.0625",
            *words,
        ]
    )


def started(path: Path, *words: str):
    config = dff(f"flow.weights={path}", *words)
    task = build_task(config, ("a", "b"))
    start_parts(task, config)
    return task.eval()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
def test_any_dff_run_starts_from_a_public_file(bias, wrapped, tmp_path, caplog):
    theirs = public(bias=bias).eval()
    weights = theirs.state_dict()
    if wrapped:  # as training scripts save it
        weights = {f"module.{name}": value for name, value in weights.items()}
        weights = {"state_dict": weights, "div_flow": 20, "arch": "flownets", "epoch": 3}
    torch.save(weights, tmp_path / "public.pth")
    with caplog.at_level(logging.INFO):
        flow = started(tmp_path / "public.pth").temporal.flow
    current, key = torch.rand(2, 1, 3, 72, 104)
    ours = flow.pyramid(current, key)
    mean = torch.tensor(MEAN).view(3, 1, 1)
    expected = theirs(torch.cat((current - mean, key - mean), 1))
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other * 20, rtol=ALLOWANCE, atol=ALLOWANCE)
    scale = flow(current, key).scale
    assert torch.equal(scale, torch.ones_like(scale))
    lines = [record.message for record in caplog.records if "public FlowNet-S" in record.message]
    assert len(lines) == 1
    assert "missing and fresh: scale.weight, scale.bias; unused: none" in lines[0]
    assert ("refinement.deconvs.0.bias" in lines[0]) == (not bias)
    assert ("predict.bias" in lines[0]) == (not bias)


def test_full_widths_fit_layer_by_layer():
    with torch.device("meta"):
        theirs = PublicFlowNetS(1.0).state_dict()
        ours = FlowNet((1024,), (16,)).state_dict()
    assert theirs["predict_flow2.weight"].shape == (2, 194, 3, 3)
    mapped = map_public(theirs, ours)
    assert mapped.unused == []
    assert mapped.missing == ["scale.weight", "scale.bias"]
    assert all(name.endswith(".bias") for name in mapped.zero)
    assert {n: v.shape for n, v in mapped.weights.items()} == {
        n: v.shape for n, v in ours.items() if not n.startswith("scale.")
    }


def test_unused_names_are_listed(tmp_path, caplog):
    weights = public().state_dict() | {"conv7.0.weight": torch.zeros(1)}
    torch.save(weights, tmp_path / "public.pth")
    with caplog.at_level(logging.INFO):
        started(tmp_path / "public.pth")
    assert "unused: conv7.0.weight" in caplog.text


def batch_norm() -> dict[str, Tensor]:
    return public().state_dict() | {"conv1.1.weight": torch.ones(4)}


def without(name: str) -> dict[str, Tensor]:
    return {n: v for n, v in public().state_dict().items() if n != name}


@pytest.mark.parametrize(
    ("content", "words", "said"),
    [
        (batch_norm, (), r"it has BatchNorm \(conv1.1.weight\), expected FlowNet-S without it"),
        (
            lambda: {"state_dict": public().state_dict(), "div_flow": 1},
            (),
            "its unit of flow is 1 pixels, expected 20",
        ),
        (
            lambda: public().state_dict(),
            ("flow.width=0.125",),
            r"does not fit, .* first convs.0.0.bias: expected \(8,\), found \(4,\); convs.0.0.wei",
        ),
        (
            lambda: public().state_dict(),
            ("+flow.groups=2",),
            r"does not fit, .* first convs.0.1.bias: expected \(4,\), found none; convs.0.1.weight",
        ),
        (
            lambda: without("conv3_1.0.weight"),
            (),
            r"1 parameters differ, first convs.3.0.weight: expected .*, found none",
        ),
        (
            lambda: nn.Conv2d(3, 4, 3).state_dict(),
            (),
            r"flow.weights: .*: expected a checkpoint of flowfeat, a public FlowNet-S "
            r"\(conv1.0.weight, ...\) or torchvision's RAFT, found weight, bias$",
        ),
        (
            lambda: {"state_dict": nn.LSTM(2, 2, bidirectional=True).state_dict(), "epoch": 1},
            (),
            r"found weight_ih_l0, weight_hh_l0, bias_ih_l0, ... \(8 names\)$",
        ),
        (
            lambda: public().state_dict() | {"conv2.0.bias": torch.tensor([1.0, float("nan")])},
            (),
            r"x\.pth: conv2\.0\.bias is not finite",
        ),
        (
            lambda: torch.zeros(1),
            (),
            r"torchvision's RAFT, found Tensor$",
        ),
    ],
)
def test_other_weights_are_refused_in_one_line(content, words, said, tmp_path):
    torch.save(content(), tmp_path / "x.pth")
    with pytest.raises(ValueError, match=said) as refusal:
        started(tmp_path / "x.pth", *words)
    assert "\n" not in str(refusal.value)
    assert str(tmp_path / "x.pth") in str(refusal.value)


def test_a_public_file_does_not_fit_another_network(tmp_path):
    torch.save(public().state_dict(), tmp_path / "x.pth")
    config = cli.compose_config(
        [
            "features.model=test_resnet",
            "method=dff",
            "flow=correlation",
            f"flow.weights={tmp_path / 'x.pth'}",
        ]
    )
    with pytest.raises(ValueError, match=r"does not fit, .* first correct.bias: .* found none"):
        start_parts(build_task(config, ("a",)), config)
