"""Show a flow as colours of the Middlebury wheel."""

import math

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.utils import flow_to_image

from flowfeat.drawing.canvas import (
    BLACK,
    WHITE,
    Picture,
    font_of,
    letter_height,
    resized,
    write_plate,
)


def flow_picture(
    displacement: Tensor,
    size: tuple[int, int] | None = None,
    largest: float | None = None,
    wheel: bool = False,
) -> Picture:
    """Show a flow as colours: the hue is the direction, the saturation the length.

    On the Middlebury wheel right is red, down yellow, left cyan, up violet; white is no motion.

    Args:
        displacement: (2, h, w), (dx, dy) in pixels of its own grid, on any device.
        size: Height and width of the picture; (h, w) where omitted. Enlarged without interpolation:
            one cell of the grid stays one cell.
        largest: Length in pixels that has full colour; longer flow is shown like it. Where omitted,
            the longest in the picture, but at least 1: the noise of a still scene stays pale.
        wheel: Put the wheel into the lower right corner, with ``largest`` in pixels beside it.

    Returns:
        (H, W, 3) uint8; flow that is not finite is black.

    Raises:
        ValueError: ``displacement`` is not (2, h, w), or ``largest`` is not positive.
    """
    if displacement.ndim != 3 or displacement.shape[0] != 2:
        raise ValueError(f"displacement must be (2, h, w), found {tuple(displacement.shape)}")
    flow = displacement.detach().float().cpu()
    broken = ~torch.isfinite(flow).all(dim=0)  # (h, w)
    flow = flow.masked_fill(broken, 0.0)
    if largest is None:
        largest = max(1.0, float(flow.norm(dim=0).max()))
    if not 0 < largest < math.inf:
        raise ValueError(f"largest must be a positive number of pixels, found {largest}")
    colours = _wheel_colours(flow, largest)
    colours[broken.numpy()] = 0
    if size is not None:
        colours = resized(colours, size, Image.Resampling.NEAREST)
    return _with_wheel(colours, largest) if wheel else colours


def _wheel_colours(flow: Tensor, largest: float) -> Picture:
    """Colour a flow (2, h, w) so that ``largest`` has full saturation."""
    length = flow.norm(dim=0, keepdim=True)
    flow = flow * (largest / length.clamp(min=largest))
    # torchvision scales by the longest vector it finds: a column that holds it fixes the scale.
    ruler = torch.zeros(2, flow.shape[1], 1)
    ruler[0] = largest
    coloured = flow_to_image(torch.cat([flow, ruler], dim=2))[:, :, :-1]
    return coloured.permute(1, 2, 0).contiguous().numpy()


def _with_wheel(picture: Picture, largest: float) -> Picture:
    """Put the colour wheel into the lower right corner, as far as the picture has room for it."""
    canvas = Image.fromarray(picture)
    radius = max(8, min(canvas.size) // 10)
    steps = torch.linspace(-1, 1, 2 * radius + 1)
    dy, dx = torch.meshgrid(steps, steps, indexing="ij")
    disc = Image.fromarray(_wheel_colours(torch.stack([dx, dy]), 1.0))
    inside = Image.fromarray(((dx**2 + dy**2 <= 1).numpy() * 255).astype(np.uint8))
    x, y = canvas.width - 2 * radius - 4, canvas.height - 2 * radius - 4
    canvas.paste(disc, (x, y), inside)
    pen = ImageDraw.Draw(canvas)
    pen.ellipse((x, y, x + 2 * radius, y + 2 * radius), outline=BLACK)
    font, text = font_of(letter_height(canvas.size)), f"{largest:.1f} px"
    corner = (x - pen.textlength(text, font=font) - 8, canvas.height)
    write_plate(pen, text, corner, font, WHITE, canvas.size, above=False)
    return np.asarray(canvas).copy()
