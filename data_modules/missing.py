"""What to do where a dataset is not complete: refuse it in one line, or say what is left out."""

import logging
from pathlib import Path

logger = logging.getLogger(__name__)

_SHOWN = 3  # names in a message


def first_names(names: list[str]) -> str:
    """List the first names, and say whether there are more."""
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def contents(folder: Path) -> str:
    """Say what is in a folder, for messages about what should be."""
    if not folder.is_dir():
        return "no such folder"
    names = sorted(path.name for path in folder.iterdir())
    return first_names(names) or "nothing"


def report_missing(
    path: Path,
    root: Path,
    kind: str,
    missing: list[str],
    listed: int,
    found: int,
    allow_missing: bool,
) -> None:
    """Refuse a list whose things are not all there, or log what is left out.

    Args:
        path: The list, or the folder that says what there should be.
        root: Where the things should be.
        kind: What they are, in the plural.
        missing: Their names, with what they lack.
        listed: How many there should be.
        found: How many can be used.
        allow_missing: Whether some may be missing; never all of them.

    Raises:
        FileNotFoundError: Some are missing and that is not allowed, or nothing is left.
    """
    if not missing:
        return
    message = (
        f"{path}: {len(missing)} missing in {root}, of {listed} listed {kind}: "
        f"{first_names(missing)}"
    )
    if not found:
        raise FileNotFoundError(f"{message}; nothing is left")
    if not allow_missing:
        raise FileNotFoundError(f"{message}; data.on_error=skip goes on without them")
    logger.warning("%s; left out (data.on_error=skip)", message)
