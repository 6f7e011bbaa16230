"""Looks into MPEG-4 packets (part 2: Xvid, DivX) without decoding: is there a picture to show?"""

import re

_LAYER = re.compile(rb"\x00\x00\x01[\x20-\x2f]")
_PICTURE = b"\x00\x00\x01\xb6"


class _Bits:
    """Reads bits from the first one on; those behind the end are 0."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def read(self, count: int = 1) -> int:
        self._left -= count
        return self._value >> max(self._left, 0) & (1 << count) - 1 if self._left >= 0 else 0


def clock_bits(data: bytes) -> int | None:
    """Return the bits of a picture's time in a stream whose headers are ``data``.

    None where there is no header of a video object layer (ISO/IEC 14496-2, 6.2.3).
    """
    found = _LAYER.search(data)
    if found is None:
        return None
    bits = _Bits(data[found.end() : found.end() + 32])
    bits.read(9)  # random access, type
    version = 1
    if bits.read():  # identifier
        version = bits.read(4)
        bits.read(3)
    if bits.read(4) == 15:  # the pixels' aspect ratio is given
        bits.read(16)
    if bits.read():  # control parameters
        bits.read(3)
        if bits.read():  # sizes and rates of buffers
            bits.read(79)
    if bits.read(2) == 3 and version != 1:  # shape
        bits.read(4)
    bits.read()
    return max(1, (bits.read(16) - 1).bit_length())


def holds_picture(data: bytes, clock: int | None) -> bool:
    """Say whether a packet holds a picture whose header is in order and that is not left out.

    Args:
        data: A packet.
        clock: Of ``clock_bits``; None: only the start code is looked for.
    """
    at = data.find(_PICTURE)
    if at < 0:
        return False
    if clock is None:
        return True
    bits = _Bits(data[at + 4 : at + 20])
    bits.read(2)  # type
    while bits.read():  # seconds since the last picture
        pass
    markers = bits.read(), bits.read(clock) >= 0 and bits.read()
    return all(markers) and bool(bits.read())
