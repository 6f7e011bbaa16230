"""Flying Chairs: pairs of pictures with their true flow, real or embedded."""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from data_modules.flow_augment import FlowAugment
from data_modules.flow_files import read_flo, read_ppm
from data_modules.missing import contents, report_missing
from data_modules.options import check_least
from data_modules.sampling import assign_snippets, draws, mixed_order, share
from data_modules.synthetic.chairs_writer import (
    SPLIT_FILE,
    TRAIN,
    VAL,
    chairs_settings,
    write_flying_chairs,
)
from data_modules.synthetic_flow import FlowPair
from data_modules.text_lines import read_lines
from data_modules.video_data import ClipDataModule, ClipLoader

_FILE = re.compile(r"(\d{5})_(img1\.ppm|img2\.ppm|flow\.flo)")
_KINDS = ("img1.ppm", "img2.ppm", "flow.flo")


def read_split(path: Path) -> list[int]:
    """Read the split file: line n says where pair n belongs, 1 for training, 2 for validation.

    Raises:
        FileNotFoundError: No such file.
        ValueError: A line that is neither 1 nor 2.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such split file, {path.parent} holds {contents(path.parent)}"
        )
    lines = " ".join(read_lines(path)).split()
    for number, line in enumerate(lines, start=1):
        if line not in (str(TRAIN), str(VAL)):
            raise ValueError(f"{path}: line {number}: expected 1 or 2, found {line!r}")
    return [int(line) for line in lines]


def read_pair(
    root: Path, number: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32]]:
    """Read pair ``number``: current frame, key frame (H, W, 3) and the flow between (H, W, 2).

    Raises:
        ValueError: A broken file, or sizes that differ.
    """
    stem = root / "data" / f"{number:05}"
    # The flow goes from the first picture to the second: ours goes from current to key.
    current, key = (read_ppm(Path(f"{stem}_{name}.ppm")) for name in ("img1", "img2"))
    path = Path(f"{stem}_flow.flo")
    flow = read_flo(path)
    if not current.shape[:2] == key.shape[:2] == flow.shape[:2]:
        sizes = ", ".join(f"{a.shape[1]} x {a.shape[0]}" for a in (current, key, flow))
        raise ValueError(f"{path}: expected pictures and flow of one size, found {sizes}")
    return current, key, flow


class ChairPairs(Dataset[FlowPair]):
    """Pairs by (epoch, index); what an item draws depends on (seed, epoch, pair number) alone.

    Args:
        root: The folder ``FlyingChairs_release``.
        numbers: Of the pairs.
        augment: None: as they are.
        seed: Of every draw.
    """

    def __init__(
        self, root: Path, numbers: list[int], augment: FlowAugment | None, seed: int
    ) -> None:
        self.root, self.numbers, self.augment, self.seed = root, numbers, augment, seed

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, item: tuple[int, int]) -> FlowPair:
        epoch, index = item
        number = self.numbers[index]
        current, key, flow = read_pair(self.root, number)
        valid = np.ones(flow.shape[:2], bool)
        if self.augment is not None:
            seed = draws(self.seed, epoch, number).augment
            current, key, flow, valid = self.augment(current, key, flow, seed)
        return {
            "current": _frame(current),
            "key": _frame(key),
            "flow": torch.from_numpy(np.ascontiguousarray(flow.transpose(2, 0, 1))),
            "valid": torch.from_numpy(valid & np.isfinite(flow).all(axis=-1)),
        }


def _frame(picture: NDArray[np.uint8]) -> Tensor:
    planes = np.ascontiguousarray(picture.transpose(2, 0, 1))
    return torch.from_numpy(planes).float().div_(255)


class FlyingChairs(ClipDataModule):
    """Flying Chairs in its own layout, or the embedded set in the same layout.

    Args:
        root: The folder ``FlyingChairs_release``; None: the embedded set, written when needed.
        split_file: Name inside the root, or path.
        batch_size: Pairs per step over all processes together.
        num_workers: Processes that read, per loader.
        seed: Of every draw, 0 or more.
        on_error: What to do where pairs are missing or cannot be read: ``raise`` or ``skip``.
        augment: Options of ``flow_augment.FlowAugment``, for training.
        val_limit: The first validation pairs only; None: all.
        synthetic_root: Where the embedded set lies.
        synthetic: Its settings, see ``synthetic.chairs_writer.ChairsSettings``.

    Raises:
        ValueError: A number out of range, or an unknown key.
    """

    classes: tuple[str, ...] = ()

    def __init__(
        self,
        root: str | Path | None = None,
        split_file: str = SPLIT_FILE,
        batch_size: int = 8,
        num_workers: int = 1,
        seed: int = 0,
        on_error: str = "raise",
        augment: Mapping[str, Any] | None = None,
        val_limit: int | None = None,
        synthetic_root: str | Path = "data/synthetic/flying_chairs",
        synthetic: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(batch_size, num_workers, seed, on_error)
        check_least(val_limit=(1 if val_limit is None else val_limit, 1))
        self.embedded = root is None
        self.root = Path(synthetic_root if root is None else root).expanduser()
        self.split_file, self.val_limit = split_file, val_limit
        self.augment = FlowAugment.from_mapping(augment)
        self.synthetic = chairs_settings(dict(synthetic or {}))
        self.numbers: dict[int, list[int]] = {TRAIN: [], VAL: []}

    def prepare_data(self) -> None:
        """Write the embedded set, unless it is there or a root was given."""
        if self.embedded:
            write_flying_chairs(self.root, self.synthetic)

    def setup(self, stage: str) -> None:
        """Read the split file and find out which of its pairs are there.

        Raises:
            FileNotFoundError: The root, the split file or listed pairs are missing.
            ValueError: A split file that cannot be read, or of another length than the data.
        """
        folder = self.root / "data"
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{self.root}: expected FlyingChairs_release with a folder data, "
                f"found {contents(self.root)}"
            )
        path = self.root / self.split_file
        split = read_split(path)
        self.numbers = {part: [] for part in (TRAIN, VAL)}
        for number in _complete(folder, path, len(split), self.skips):
            self.numbers[split[number - 1]].append(number)
        self.numbers[VAL] = self.numbers[VAL][: self.val_limit]
        for part, name in ((TRAIN, "training"), (VAL, "validation")):
            if not self.numbers[part]:
                raise ValueError(f"{path}: none of the pairs that are there is for {name} ({part})")

    def train_dataloader(self) -> ClipLoader:
        """Return every training pair once per epoch, augmented."""
        numbers = self.numbers[TRAIN]
        order = partial(mixed_order, self.seed, labelled=len(numbers))
        return self.clip_loader(ChairPairs(self.root, numbers, self.augment, self.seed), order)

    def val_dataloader(self) -> ClipLoader:
        """Return this rank's validation pairs as they are, the last batch perhaps smaller."""
        rank, ranks = self.ranks
        numbers = self.numbers[VAL]
        return self.loader(
            ChairPairs(self.root, numbers, None, self.seed),
            batch_size=share(self.batch_size, ranks),
            sampler=[(0, index) for index in assign_snippets([1] * len(numbers), ranks)[rank]],
        )


def _complete(folder: Path, split: Path, listed: int, allow_missing: bool) -> list[int]:
    """Return the numbers of the pairs whose three files are there, in order."""
    found: dict[int, set[str]] = {}
    for entry in folder.iterdir():
        match = _FILE.fullmatch(entry.name)
        if match:
            found.setdefault(int(match[1]), set()).add(match[2])
    last = max(found, default=0)
    if last > listed or 0 in found:
        raise ValueError(
            f"{split}: {listed} lines, expected one for each of the pairs 1 .. {last} in {folder}"
        )
    lacking = {n: [k for k in _KINDS if k not in found.get(n, ())] for n in range(1, listed + 1)}
    missing = [f"{n:05} ({', '.join(kinds)})" for n, kinds in lacking.items() if kinds]
    complete = [n for n, kinds in lacking.items() if not kinds]
    report_missing(split, folder, "pairs", missing, listed, len(complete), allow_missing)
    return complete
