"""What somebody wrote about a table's figures outlives the next run of the table."""

from pathlib import Path

from flowfeat.reproduce import READING, write_page

WRITTEN = f"{READING}\n\nIt is the *larger* network.\n\n## More\n\nThe end.\n"


def test_a_reading_is_kept_behind_new_figures_and_that_is_said(tmp_path: Path) -> None:
    path, lines = tmp_path / "out" / "one.md", list[str]()
    write_page(path, "# A table\n\n| 1 |\n", lines.append)
    assert path.read_text() == "# A table\n\n| 1 |\n"
    path.write_text(path.read_text() + "\n" + WRITTEN)
    write_page(path, "# A table\n\n| 1 |\n", lines.append)
    assert path.read_text() == "# A table\n\n| 1 |\n\n" + WRITTEN
    assert lines == []
    write_page(path, "# A table\n\n| 2 |\n", lines.append)
    assert path.read_text() == "# A table\n\n| 2 |\n\n" + WRITTEN
    (line,) = lines
    assert line.startswith(f"{path}: the figures changed; its section 'What we make of it' was")
    assert [p.name for p in path.parent.iterdir()] == ["one.md"]


def test_a_page_without_a_reading_is_replaced(tmp_path: Path) -> None:
    path, lines = tmp_path / "one.md", list[str]()
    path.write_text("# A table\n\nNotes: # What we make of it\n")
    write_page(path, "# A table\n\n| 2 |\n", lines.append)
    assert path.read_text() == "# A table\n\n| 2 |\n"
    assert lines == []
