"""The labels of Cityscapes: official ids, the 19 evaluated classes, and label maps from disk."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from flowfeat.heads.segmentation import IGNORED

LabelMap = NDArray[np.uint8]
"""(H, W) of trainIds: 0 .. 18 by ``CLASSES``, or 255."""

EVALUATED: tuple[tuple[str, int], ...] = (
    ("road", 7),
    ("sidewalk", 8),
    ("building", 11),
    ("wall", 12),
    ("fence", 13),
    ("pole", 17),
    ("traffic light", 19),
    ("traffic sign", 20),
    ("vegetation", 21),
    ("terrain", 22),
    ("sky", 23),
    ("person", 24),
    ("rider", 25),
    ("car", 26),
    ("truck", 27),
    ("bus", 28),
    ("train", 31),
    ("motorcycle", 32),
    ("bicycle", 33),
)
"""Name and labelId by trainId; the other ids (void, parking, bridge, trailer, ...) are ignored."""

CLASSES = tuple(name for name, _ in EVALUATED)
LABEL_IDS = dict(EVALUATED)
"""Id by name."""

LAST_ID = 33

_UNKNOWN = 254  # of the table below; no trainId


def _table() -> NDArray[np.uint8]:
    table = np.full(256, _UNKNOWN, np.uint8)
    table[: LAST_ID + 1] = IGNORED
    for train_id, (_, label_id) in enumerate(EVALUATED):
        table[label_id] = train_id
    return table


_TRAIN_IDS = _table()


def to_train_ids(label_ids: NDArray[np.uint8]) -> LabelMap:
    """Turn labelIds (H, W) into trainIds.

    The files ``*_labelTrainIds.png`` are not shipped with the dataset and never read.

    Raises:
        ValueError: Ids that Cityscapes does not know.
    """
    train_ids = _TRAIN_IDS[label_ids]
    if (train_ids == _UNKNOWN).any():
        unknown = np.unique(label_ids[train_ids == _UNKNOWN]).tolist()
        raise ValueError(f"unknown label ids {unknown}: expected 0 .. {LAST_ID}")
    return train_ids


def read_label_map(path: Path, size: tuple[int, int]) -> LabelMap:
    """Read the labelIds of a picture as trainIds.

    Args:
        path: ``*_gtFine_labelIds.png``.
        size: Height and width of the picture in pixels.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not a grey picture of 8 bits, of another size, or with unknown ids.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such label map")
    labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if labels is None or labels.ndim != 2 or labels.dtype != np.uint8:
        found = "something else" if labels is None else f"{labels.shape} {labels.dtype}"
        raise ValueError(f"{path}: expected a PNG of labelIds, (H, W) uint8, found {found}")
    if labels.shape != size:
        raise ValueError(
            f"{path}: label map of {labels.shape[0]} x {labels.shape[1]}: "
            f"expected {size[0]} x {size[1]}, the size of its picture"
        )
    try:
        return to_train_ids(np.asarray(labels, np.uint8))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
