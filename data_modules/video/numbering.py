"""Gives every packet of a video the number of the frame that it holds, also past damage.

Frame i is entry i of the sorted presentation times, whether it decodes or not: damage in the middle
of a file moves no later frame. An entry that no decoded picture carries is a hole.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_modules.video.packets import PacketTable

_LEAST_TIMES = 3  # that show a constant interval
_OFF = 0.3  # of an interval: by how much rounded times may differ from a whole number of them

Numbers = NDArray[np.int64]


class Numbering(NamedTuple):
    """The frames of a stream and the packets that hold them."""

    length: int
    rank: Numbers | None  # (P,) frame of each packet, -1 for none; None: packets tell nothing
    holes: Numbers  # frames known not to decode, ascending
    times: Numbers | None  # (N,) presentation times in the stream's time base; None: there are none

    @property
    def seeks(self) -> bool:
        """Whether a packet's time names its frame, so that decoding may begin at a key frame."""
        return self.times is not None


def number_by_time(table: PacketTable) -> Numbering:
    """Number the shown packets by presentation time, without decoding any."""
    times = np.sort(table.pts[~table.hidden])
    rank = np.where(table.hidden, -1, np.searchsorted(times, table.pts))
    return Numbering(len(times), rank, np.empty(0, np.int64), times)


def number_by_decoding(
    table: PacketTable, order: Numbers, expected: NDArray[np.bool_], is_avi: bool
) -> Numbering:
    """Number packets by what decoding all of them has shown.

    Args:
        table: The packets.
        order: (D,) packets of the decoded pictures as they were shown, -1 where unknown.
        expected: (P,) packets that hold a picture each, as far as can be told.
        is_avi: The times were made up by the demuxer, and hold only where the pictures agree.
    """
    if (order < 0).any() or len(np.unique(order)) < len(order):
        return Numbering(len(order), None, np.empty(0, np.int64), None)
    begin = int(order.min())
    if table.damage and table.announced:  # what the header counts was meant to be seen
        begin = 0
    # What is stored or shown before the first frame that can be seen belongs to another video.
    expected = expected & (np.arange(len(table)) >= begin)
    if table.timed:
        expected &= table.pts >= table.pts[begin]
    expected[order] = True
    trusted = table.timed and (
        bool((np.diff(table.pts[order]) > 0).all()) or (bool(table.damage) and not is_avi)
    )
    return _timed(table, order, expected) if trusted else _untimed(table, order, expected)


def _timed(table: PacketTable, order: Numbers, expected: NDArray[np.bool_]) -> Numbering:
    times = np.sort(table.pts[expected])
    if table.damage and not table.complete:
        times = _with_gaps_filled(times)
        if len(table.dropped):  # these gaps were there before
            dropped = table.dropped + (table.pts[0] - table.dts[0])
            times = np.setdiff1d(times, np.setdiff1d(dropped, table.pts[expected]))
    rank = np.where(expected, np.searchsorted(times, table.pts), -1)
    places = rank[order]
    # Decoding runs forward: a picture that comes after a later one is passed over.
    in_order = places > np.concatenate(([-1], np.maximum.accumulate(places)[:-1]))
    return Numbering(len(times), rank, _others(len(times), places[in_order]), times)


def _untimed(table: PacketTable, order: Numbers, expected: NDArray[np.bool_]) -> Numbering:
    """Count the decoded pictures, and before each the packets that were written but show nothing.

    Near a hole, pictures that are shown in another order than they are stored may be off by one.
    """
    first = table.coded[expected].min()
    written = np.arange(first, table.coded.max() + 1)
    there = np.union1d(table.coded[~expected], table.coded[order])
    missing = np.setdiff1d(written, np.union1d(there, table.dropped))
    reached = np.maximum.accumulate(table.coded[order])
    places = np.arange(len(order)) + np.searchsorted(missing, reached)
    rank = np.full(len(table), -1, dtype=np.int64)
    rank[order] = places
    length = len(order) + len(missing)
    return Numbering(length, rank, _others(length, places), None)


def _others(length: int, places: Numbers) -> Numbers:
    return np.setdiff1d(np.arange(length), places)


def _with_gaps_filled(times: Numbers) -> Numbers:
    """Insert the times of lost frames (N,) where all others lie at one interval."""
    if len(times) < _LEAST_TIMES:
        return times
    steps = np.diff(times)
    single = steps[steps < 1.5 * np.median(steps)]
    counts = steps / single.mean()
    whole = np.maximum(np.rint(counts), 1).astype(np.int64)
    # Rounding adds up over a gap, so that only the single steps show whether the interval holds.
    if (np.abs(single / single.mean() - 1) > _OFF).any() or len(single) < len(steps) / 2:
        return times
    inserted = [
        np.rint(start + step * np.arange(count) / count).astype(np.int64)
        for start, step, count in zip(times[:-1], steps, whole, strict=True)
    ]
    return np.concatenate([*inserted, times[-1:]])
