"""A reproduced table as Markdown: ours beside the paper's, claims, and how it was run."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from flowfeat.reproduction.claims import Figures, MissingFigure, Points, Verdict, judge
from flowfeat.reproduction.figures import Spread, spread
from flowfeat.reproduction.table import Column, Row, Run, Table


class Report(NamedTuple):
    """All that a table's page tells."""

    name: str
    table: Table
    seeds: Sequence[int]
    figures: Sequence[Figures]  # one entry per seed, speeds included
    points: Sequence[Points]  # the curve's lines, one entry per seed
    errors: Mapping[str, str]  # run, with its seed -> why it has no figures
    extra: Sequence[str]  # overrides that were given for all runs
    seconds: float  # of all runs together
    machines: Sequence[str]
    versions: Sequence[str]
    timed: str  # how the speeds were measured; empty without
    picture: str | None  # file beside the page


def page(reports: Iterable[Report]) -> str:
    """Return the Markdown of one or several tables."""
    return "\n".join(line for report in reports for line in _lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    table = report.table
    yield f"# {table.title}"
    yield ""
    data = table.data.strip()
    if any(word.startswith("data.root=") for word in report.extra):
        data = "Data of its own (`data.root`), not the set that this table is written for."
    yield f"**{data}**" + (f" Beside it: {table.paper}." if table.paper else "")
    if any("root=" not in word for word in report.extra):
        words = [w for w in report.extra if "root=" not in w]  # a page names no one's folders
        yield f"Settings changed for all runs: `{' '.join(words)}`."
    yield ""
    yield from _grid(*_cells(report))
    yield ""
    yield _spread_sentence(report)
    if report.picture:
        yield ""
        yield f"![{table.title}]({report.picture})"
    if table.claims:
        yield ""
        for text, check in table.claims.items():
            yield f"- {text}: {claim(check, report)}"
    if table.notes:
        yield ""
        yield table.notes.strip()
    if report.errors:
        yield ""
        yield "Failed:"
        yield ""
        yield from (f"- {name}: {error}" for name, error in report.errors.items())
    yield ""
    yield from _how(report)
    yield ""


def claim(check: str, report: Report) -> str:
    """Say whether a claim holds, by how much, and what was compared."""
    try:
        verdict = judge(check, report.figures, report.points)
    except MissingFigure as error:
        return f"**undecided**, {error} (`{check}`)"
    word = "holds" if verdict.holds else "does not hold"
    if verdict.spread is not None and abs(verdict.difference) <= verdict.spread:
        word += ", within the spread"
    return f"**{word}** ({difference(verdict)}; `{check}`)"


def difference(verdict: Verdict) -> str:
    """Write left minus right with its spread."""
    text = f"difference {verdict.difference:+.3g}"
    if verdict.spread is None:
        return f"{text}, one seed"
    return f"{text} ± {verdict.spread:.2g}, n = {verdict.seeds}"


def _cells(report: Report) -> tuple[list[str], list[list[str]]]:
    """Return the headings and the rows; the paper's column follows ours where it has figures."""
    table = report.table
    told = {name for row in table.rows.values() for name in row.paper}
    headings = [""]
    for name in table.columns:
        headings += [name, f"{name}, paper"] if name in told else [name]
    rows = []
    for label, row in table.rows.items():
        cells = [label]
        for name, column in table.columns.items():
            cells.append(cell(row, name, column, report))
            if name in told:
                cells.append(f"{row.paper[name]:g}" if name in row.paper else "")
        rows.append(cells)
    return headings, rows


def cell(row: Row, name: str, column: Column, report: Report) -> str:
    """Write one figure of ours."""
    key = row.keys.get(name, column.key)
    if not key:
        return ""
    run = f"{row.timed or row.run}.timed" if column.timed else row.run
    there = [figures[run] for figures in report.figures if run in figures]
    values = [figures[key] for figures in there if key in figures]
    if not values:
        if column.timed:
            return f"no {key}" if there else "not timed"
        return f"no {key}" if there else "failed"
    if column.timed:  # one pass, the same for all seeds
        return number(values[0], column.digits)
    return _spread(spread(values), column.digits, len(report.seeds))


def number(value: float, digits: int) -> str:
    """Write a figure of ours; the paper's are written as it gives them."""
    return f"{value:.{digits}f}"


def _spread(value: Spread, digits: int, seeds: int) -> str:
    text = number(value.mean, digits)
    if value.deviation is not None:
        text += f" ± {number(value.deviation, digits)}"
    return text if value.seeds == seeds else f"{text} (n = {value.seeds})"


def _spread_sentence(report: Report) -> str:
    count = len(report.seeds)
    seeds = ", ".join(map(str, report.seeds))
    text = f"One seed ({seeds})."
    if count > 1:
        text = f"Mean ± sample standard deviation over {count} seeds ({seeds})."
    return f"{text} Speeds: {report.timed}." if report.timed else text


def _how(report: Report) -> Iterator[str]:
    table = report.table
    minutes, machines = report.seconds / 60, "; ".join(report.machines) or "nothing"
    # A version of the code, then those of Python and the libraries, which rarely differ.
    told = [text.partition(", ") for text in report.versions]
    known = [*dict.fromkeys(t[0] for t in told), *dict.fromkeys(t[2] for t in told)]
    yield f"`make reproduce TABLE={report.name} SEEDS={len(report.seeds)}`; the runs took"
    yield f"{minutes:.0f} minutes together, on {machines}"
    yield f"({'; '.join(known) or 'no run was made'})."
    yield ""
    yield "| run | what |"
    yield "|---|---|"
    if table.base:
        yield f"| all | `{' '.join(table.base)}` |"
    for name, run in table.runs.items():
        yield f"| {name} | {_what(run)} |"


def _what(run: Run) -> str:
    if run.same_as is not None:
        return f"that of {run.same_as}"
    parts = [f"`flowfeat-{run.command}`" + (f" of {run.of}" if run.of else "")]
    if run.overrides:
        parts.append(f"`{' '.join(run.overrides)}`")
    if not run.base:
        parts.append("without the words of all")
    if run.after:
        parts.append("from " + ", ".join(f"the {part} of {run.after[part]}" for part in run.after))
    return ", ".join(parts).replace("|", "\\|")


def _grid(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(headings) + " |"
    yield "|---" + "|---:" * (len(headings) - 1) + "|"
    for row in rows:
        yield "| " + " | ".join(row) + " |"
