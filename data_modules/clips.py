"""Clip samplers: which frames of a snippet make a training clip around a labelled frame.

Each is an ``interfaces.ClipSampler``: ``(length, labelled, rng) -> (indices, targets)``. A method
chooses its sampler; the data modules only call it. All draws come from ``rng``, so that a clip is a
function of (seed, epoch, sample id). Every sampler gives clips of one length, so that they stack:
frames beyond the snippet's ends are replaced by its first or last frame.
"""

from dataclasses import dataclass

import numpy as np


def _check(length: int, labelled: int) -> None:
    if not 0 <= labelled < length:
        raise ValueError(f"labelled frame {labelled}: expected 0 .. {length - 1} (length {length})")


@dataclass(frozen=True)
class Single:
    """The labelled frame alone."""

    def __call__(
        self, length: int, labelled: int, rng: np.random.Generator
    ) -> tuple[list[int], list[int]]:
        """Return ``[labelled], [0]``."""
        _check(length, labelled)
        return [labelled], [0]


@dataclass(frozen=True)
class Pair:
    """Key frame k and labelled frame i with 0 <= i - k <= max_offset (DFF, section 4).

    The offset is uniform; at the snippet's start k is clipped to 0, never moved after i, as in the
    released code. The clip is ``[k, i]``; where k = i the frame stands in it twice.

    Args:
        max_offset: The largest i - k.
        same: Share of pairs that are k = i whatever the draw, 0..1. The paper has none; in a short
            training the head otherwise hardly meets features that were not propagated.
    """

    max_offset: int = 9
    same: float = 0.0

    def __post_init__(self) -> None:
        if self.max_offset < 0:
            raise ValueError(f"clip.max_offset={self.max_offset}: expected 0 or more")
        if not 0 <= self.same <= 1:
            raise ValueError(f"clip.same={self.same}: expected 0..1")

    def __call__(
        self, length: int, labelled: int, rng: np.random.Generator
    ) -> tuple[list[int], list[int]]:
        """Return ``[k, i], [1]``."""
        _check(length, labelled)
        key = max(0, labelled - int(rng.integers(0, self.max_offset + 1)))
        if rng.random() < self.same:
            key = labelled
        return [key, labelled], [1]


@dataclass(frozen=True)
class Window:
    """The labelled frame among its neighbours, ``before`` frames back to ``after`` frames ahead.

    With ``random=n`` only n neighbours are drawn, without replacement and uniformly (flow-guided
    feature aggregation trains on two of +-9). The clip is in order of time.
    """

    before: int = 9
    after: int = 9
    random: int | None = None

    def __post_init__(self) -> None:
        if self.before < 0 or self.after < 0:
            raise ValueError(f"clip window {self.before}, {self.after}: expected 0 or more")
        if self.random is not None and not 0 <= self.random <= self.before + self.after:
            most = self.before + self.after
            raise ValueError(f"clip.random={self.random}: expected 0 .. before + after = {most}")

    def __call__(
        self, length: int, labelled: int, rng: np.random.Generator
    ) -> tuple[list[int], list[int]]:
        """Return the window's frames and the labelled frame's position among them."""
        _check(length, labelled)
        neighbours = [o for o in range(-self.before, self.after + 1) if o != 0]
        if self.random is not None:
            chosen = rng.choice(len(neighbours), self.random, replace=False)
            neighbours = [neighbours[int(c)] for c in chosen]
        offsets = sorted([0, *neighbours])
        indices = [min(max(labelled + offset, 0), length - 1) for offset in offsets]
        return indices, [offsets.index(0)]


@dataclass(frozen=True)
class ConsistentInterval:
    """Frames at one interval, the same in training and testing (OFF, section 4.2.3).

    With L frames the interval is ``floor(L / beta)``. Training takes alpha frames from a seed p,
    uniform in 0 .. L - 1 - (alpha - 1) * interval; testing takes beta frames. All steps are
    targets: the label belongs to the video, so ``labelled`` does not steer the draw. A video with
    fewer than beta frames has interval 1, and its last frame is repeated where it is too short.
    """

    alpha: int = 7
    beta: int = 25

    def __post_init__(self) -> None:
        if not 1 <= self.alpha <= self.beta:
            raise ValueError(
                f"clip.alpha={self.alpha}, clip.beta={self.beta}: expected 1 <= alpha <= beta"
            )

    def interval(self, length: int) -> int:
        """Return the distance between sampled frames, in frames."""
        return max(1, length // self.beta)

    def __call__(
        self, length: int, labelled: int, rng: np.random.Generator
    ) -> tuple[list[int], list[int]]:
        """Return alpha frames from a random seed p; every step is a target."""
        _check(length, labelled)
        last = length - 1 - (self.alpha - 1) * self.interval(length)
        seed = int(rng.integers(0, max(last, 0) + 1))
        return self._frames(length, seed, self.alpha), list(range(self.alpha))

    def testing(self, length: int) -> list[int]:
        """Return the beta frames of a test video, at training's interval, centred in the video."""
        _check(length, 0)
        spare = length - 1 - (self.beta - 1) * self.interval(length)
        return self._frames(length, max(spare, 0) // 2, self.beta)

    def _frames(self, length: int, seed: int, count: int) -> list[int]:
        step = self.interval(length)
        return [min(seed + j * step, length - 1) for j in range(count)]


@dataclass(frozen=True)
class Segments:
    """One frame from each of K equal segments (temporal segment networks, Wang et al. 2016).

    Training takes a random frame of each of alpha segments of ``floor(L / alpha)`` frames; testing
    takes the centres of beta segments. The interval differs between the two, and in training from
    pair to pair: for methods that look at every frame alone. All steps are targets. In a video
    with fewer frames than segments neighbours share a frame.
    """

    alpha: int = 3
    beta: int = 25

    def __post_init__(self) -> None:
        if min(self.alpha, self.beta) < 1:
            raise ValueError(f"clip.alpha={self.alpha}, clip.beta={self.beta}: expected 1 or more")

    def __call__(
        self, length: int, labelled: int, rng: np.random.Generator
    ) -> tuple[list[int], list[int]]:
        """Return one random frame of each of alpha segments; every step is a target."""
        _check(length, labelled)
        span = length // self.alpha
        if span:
            drawn = rng.integers(0, span, self.alpha)
            indices = [j * span + int(offset) for j, offset in enumerate(drawn)]
        else:
            indices = [j * length // self.alpha for j in range(self.alpha)]
        return indices, list(range(self.alpha))

    def testing(self, length: int) -> list[int]:
        """Return the centres of beta segments."""
        _check(length, 0)
        return [(2 * j + 1) * length // (2 * self.beta) for j in range(self.beta)]
