"""Write a folder once, all or nothing, and know it again by the hash of its settings."""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

STAMP = "synthetic.json"
"""File in the root of every embedded dataset: the settings that made it, and their hash."""

log = logging.getLogger(__name__)


def settings_hash(settings: Mapping[str, Any]) -> str:
    """Return the SHA-256 of settings made of plain values, whatever the order of their keys."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read_stamp(root: Path) -> str | None:
    """Return the hash that a folder was made with; None where there is no (readable) stamp."""
    try:
        found = json.loads((root / STAMP).read_text())["hash"]
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, KeyError, TypeError):
        return None
    return str(found)


def write_once(root: Path, settings: Mapping[str, Any], write: Callable[[Path], None]) -> bool:
    """Make ``root`` by ``write(folder)`` unless it was made with the same settings already.

    ``write`` fills a temporary folder beside ``root``, which is renamed when complete: nobody ever
    sees half a dataset, and when two processes start at once the later one throws its copy away.
    A folder that other settings made is replaced, with a line in the log.

    Args:
        root: Folder to make; its parents are made as well.
        settings: Everything that the content depends on, a version of the code included.
        write: Fills the empty folder that it is given.

    Returns:
        Whether this call wrote the folder.

    Raises:
        ValueError: ``root`` holds something that did not come from here.
        OSError: It cannot be written; nothing is left behind.
    """
    root = Path(root).absolute()
    wanted = settings_hash(settings)
    if read_stamp(root) == wanted:
        return False
    _refuse_foreign(root)
    root.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{root.name}.writing-", dir=root.parent))
    try:
        folder.chmod(0o755)  # mkdtemp's 0700 would shut out the other users of shared storage
        write(folder)
        (folder / STAMP).write_text(
            json.dumps({"hash": wanted, "settings": settings}, indent=1, sort_keys=True) + "\n"
        )
        return _put_in_place(folder, root, wanted)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _refuse_foreign(root: Path) -> None:
    if root.exists() and (not root.is_dir() or (any(root.iterdir()) and read_stamp(root) is None)):
        raise ValueError(
            f"{root}: expected an embedded dataset (with {STAMP}) or nothing, found other files; "
            "it is left alone, choose another folder"
        )


def _put_in_place(folder: Path, root: Path, wanted: str) -> bool:
    """Rename ``folder`` to ``root``; False when another process has put the same there."""
    for _ in range(10):
        try:
            os.rename(folder, root)  # on POSIX succeeds over nothing or over an empty folder
            return True
        except OSError:
            if not root.exists():
                raise
        if read_stamp(root) == wanted:
            return False
        _refuse_foreign(root)
        log.warning("%s was made with other settings: replaced", root)
        _remove(root)
    raise OSError(f"{root}: another process keeps replacing it with other settings")


def _remove(root: Path) -> None:
    """Take a folder out of sight in one step, then delete it."""
    grave = Path(tempfile.mkdtemp(prefix=f".{root.name}.old-", dir=root.parent))
    try:
        os.rename(root, grave / "old")
    except FileNotFoundError:
        pass  # another process was faster
    finally:
        shutil.rmtree(grave, ignore_errors=True)
