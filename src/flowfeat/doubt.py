"""When a measured speed is not to be relied on, and how a report says so."""

import re
from collections.abc import Mapping

UNSTABLE = 0.2
"""Spread of the rounds beyond which a figure says more about the machine than about the method."""
LEEWAY = 1.02
"""What costs nothing between key frames has s = l, and a timer that trembles."""

MEASURED = ("fps", "speedup")
"""Figures that a table marks where the speed of their setting is not to be relied on."""
SPREAD, SUSPECT = "speed_spread", "speed_suspect"


def doubt(interval: int | None, speedup: float, spread: float) -> str:
    """Say why a measured speed cannot be, or is not to be relied on; empty if it can."""
    reasons = []
    if interval is not None and speedup > LEEWAY * interval:
        reasons.append(f"s = {speedup:.2f} is more than l = {interval} can give")
    if spread > UNSTABLE:
        reasons.append(f"the rounds lie {100 * spread:.0f} % apart")
    return ", ".join(reasons)


def is_suspect(results: Mapping[str, float], key: str) -> bool:
    """Say whether a figure is a measured speed that is not to be relied on."""
    name = next((n for n in MEASURED if re.fullmatch(rf"{n}(_l\d+)?", key)), None)
    return name is not None and bool(results.get(SUSPECT + key.removeprefix(name)))
