"""A benchmark's figures as Markdown, with the machine and how busy it was."""

from collections.abc import Iterator, Mapping

ONCE = ("streams", "switch", "training", "memory", "video", "end_to_end", "off", "peers")
"""Figures that belong to no size."""


def page(title: str, about: str, figures: Mapping[str, float]) -> str:
    """Return the Markdown of the figures by their first word: sizes side by side, the rest below.

    Args:
        title: Of the page.
        about: One paragraph: the machine, versions, threads, load.
        figures: By key; those of a size begin with ``<height>x<width>/``.
    """
    return "\n".join(_lines(title, about, figures)) + "\n"


def _lines(title: str, about: str, figures: Mapping[str, float]) -> Iterator[str]:
    yield from (f"# {title}", "", about)
    sizes = list(dict.fromkeys(k.split("/")[0] for k in figures if k.split("/")[0] not in ONCE))
    rows = dict.fromkeys(k.partition("/")[2] for k in figures if k.split("/")[0] in sizes)
    yield from ("", "| | " + " | ".join(s.replace("x", " x ") for s in sizes) + " |")
    yield "|---" + "|---:" * len(sizes) + "|"
    for row in rows:
        cells = (figures.get(f"{size}/{row}") for size in sizes)
        yield f"| {row} | " + " | ".join("" if c is None else _number(c) for c in cells) + " |"
    for group in ONCE:
        found = {k.partition("/")[2]: v for k, v in figures.items() if k.startswith(group + "/")}
        if found:
            yield from ("", f"| {group} | |", "|---|---:|")
            yield from (f"| {name} | {_number(value)} |" for name, value in found.items())


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
