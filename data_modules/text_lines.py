"""Lines of the lists that datasets come with."""

from pathlib import Path


def read_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 file, whatever ends them.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no UTF-8 text.
    """
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: expected UTF-8 text, found byte {error.object[error.start]:#04x} at "
            f"position {error.start}"
        ) from None
