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

    All messages of a layer pair are sent at once (the paper sends them in sequence, row by row,
    which is slow where all pixels can be computed together). On a tree of pixels whose data are a
    sum of a function of u and one of v the result is exact once the messages have crossed it.

    Args:
        data: (L, L, B, h, w), what a match costs; by the label of v, then of u. Label ``j`` of a
            layer means the displacement ``centre + j - L // 2``.
        centre: (2, B, h, w) i64, the middles of each pixel's search window.
        small: Weight of the displacement itself (eta; gamma in the public demonstration).
        slope: Of the smoothness (alpha).
        limit: Of the smoothness (d), so that borders of motion are affordable.
        iterations: Rounds of messages.

    Returns:
        (2, B, h, w) i64, the displacements.
    """
    labels = len(data)
    offsets = torch.arange(labels, device=data.device) - labels // 2
    prior = small * (centre + offsets[:, None, None, None, None]).abs().to(data.dtype)
    places, excess = _label_changes(centre, labels, slope)
    messages = data.new_zeros(labels, 4, *centre.shape)
    for _ in range(iterations):
        beliefs = prior + messages.sum(1)
        beliefs = beliefs + _across(data, beliefs)
        sent = beliefs[:, None] - messages.flip(1)  # without what that neighbour said itself
        sent -= sent.amin(0, keepdim=True)
        spread(sent, slope)
        _deliver(sent, messages)
        if places is not None and excess is not None:
            messages = messages.gather(0, places).add_(excess)
        messages.clamp_(max=limit)  # the least of what was sent is 0
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


def _label_changes(
    centre: Field, labels: int, slope: float
) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Say where a pixel's labels lie among its neighbours', whose windows have other middles.

    Returns:
        The nearest label of the neighbour, (L, 4, 2, B, h, w) i64, and the cost of the rest of the
        way; None where all windows agree.
    """
    theirs = centre[None].repeat(4, 1, 1, 1, 1)
    _deliver(centre.expand(1, 4, *centre.shape), theirs[None])
    change = centre - theirs
    if not bool(change.any()):
        return None, None
    wanted = change + torch.arange(labels, device=centre.device)[:, None, None, None, None, None]
    places = wanted.clamp(0, labels - 1)
    return places, (wanted - places).abs() * slope
