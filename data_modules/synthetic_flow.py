"""Pairs of synthetic frames with their true flow, for a short warm-up of the flow network."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypedDict

import cv2
import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data_modules.sampling import EpochSampler, share
from data_modules.synthetic.scenes import Scene, SceneSettings, scene_settings

_TRAIN, _VAL = 10, 11  # seeds that no writer of snippets uses


class FlowPair(TypedDict):
    """A pair, or a batch of pairs with a leading B."""

    current: Tensor  # (3, H, W) f32, RGB in [0, 1]
    key: Tensor  # (3, H, W) f32, RGB in [0, 1]
    flow: Tensor  # (2, H, W) f32, (dx, dy) in pixels, current -> key
    valid: Tensor  # (H, W) bool: the point can be seen in the key frame


class FlowPairs(Dataset[FlowPair]):
    """Pairs rendered on the fly: item (epoch, index) depends on (seed, epoch, index) alone.

    The distance is uniform in 0 .. ``max_offset``, in either direction of time.

    Args:
        settings: What the scenes look like.
        pairs: Pairs per epoch.
        max_offset: Largest distance between the two frames.
        seed: Two integers that set these pairs apart from others.
        moves: Whether every epoch has other pairs.
    """

    def __init__(
        self,
        settings: SceneSettings,
        pairs: int,
        max_offset: int,
        seed: tuple[int, int],
        moves: bool = True,
    ) -> None:
        self.settings, self.pairs, self.max_offset = settings, pairs, max_offset
        self.seed, self.moves = seed, moves

    def __len__(self) -> int:
        return self.pairs

    def __getitem__(self, item: tuple[int, int]) -> FlowPair:
        epoch, index = item
        seed = (*self.seed, epoch if self.moves else 0, index)
        rng = np.random.default_rng(seed)
        times = [int(rng.integers(self.settings.length)), 0]
        times[1] = times[0] + int(rng.integers(self.max_offset, endpoint=True))
        key, current = times if rng.random() < 0.5 else times[::-1]
        scene = Scene(seed, self.settings)
        key_image, current_image = scene.render(key).image, scene.render(current).image
        flow, valid = scene.flow(current, key)
        return {
            "current": _tensor(current_image),
            "key": _tensor(key_image),
            "flow": torch.from_numpy(flow).permute(2, 0, 1).contiguous(),
            "valid": torch.from_numpy(valid),
        }


def _tensor(image: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32) / np.float32(255))


def _one_thread(_: int) -> None:
    cv2.setNumThreads(0)  # OpenCV's own threads do not survive the fork into a worker


class SyntheticFlow(pl.LightningDataModule):
    """Flow pairs from no disk; the trainer must run with ``use_distributed_sampler=False``.

    Args:
        size: Height and width in pixels, instead of the scene's own.
        pairs_per_epoch: A multiple of ``batch_size``; every epoch has new pairs.
        batch_size: Pairs per step over all devices.
        max_offset: Largest distance between the two frames, >= 0.
        num_workers: Rendering processes per device; 0 renders in the training process.
        seed: Non-negative.
        val_pairs: Held-out pairs, a multiple of ``batch_size``, the same in every epoch.
        scene: The kind of scenes, or the values that differ from those of ``SceneSettings``.

    Raises:
        ValueError: A number is out of range, or the devices do not divide ``batch_size``.
    """

    def __init__(
        self,
        size: tuple[int, int] | None = None,
        pairs_per_epoch: int = 800,
        batch_size: int = 8,
        max_offset: int = 9,
        num_workers: int = 1,
        seed: int = 0,
        val_pairs: int = 32,
        scene: SceneSettings | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("pairs_per_epoch", pairs_per_epoch), ("val_pairs", val_pairs)):
            if batch_size < 1 or value < batch_size or value % batch_size:
                raise ValueError(
                    f"{name}: expected a multiple of batch_size {batch_size}, found {value}"
                )
        for name, value in (
            ("max_offset", max_offset),
            ("seed", seed),
            ("num_workers", num_workers),
        ):
            if value < 0:
                raise ValueError(f"{name}: expected >= 0, found {value}")
        if not isinstance(scene, SceneSettings):
            scene = scene_settings(scene or {})
        self.settings = scene if size is None else replace(scene, size=size)
        self.pairs_per_epoch, self.val_pairs = pairs_per_epoch, val_pairs
        self.batch_size, self.max_offset = batch_size, max_offset
        self.num_workers, self.seed = num_workers, seed

    def train_dataloader(self) -> DataLoader[FlowPair]:
        """Return new pairs in every epoch."""
        return self._loader(self.pairs_per_epoch, _TRAIN)

    def val_dataloader(self) -> DataLoader[FlowPair]:
        """Return the held-out pairs."""
        return self._loader(self.val_pairs, _VAL)

    def _loader(self, pairs: int, split: int) -> DataLoader[FlowPair]:
        rank, ranks = 0, 1
        if self.trainer is not None:
            rank, ranks = self.trainer.global_rank, self.trainer.world_size
        return DataLoader(
            FlowPairs(self.settings, pairs, self.max_offset, (self.seed, split), split == _TRAIN),
            batch_size=share(self.batch_size, ranks),
            sampler=EpochSampler(lambda _: np.arange(pairs), self.batch_size, rank, ranks),
            num_workers=self.num_workers,
            worker_init_fn=_one_thread,
            persistent_workers=self.num_workers > 0,
        )
