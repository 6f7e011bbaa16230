"""Save a chart twice: as PNG to look at anywhere, as SVG where pictures are kept as text."""

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure


def save_chart(figure: Figure, path: Path) -> None:
    """Write ``path`` (PNG) and the same name with `.svg`, the same bytes for the same chart."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    with matplotlib.rc_context({"svg.hashsalt": "flowfeat", "svg.fonttype": "none"}):
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
