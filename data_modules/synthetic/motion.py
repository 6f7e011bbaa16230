"""How synthetic things move: paths that are analytic in time, so that poses and flow are exact."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

MOTIONS = (
    "still",
    "wander",
    "left",
    "right",
    "up",
    "down",
    "clockwise",
    "anticlockwise",
    "grow",
    "shrink",
)
"""Names of motions; an object's motion label is its index here."""

_HEADINGS = {"right": 0.0, "down": 0.5 * np.pi, "left": np.pi, "up": 1.5 * np.pi}
_ROUND = 0.95  # how sharply `bounce` turns: 1 is a triangle wave, near 0 a sine


def bounce(u: float) -> float:
    """A triangle wave with rounded corners: odd, period 4, slope at most 1.2, in -1..1."""
    return float(np.arcsin(_ROUND * np.sin(np.pi / 2 * u)) / np.arcsin(_ROUND))


@dataclass(frozen=True)
class Path:
    """Centre, angle and size of one thing at any time.

    The centre goes straight and bounces softly between ``low`` and ``high``, or, where ``wraps``,
    comes back on the other side: then the bounds lie so far outside that nobody sees the jump.
    """

    start: tuple[float, float]  # centre at t = 0, pixels
    velocity: tuple[float, float]  # pixels per frame
    low: tuple[float, float]  # bounds of the centre, pixels
    high: tuple[float, float]
    wraps: bool = False
    angle: float = 0.0  # radians at t = 0
    spin: float = 0.0  # radians per frame; positive is clockwise on the screen
    sway: float = 0.0  # where positive, the angle swings by this much instead of going round
    swell: float = 0.0  # the logarithm of the scale moves between -swell and swell
    swell_start: float = 0.0  # phase of that, in units of `bounce`
    swell_rate: float = 0.0  # units of `bounce` per frame

    def _axis(self, axis: int, t: float) -> tuple[float, int]:
        low, high = self.low[axis], self.high[axis]
        position = self.start[axis] + self.velocity[axis] * t
        if self.wraps:
            lap, rest = divmod(position - low, high - low)
            return low + rest, int(lap)
        half, middle = (high - low) / 2, (high + low) / 2
        if half <= 0:
            return middle, 0
        return middle + half * bounce((position - middle) / half), 0

    def lap(self, t: float) -> int:
        """Count the jumps to the other side until t; each starts a new appearance."""
        return abs(self._axis(0, t)[1]) + abs(self._axis(1, t)[1])

    def pose(self, t: float) -> Matrix:
        """Return the 2x3 affine map from the thing's own pixels (origin: centre) to time t."""
        scale = np.exp(self.swell * bounce(self.swell_start + self.swell_rate * t))
        turn = self.spin * t
        angle = self.angle + (self.sway * bounce(turn / self.sway) if self.sway else turn)
        cos, sin = scale * np.cos(angle), scale * np.sin(angle)
        return np.array([[cos, -sin, self._axis(0, t)[0]], [sin, cos, self._axis(1, t)[0]]])


def object_path(
    rng: np.random.Generator,
    motion: str,
    frame: tuple[int, int],
    diameter: float,
    speed: float,
    liveliness: float,
    length: int,
) -> Path:
    """Draw the path of an object.

    Args:
        rng: Source of every draw.
        motion: One of ``MOTIONS``; its effect dominates, others are added by ``liveliness``.
        frame: Height and width of the frame in pixels.
        diameter: Of the object, in pixels.
        speed: Pixels per frame (ignored by the motions that stay in place).
        liveliness: 0..1: how much an object also turns and swells beside its motion, and drifts
            where the motion stays in place.
        length: Frames over which ``grow`` and ``shrink`` keep their direction.
    """
    height, width = frame
    slides = motion in _HEADINGS
    heading = _HEADINGS.get(motion, rng.uniform(0, 2 * np.pi))
    heading += rng.uniform(-0.3, 0.3) * liveliness if slides else 0.0
    pace = speed if slides or motion == "wander" else speed * 0.5 * liveliness
    if motion == "still":
        pace = 0.0
    # A wrapping object must be wholly outside when it jumps, also when swollen and turned.
    reach = diameter if slides else 0.0
    spin = rng.uniform(-0.06, 0.06) * liveliness
    if motion in ("clockwise", "anticlockwise"):
        spin = rng.uniform(0.08, 0.16) * (1 if motion == "clockwise" else -1)
    swell, start, rate = 0.3 * liveliness * rng.random(), rng.uniform(-2, 2), 2 / length
    if motion in ("grow", "shrink"):
        swell, start, rate = 0.45, -0.95 if motion == "grow" else 1.05, 1.9 / length
    if motion == "still":
        spin = swell = 0.0
    return Path(
        start=(rng.uniform(0.12, 0.88) * width, rng.uniform(0.12, 0.88) * height),
        velocity=(pace * np.cos(heading), pace * np.sin(heading)),
        low=(-reach, -reach),
        high=(width + reach, height + reach),
        wraps=slides,
        angle=rng.uniform(-np.pi, np.pi),
        spin=spin,
        swell=swell,
        swell_start=start,
        swell_rate=rate,
    )


def camera_path(rng: np.random.Generator, frame: tuple[int, int], pan: float) -> Path:
    """Draw the path of the background's centre: a pan, slowly turning and zooming.

    Args:
        rng: Source of every draw.
        frame: Height and width of the frame in pixels.
        pan: Pixels per frame.
    """
    height, width = frame
    room = 0.45 * min(frame)
    heading = rng.uniform(0, 2 * np.pi)
    centre = ((width - 1) / 2, (height - 1) / 2)
    return Path(
        start=(centre[0] + rng.uniform(-room, room), centre[1] + rng.uniform(-room, room)),
        velocity=(pan * np.cos(heading), pan * np.sin(heading)),
        low=(centre[0] - room, centre[1] - room),
        high=(centre[0] + room, centre[1] + room),
        spin=rng.uniform(-0.004, 0.004),
        sway=0.06,
        swell=rng.uniform(0, 0.08),
        swell_start=rng.uniform(-2, 2),
        swell_rate=0.04,
    )


def background_size(path: Path, frame: tuple[int, int]) -> tuple[int, int]:
    """Return the height and width that a background needs to fill the frame all along its path."""
    height, width = frame
    half_x = max(path.high[0], width - 1 - path.low[0]) + 2
    half_y = max(path.high[1], height - 1 - path.low[1]) + 2
    shrink = np.exp(-path.swell)
    need_x = (half_x + path.sway * half_y) / shrink
    need_y = (half_y + path.sway * half_x) / shrink
    return 2 * int(np.ceil(need_y)), 2 * int(np.ceil(need_x))
