"""Scenes of an action: what things look like is one half of its name, how they move the other.

Things come in an endless row, like on a belt, and how they swell is periodic, so that where a thing
is and how large is distributed alike at any time, for every motion: one frame tells what it shows,
never what happens.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from data_modules.synthetic.motion import MOTIONS, Path
from data_modules.synthetic.scenes import Scene, SceneSettings, _Thing
from data_modules.synthetic.shapes import numbered
from data_modules.synthetic.textures import thing

APPEARANCES = ("Disc", "Square", "Triangle")
"""Names that the scenes' first classes of objects go by; one more is for the thing that passes."""


@dataclass(frozen=True)
class Act:
    """A motion; per frame, times a draw of 0.85 .. 1.15."""

    shift: float = 0.0  # to the right, as a share of the frame's shorter side
    spin: float = 0.0  # radians, clockwise
    swell: float = 0.0  # phase of swelling and shrinking, in periods
    named: str = "still"  # among ``MOTIONS``


ACTS: Mapping[str, Act] = MappingProxyType(
    {
        "Left": Act(shift=-0.009, named="left"),
        "Right": Act(shift=0.009, named="right"),
        "FastRight": Act(shift=0.024, named="right"),
        "Spin": Act(spin=0.1, named="clockwise"),
        "Zoom": Act(swell=1 / 36, named="grow"),
    }
)
"""At 80 pixels and steps of 4 frames: 2.9 and 7.7 pixels, 23 degrees, and up to 16 % of size."""

ACTIONS = tuple(f"{look}{act}" for look in APPEARANCES for act in ACTS)
"""The classes in the order of their labels."""

SCENE = SceneSettings(
    size=(80, 106),
    classes=len(APPEARANCES) + 1,
    objects=(0, 0),  # the row and the passing thing are drawn here
    object_size=(0.4, 0.55),
    pan=(0.0, 0.003),
    detail=0.2,
)

SPACING = 0.9  # of the row, as a share of the frame's shorter side
_SWELL = 0.28  # sizes are exp(-0.28) .. exp(0.28) times the drawn one
_PASSING = 0.2  # diameter of the thing that passes in front


class ActionScene(Scene):
    """A row of things that move as one, at a place, behind a small thing that wanders.

    Args:
        place: Seed of the background, the camera's pan and the light.
        take: Seed of everything else, the sensor's noise included.
        settings: What to draw; ``objects`` and ``motions`` do not count.
        look: Index into ``APPEARANCES``.
        act: Among ``ACTS``.
    """

    def __init__(
        self,
        place: tuple[int, ...],
        take: tuple[int, ...],
        settings: SceneSettings,
        look: int,
        act: str,
    ) -> None:
        super().__init__(place, replace(settings, objects=(0, 0)))
        self.seed = take
        rng = np.random.default_rng((*take, 1))
        low, high = self._camera.low, self._camera.high
        start = (rng.uniform(low[0], high[0]), rng.uniform(low[1], high[1]))
        self._camera = replace(self._camera, start=start)
        diameter = rng.uniform(*settings.object_size) * min(settings.size)
        paths = row_of_paths(rng, ACTS[act], settings.size)
        # All of one row look the same: which one is in view tells nothing.
        texture = thing(rng, numbered(look, settings.classes), round(diameter) + 4)
        area = float((texture[..., 3] >= 0.5).sum())
        motion = MOTIONS.index(ACTS[act].named)
        self._things = (
            *(_Thing(texture, area, path, look, motion) for path in paths),
            self._passing(rng),
        )

    def _passing(self, rng: np.random.Generator) -> _Thing:
        """Draw a thing of its own kind that hides a part of the others now and then."""
        height, width = self.settings.size
        unit = min(height, width)
        speed, heading = rng.uniform(0.0, 0.008) * unit, rng.uniform(0, 2 * np.pi)
        path = Path(
            start=(rng.uniform(0, width), rng.uniform(0, height)),
            velocity=(speed * np.cos(heading), speed * np.sin(heading)),
            low=(0.0, 0.0),
            high=(width, height),
            angle=rng.uniform(-np.pi, np.pi),
        )
        kind = self.settings.classes - 1
        texture = thing(rng, numbered(kind, self.settings.classes), round(_PASSING * unit) + 4)
        area = float((texture[..., 3] >= 0.5).sum())
        return _Thing(texture, area, path, kind, MOTIONS.index("wander"))


def row_of_paths(rng: np.random.Generator, act: Act, frame: tuple[int, int]) -> list[Path]:
    """Draw the paths of a row of things that act as one.

    Whatever the act, at any time the row's phase is uniform, its height, its angle and its size are
    distributed alike, and a window as wide as the spacing shows one thing's worth.

    Args:
        rng: Source of every draw; the same draws are made for every act.
        act: What the row does.
        frame: Height and width of the frame in pixels.
    """
    height, width = frame
    unit = min(frame)
    spacing = SPACING * unit
    pace = rng.uniform(0.85, 1.15)
    phase, middle = rng.uniform(0, spacing), height * rng.uniform(0.38, 0.62)
    angle, swell = rng.uniform(-np.pi, np.pi), rng.uniform(-2, 2)
    drift, turn = rng.uniform(-0.001, 0.001) * unit, rng.uniform(-0.008, 0.008)
    # Enough of them that the jump from one end of the row to the other is out of sight.
    count = int(np.ceil((width + unit) / spacing))
    room = count * spacing - width
    return [
        Path(
            start=(phase + n * spacing - room / 2, middle),
            velocity=(act.shift * pace * unit, drift),
            low=(-room / 2, -unit),
            high=(width + room / 2, height + unit),
            wraps=True,
            angle=angle,
            spin=act.spin * pace + turn,
            swell=_SWELL,
            swell_start=swell,
            swell_rate=4 * act.swell * pace,
        )
        for n in range(count)
    ]
