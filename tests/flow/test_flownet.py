"""FlowNet against Table 6, Table 7 and FlowNet-S's published size; and it learns known motion."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowfeat.flow.flownet import FlowNet


def layers(network: nn.Module) -> list[tuple[int, int, int]]:
    convs = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    return [(c.kernel_size[0], c.stride[0], c.out_channels) for c in convs]


@pytest.mark.parametrize("width", [1.0, 0.5])
def test_encoder_of_tables_6_and_7(width: float) -> None:
    with torch.device("meta"):
        network = FlowNet([1024], [16], width)
    outputs = [64, 128, 256, 256, 512, 512, 512, 512, 1024, 1024]
    kernels, strides = [7, 5, 5, 3, 3, 3, 3, 3, 3, 3], [2, 2, 2, 1, 2, 1, 2, 1, 2, 1]
    expected = list(zip(kernels, strides, [int(o * width) for o in outputs], strict=True))
    assert layers(network.convs) == expected


def test_size_of_flownet_s() -> None:
    """FlowNet-S has 38.68 M parameters as published; biases of the decoder add a few thousand."""
    with torch.device("meta"):
        network = FlowNet([1024], [16], with_scale=False)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(38.68e6, rel=1e-3)


def test_learns_known_motion() -> None:
    """Trained at stride 4 on shifted textures, it predicts others, on the feature grid too."""
    torch.manual_seed(0)
    network = FlowNet([4], [8], 1 / 16, with_scale=False)
    optimiser = torch.optim.Adam(network.parameters(), 4e-3)
    generator = torch.Generator().manual_seed(1)
    for _ in range(200):
        current, key, motion = shifted(8, 64, generator)
        predicted = network.pyramid(current, key)
        loss = sum(((level - motion[:, :, None, None]).abs()).mean() for level in predicted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        current, key, motion = shifted(32, 64, generator)
        error = (network.pyramid(current, key)[-1].mean((2, 3)) - motion).abs().mean()
        assert error < 0.6 * motion.abs().mean()
        # Twice the size is twice the motion; at stride 8 that is a quarter cell per pixel of it.
        large = [F.interpolate(frame, scale_factor=2) for frame in (current, key)]
        cells = network(*large).displacement.mean((2, 3))
        assert (cells - motion / 4).abs().mean() < 0.6 * (motion / 4).abs().mean()


def shifted(batch: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Make pairs with current[y, x] = key[y + dy, x + dx]; motion (B, 2) holds (dx, dy)."""
    coarse = torch.rand(batch, 3, size // 4, size // 4, generator=generator)
    key = F.interpolate(coarse, scale_factor=4, mode="bilinear")
    motion = torch.randint(-4, 5, (batch, 2), generator=generator)
    pairs = zip(key, motion.tolist(), strict=True)
    current = torch.stack([frame.roll((-dy, -dx), (1, 2)) for frame, (dx, dy) in pairs])
    return current, key, motion.float()
