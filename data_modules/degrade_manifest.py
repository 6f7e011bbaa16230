"""What a tree of degraded frames says about itself, and whether it is the one that is wanted.

``degraded.json`` holds the recipe (codec, quality, encoder and its version) and the sums (clips,
frames, mean PSNR of the input); ``degraded.jsonl`` is the journal, one line per finished clip, from
which an interrupted run goes on.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from data_modules.degrade_codecs import Degradation, ffmpeg
from data_modules.missing import contents, first_names

MANIFEST, JOURNAL = "degraded.json", "degraded.jsonl"


@dataclass(frozen=True)
class Recipe:
    """Everything that degraded frames depend on, beside the clean ones."""

    codec: str
    quality: int
    encoder: str  # version of FFmpeg
    arguments: str
    source: str | None  # hash of the embedded set's settings; None for real data

    @classmethod
    def of(cls, degradation: Degradation, source: str | None) -> "Recipe":
        """Return the recipe of a degradation by the FFmpeg of this machine."""
        arguments = " ".join(degradation.arguments)
        version = ffmpeg().version
        return cls(degradation.codec, degradation.quality, version, arguments, source)


class Done(NamedTuple):
    """A finished clip."""

    frames: int
    psnr: float  # mean over its frames, dB


class Manifest(NamedTuple):
    """A whole tree's sums."""

    clips: int
    frames: int
    psnr_input: float  # mean over all frames, dB
    complete: bool  # all clips that the latest run was asked for


def read_recipe(tree: Path) -> Recipe | None:
    """Return what a tree was made by; None where there is no tree.

    Raises:
        ValueError: The folder holds something else, or a manifest that cannot be read.
    """
    path = tree / MANIFEST
    if not path.is_file():
        if tree.exists() and (not tree.is_dir() or any(_shown(tree))):
            raise ValueError(
                f"{tree}: expected degraded frames (with {MANIFEST}) or nothing, "
                f"found {contents(tree)}; it is left alone"
            )
        return None
    try:
        return Recipe(**json.loads(path.read_text())["recipe"])
    except (ValueError, KeyError, TypeError) as error:  # no JSON, no text, or of something else
        raise ValueError(f"{path}: expected a manifest of degraded frames ({error})") from error


def _shown(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if not path.name.startswith(".")]


def write_manifest(tree: Path, recipe: Recipe, done: Mapping[str, Done], complete: bool) -> None:
    """Write ``degraded.json``, all or nothing."""
    sums = Manifest(len(done), sum(d.frames for d in done.values()), mean_psnr(done), complete)
    text = json.dumps({"recipe": asdict(recipe), **sums._asdict()}, indent=1) + "\n"
    partial = tree / f".{MANIFEST}.{os.getpid()}"
    partial.write_text(text)
    os.replace(partial, tree / MANIFEST)


def mean_psnr(done: Mapping[str, Done]) -> float:
    """Return the mean over all frames in dB; 0 without any."""
    frames = sum(clip.frames for clip in done.values())
    return round(sum(clip.frames * clip.psnr for clip in done.values()) / max(frames, 1), 3)


def journal_line(name: str, done: Done) -> str:
    """Return a clip's line in the journal."""
    return json.dumps({"name": name, **done._asdict()}) + "\n"


def read_journal(tree: Path) -> dict[str, Done]:
    """Return the finished clips; a line that was cut off or spoilt does not count."""
    path = tree / JOURNAL
    done: dict[str, Done] = {}
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        try:
            entry = json.loads(line)
            done[entry["name"]] = Done(int(entry["frames"]), float(entry["psnr"]))
        except (ValueError, KeyError, TypeError):
            continue  # that clip is made again
    return done


def still_whole(tree: Path, done: Mapping[str, Done]) -> dict[str, Done]:
    """Return the finished clips whose frames are all there: a copy may have lost some since."""
    return {name: clip for name, clip in done.items() if _frames(tree / name) == clip.frames}


def _frames(folder: Path) -> int:
    return sum(name.endswith(".png") for name in os.listdir(folder)) if folder.is_dir() else 0


def difference(found: Recipe, wanted: Recipe) -> str:
    """Say in what two recipes differ; "" where they do not."""
    if (found.codec, found.quality) != (wanted.codec, wanted.quality):
        return f"made with {found.codec} {found.quality}: expected {wanted.codec} {wanted.quality}"
    if found.encoder != wanted.encoder:
        return (
            f"made by FFmpeg {found.encoder}: expected {wanted.encoder}, which is here "
            "(the same quality gives other pictures in other versions)"
        )
    if found.arguments != wanted.arguments:
        return f"made with {found.arguments}: expected {wanted.arguments}"
    return "" if found.source == wanted.source else "made from an embedded set of other settings"


def check_tree(tree: Path, wanted: Recipe, names: Sequence[str], command: str) -> dict[str, int]:
    """See that a tree holds the degraded frames of all clips, and return how many each has.

    Of the clips that are finished only the folders are looked for, a whole folder of them at a
    time: looking for half a million files at every start would take minutes on shared storage.

    Args:
        tree: The folder.
        wanted: How they must have been made.
        names: Of the clips.
        command: Makes the tree, or goes on with it.

    Raises:
        FileNotFoundError: There is no tree, or it is half made.
        ValueError: It was made otherwise.
    """
    found = read_recipe(tree)
    if found is None:
        raise FileNotFoundError(f"{tree}: no degraded frames: {command} makes them")
    if other := difference(found, wanted):
        raise ValueError(f"{tree}: {other}; remove that folder, then {command} makes it anew")
    done = read_journal(tree)
    missing = [name for name in names if name not in done] or _gone(tree, names)
    if missing:
        raise FileNotFoundError(
            f"{tree}: half made, {len(missing)} of {len(names)} clips are missing "
            f"({first_names(missing)}): {command} goes on where it stopped"
        )
    return {name: done[name].frames for name in names}


def _gone(tree: Path, names: Sequence[str]) -> list[str]:
    """Return the clips whose folders are not there any more."""
    parents = {(tree / name).parent for name in names}
    there = {path for parent in parents if parent.is_dir() for path in parent.iterdir()}
    return [name for name in names if tree / name not in there]
