"""HMDB-51: 51 actions, 6,766 videos cut from films, three official splits."""

from pathlib import Path
from typing import Any

from data_modules.action_data import ActionData
from data_modules.action_lists import (
    ActionLists,
    read_hmdb_classes,
    read_hmdb_lists,
    strange_folders,
)
from data_modules.missing import first_names
from data_modules.synthetic.actions_writer import actions_settings
from data_modules.synthetic.hmdb_writer import HMDB_ACTIONS, write_hmdb51


class Hmdb51(ActionData):
    """HMDB-51 in its official layout, or the embedded set in the same layout.

    The root holds ``hmdb51/<class>/<video>.avi`` (or raw frames,
    ``rawframes/<class>/<video>/img_00001.jpg``) and ``testTrainMulti_7030_splits``. Options are
    those of ``ActionData``.
    """

    video_folders = ("hmdb51", "hmdb51_org", "HMDB51", "videos", "rawframes")
    list_folders = ("testTrainMulti_7030_splits", "annotations")

    def __init__(
        self, synthetic_root: str | Path = "data/synthetic/hmdb51", **options: Any
    ) -> None:
        super().__init__(synthetic_root=synthetic_root, **options)
        self.settings = actions_settings(self.synthetic)

    def read_lists(self, folder: Path) -> ActionLists:
        """Read the lists, and see that every folder of videos has one: labels are counted by them.

        Raises:
            ValueError: A class without a list.
        """
        lists = read_hmdb_lists(folder, self.split)
        strange = strange_folders(self.video_folder, lists.classes)
        if strange:
            raise ValueError(
                f"{folder}: {len(strange)} classes of {self.video_folder} have no list "
                f"<class>_test_split{self.split}.txt: {first_names(strange)}"
            )
        return lists

    def read_classes(self, folder: Path) -> tuple[str, ...]:
        return read_hmdb_classes(folder, self.split)

    def write_embedded(self) -> None:
        write_hmdb51(self.root, self.settings)

    @property
    def embedded_classes(self) -> tuple[str, ...]:
        return HMDB_ACTIONS
