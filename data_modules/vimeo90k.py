"""Vimeo-90K septuplets for artifact removal: degraded frames in, the middle one restored."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_modules.clean_clips import CleanClip
from data_modules.restoration_data import RestorationData
from data_modules.septuplets import SCORED, Septuplets
from data_modules.synthetic.septuplet_writer import embedded_settings, write_septuplets

TRAIN_LIST, TEST_LIST = "sep_trainlist.txt", "sep_testlist.txt"


class Vimeo90k(RestorationData):
    """Vimeo-90K septuplets in their official layout, or the embedded set in the same layout.

    Args:
        root: The folder ``vimeo_septuplet``; None: the embedded set, written when it is needed.
        train_list: Name in the root.
        test_list: The same; also validation uses it.
        synthetic_root: Where the embedded set lies.
        synthetic: Its settings, see ``synthetic.septuplet_writer.SeptupletSettings``.
        options: Those of ``RestorationData``.
    """

    leaf = "vimeo90k"

    def __init__(
        self,
        root: str | Path | None = None,
        train_list: str = TRAIN_LIST,
        test_list: str = TEST_LIST,
        synthetic_root: str | Path = "data/synthetic/vimeo90k",
        synthetic: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(root=root, synthetic_root=synthetic_root, **options)
        self.lists = {"train": train_list, "val": test_list}
        self.synthetic = embedded_settings(synthetic)

    def write_embedded(self) -> None:
        write_septuplets(self.root, self.synthetic)

    def clean_clips(self, use: str) -> list[CleanClip]:
        return Septuplets(self.root).clips(self.lists[use], self.skips)

    def targets(self, length: int) -> Sequence[int]:
        return (SCORED,)

    def own_options(self) -> dict[str, Any]:
        usual = {"train_list": TRAIN_LIST, "test_list": TEST_LIST}
        given = {"train_list": self.lists["train"], "test_list": self.lists["val"]}
        return {name: value for name, value in given.items() if value != usual[name]}
