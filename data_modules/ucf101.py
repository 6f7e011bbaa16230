"""UCF-101: 101 actions, 13,320 videos in 25 groups per class, three official splits."""

from pathlib import Path
from typing import Any

from data_modules.action_data import ActionData
from data_modules.action_lists import (
    ActionLists,
    read_ucf_classes,
    read_ucf_lists,
    warn_of_folders,
)
from data_modules.synthetic.actions_scenes import ACTIONS
from data_modules.synthetic.actions_writer import actions_settings, write_ucf101


class Ucf101(ActionData):
    """UCF-101 in its official layout, or the embedded set in the same layout.

    The root holds ``UCF-101/<class>/v_<class>_gNN_cNN.avi`` (or raw frames,
    ``rawframes/<class>/<video>/img_00001.jpg``) and ``ucfTrainTestlist``. Options are those of
    ``ActionData``.
    """

    video_folders = ("UCF-101", "UCF101", "videos", "rawframes")
    list_folders = ("ucfTrainTestlist", "annotations")

    def __init__(
        self, synthetic_root: str | Path = "data/synthetic/ucf101", **options: Any
    ) -> None:
        super().__init__(synthetic_root=synthetic_root, **options)
        self.settings = actions_settings(self.synthetic)

    def read_lists(self, folder: Path) -> ActionLists:
        lists = read_ucf_lists(folder, self.split)
        warn_of_folders(self.video_folder, folder / "classInd.txt", lists.classes)
        return lists

    def read_classes(self, folder: Path) -> tuple[str, ...]:
        return read_ucf_classes(folder)

    def write_embedded(self) -> None:
        write_ucf101(self.root, self.settings)

    @property
    def embedded_classes(self) -> tuple[str, ...]:
        return ACTIONS
