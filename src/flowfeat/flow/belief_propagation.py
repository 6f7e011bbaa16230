"""Dual-layer loopy belief propagation: two fields of labels, coupled by the data, smooth each.

The energy of Eq. 1 of SIFT Flow (Liu et al. 2011): u and v are layers of their own, so that a
message has L values instead of L * L; the data term is what couples them at each pixel.
"""

import torch
from torch import Tensor

Field = Tensor
"""(2, B, h, w) i64: dx and dy of every pixel."""

# A pixel's neighbours, as where its messages come from; flipped, each meets its opposite.
LEFT, UP, DOWN, RIGHT = range(4)


def minimise(
    data: Tensor,
    centre: Field,
    small: float,
    slope: float,
    limit: float,
    iterations: int,
) -> Field:
    """Find a field of low energy.

    The energy is the sum over pixels of ``data`` and ``small * (|u| + |v|)``, and over pairs of
    neighbours of ``min(slope * |u - u'|, limit)`` and the same for v.

    The paper sends messages in sequence, row by row; here they go to all pixels of one colour of a
    checkerboard, then to the others, because that can be computed together. (u has the colours the
    other way round than v: whoever sends has just listened. Sent to all at once, messages end at
    higher energies.) Where the data are a sum of a function of u and one of v, the result on a
    tree of pixels is exact once the messages have crossed it; on other grids it need not be, and
    contradictory data can keep it from settling.

    Args:
        data: (L, L, B, h, w), what a match costs; by the label of v, then of u. Label ``j`` of a
            layer means the displacement ``centre + j - L // 2``.
        centre: (2, B, h, w) i64, the middles of each pixel's search window.
        small: Weight of the displacement itself (eta; gamma in the public demonstration).
        slope: Of the smoothness (alpha).
        limit: Of the smoothness (d), so that borders of motion are affordable.
        iterations: Rounds of messages, each to one colour.

    Returns:
        (2, B, h, w) i64, the displacements.
    """
    labels = len(data)
    offsets = torch.arange(labels, device=data.device) - labels // 2
    prior = small * (centre + offsets[:, None, None, None, None]).abs().to(data.dtype)
    places, excess = _label_changes(centre, labels, slope)
    messages = data.new_zeros(labels, 4, *centre.shape)
    arriving = torch.zeros_like(messages)
    colours = _checkerboard(centre)
    for turn in range(iterations):
        beliefs = prior + messages.sum(1)
        beliefs = beliefs + _across(data, beliefs)
        sent = beliefs[:, None] - messages.flip(1)  # without what that neighbour said itself
        sent -= sent.amin(0, keepdim=True)
        spread(sent, slope)
        _deliver(sent, arriving)
        heard = arriving if places is None else arriving.gather(0, places).add_(excess)
        # The least of what was sent is 0, so that no label costs more than the limit.
        messages = torch.where(colours[turn % 2], heard.clamp(max=limit), messages)
    beliefs = prior + messages.sum(1)
    joint = data + beliefs[None, :, 0] + beliefs[:, None, 1]
    best = joint.flatten(0, 1).argmin(0)
    row = torch.stack((best % labels, best // labels))
    return centre + row - labels // 2


def spread(costs: Tensor, slope: float) -> None:
    """Replace f(j) by min over i of f(i) + slope * |i - j|, in place, along the first axis.

    The distance transform of Felzenszwalb and Huttenlocher (2006): two passes instead of L * L.
    """
    for j in range(1, len(costs)):
        torch.minimum(costs[j], costs[j - 1] + slope, out=costs[j])
    for j in range(len(costs) - 2, -1, -1):
        torch.minimum(costs[j], costs[j + 1] + slope, out=costs[j])


def _across(data: Tensor, beliefs: Tensor) -> Tensor:
    """Return what the data let each layer say to the other: (L, 2, B, h, w), least 0."""
    to_u = (data + beliefs[:, None, 1]).amin(0)
    to_v = (data + beliefs[None, :, 0]).amin(1)
    both = torch.stack((to_u, to_v), 1)
    return both - both.amin(0, keepdim=True)


def _deliver(sent: Tensor, messages: Tensor) -> None:
    """Put what every pixel sends (its side named by where it comes *from* there) at its neighbours.

    ``sent[:, LEFT]`` leaves to the right, and comes from the left. The frame's border gets nothing.
    """
    messages[:, LEFT, ..., 1:] = sent[:, LEFT, ..., :-1]
    messages[:, RIGHT, ..., :-1] = sent[:, RIGHT, ..., 1:]
    messages[:, UP, ..., 1:, :] = sent[:, UP, ..., :-1, :]
    messages[:, DOWN, ..., :-1, :] = sent[:, DOWN, ..., 1:, :]


def _checkerboard(centre: Field) -> tuple[Tensor, Tensor]:
    """Colour the pixels of both layers: (2, 1, h, w) bool, and its opposite."""
    height, width = centre.shape[-2:]
    rows, columns, layers = (torch.arange(n, device=centre.device) for n in (height, width, 2))
    black = (rows[:, None] + columns + layers[:, None, None, None]) % 2 == 0
    return black, ~black


def _label_changes(centre: Field, labels: int, slope: float) -> tuple[Tensor | None, Tensor]:
    """Say where a pixel's labels lie among its neighbours', whose windows have other middles.

    Returns:
        The nearest label of the neighbour, (L, 4, 2, B, h, w) i64, or None if all windows agree;
        and what the rest of the way costs.
    """
    theirs = centre[None].repeat(4, 1, 1, 1, 1)
    _deliver(centre.expand(1, 4, *centre.shape), theirs[None])
    change = centre - theirs
    if not bool(change.any()):
        return None, torch.zeros((), device=centre.device)
    wanted = change + torch.arange(labels, device=centre.device)[:, None, None, None, None, None]
    places = wanted.clamp(0, labels - 1)
    return places, (wanted - places).abs() * slope
