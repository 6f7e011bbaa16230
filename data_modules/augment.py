"""Augmentation: one albumentations draw for all frames of a clip and the truth of its targets.

This is the only file that knows albumentations (2.x, no longer maintained), so that it can be
replaced here.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_modules.options import AugmentOptions, check_crop_fits, checked_crop
from flowfeat.heads.segmentation import IGNORED


class Augmented(NamedTuple):
    """A clip after its draw."""

    frames: NDArray[np.uint8]  # (T, H, W, 3)
    boxes: NDArray[np.float32]  # (M, 4) xyxy, half-open
    kept: NDArray[np.int64]  # (M,) rows of the given boxes
    masks: NDArray[np.uint8]  # (S, H, W), label maps


@dataclass
class Augment(AugmentOptions):
    """Random changes of a clip; with all values 0 and no crop nothing changes.

    ``crop`` is the height and width in pixels of a part drawn uniformly; ``crop_on`` the
    probability that it is drawn around a pixel whose label is neither 0 nor ignored, if there is
    one: most parts of a large picture do not show a small object. ``flip`` is the probability of
    mirroring left and right; ``brightness``, ``contrast`` and ``saturation`` are the largest
    relative changes, ``hue`` the largest turn (0 .. 0.5).
    """

    crop: Sequence[int] | None = None
    crop_on: float = 0.0
    flip: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        for name, value in self._values().items():
            most = 0.5 if name == "hue" else 1.0
            if not 0 <= value <= most:
                raise ValueError(f"data.augment.{name}={value}: expected 0 .. {most}")
        self.crop = checked_crop(self.crop)
        if self.crop_on and self.crop is None:
            raise ValueError(f"data.augment.crop_on={self.crop_on}: expected data.augment.crop too")

    def __call__(
        self,
        frames: NDArray[np.uint8],
        boxes: NDArray[np.float32],
        seed: int,
        masks: NDArray[np.uint8] | None = None,
    ) -> Augmented:
        """Change frames (T, H, W, 3), boxes (N, 4) and masks (S, H, W) alike, as ``seed`` decides.

        Boxes that leave the picture wholly are left out; ``kept`` tells which ones stayed. Values
        of masks are moved, never mixed.

        Raises:
            ValueError: A crop larger than the picture, or aimed at labels where there are none.
        """
        height, width = frames.shape[1:3]
        if masks is None:
            masks = np.zeros((0, height, width), np.uint8)
        if self.crop is None and not any(self._values().values()):
            return Augmented(frames, boxes, np.arange(len(boxes)), masks)
        if self.crop is not None:
            check_crop_fits(self.crop, (height, width))
        if self.crop_on and not len(masks):
            raise ValueError(f"data.augment.crop_on={self.crop_on}: expected data with label maps")
        self._compose.set_random_seed(seed)
        drawn = self._compose(
            images=frames,
            bboxes=boxes.reshape(-1, 4),
            rows=np.arange(len(boxes)),
            **({"masks": masks} if len(masks) else {}),
        )
        changed = np.ascontiguousarray(drawn["images"])
        return Augmented(
            changed,
            np.asarray(drawn["bboxes"], np.float32).reshape(-1, 4),
            np.asarray(drawn["rows"], np.int64),
            np.asarray(drawn.get("masks", np.zeros((0, *changed.shape[1:3]))), np.uint8),
        )

    def _values(self) -> dict[str, float]:
        """Return every number that is a range, by its name."""
        names = [field.name for field in fields(self) if field.name != "crop"]
        return {name: float(getattr(self, name)) for name in names}

    @cached_property
    def _compose(self) -> Any:
        # Without this the import asks a server for its newest version.
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
        import albumentations  # takes three seconds: only runs that augment pay them

        colour = (self.brightness, self.contrast, self.saturation, self.hue)
        transforms: list[Any] = [albumentations.HorizontalFlip(p=self.flip)]
        if self.crop is not None:  # first: what is cut away need not be changed
            transforms.insert(0, albumentations.RandomCrop(self.crop[0], self.crop[1], p=1.0))
            if self.crop_on:  # leaves nothing for the other to cut
                aimed = albumentations.CropNonEmptyMaskIfExists(
                    *self.crop, ignore_values=[0, IGNORED], p=self.crop_on
                )
                transforms.insert(0, aimed)
        if any(colour):
            b, c, s, h = colour
            jitter = albumentations.ColorJitter(
                brightness=(1 - b, 1 + b),
                contrast=(1 - c, 1 + c),
                saturation=(1 - s, 1 + s),
                hue=(-h, h),
                p=1.0,
            )
            transforms.append(jitter)
        boxes = albumentations.BboxParams(format="pascal_voc", label_fields=["rows"])
        return albumentations.Compose(transforms, bbox_params=boxes)
