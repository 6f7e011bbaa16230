"""Try out a composed config: one training step and a short stream on random frames, no data."""

import warnings
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from flowfeat.build import build_data, build_task
from flowfeat.tasks.video_task import VideoTask
from flowfeat.trust import build

SIZE = (48, 64)  # of the frames
LENGTH = 4  # of the video
CLASSES = ("one", "two", "three")
BACKBONE = "test_resnet"  # timm's smallest


def shrink(config: DictConfig) -> DictConfig:
    """Return the config with the smallest backbone in the place of any other one of timm's."""
    config = config.copy()
    if "model" in config.features:
        kept = {k: v for k, v in config.features.items() if k != "channels"}  # of the other one
        config.features = {**kept, "model": BACKBONE, "pretrained": False, "checkpoint_path": None}
    return config


def try_out(config: DictConfig) -> None:
    """Build data and model, train a step and stream a few frames.

    Raises:
        ValueError: What the parts themselves refuse, each in one line.
    """
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", message=".*self.log.*")  # nobody listens
        torch.manual_seed(0)
        build_data(config)  # reads nothing yet
        task = build_task(config, CLASSES).train()
        video = torch.rand(LENGTH, 3, *SIZE)
        is_video_task = isinstance(task, VideoTask)
        batch = video_batch(config, video) if is_video_task else flow_batch(video)
        loss = task.training_step(batch, 0)
        if isinstance(loss, Tensor) and loss.requires_grad:
            loss.backward()
        if isinstance(task, VideoTask):
            stream = task.eval().stream()
            for t, frame in enumerate(video):
                stream.push(frame[None], torch.tensor([t == 0]), torch.tensor([SIZE]), t)
            stream.finish()


def video_batch(config: DictConfig, video: Tensor) -> dict[str, Any]:
    """Return a batch of one clip, as the config's sampler draws it, with the truth of every task.

    Args:
        config: With a clip sampler.
        video: (T, 3, H, W).
    """
    sampler = build(config.clip, trust=config.trust)
    indices, targets = sampler(len(video), len(video) - 1, np.random.default_rng(0))
    count, (height, width) = len(targets), video.shape[-2:]
    frames = video[indices]
    return {
        "frames": frames[None],
        "sizes": torch.tensor([[height, width]]),
        "scales": torch.ones(1, 2),
        "indices": torch.tensor([indices]),
        "targets": torch.tensor([targets]),
        "starts": torch.tensor([False]),
        "seeds": torch.tensor([0]),
        "snippets": ["random"],
        "boxes": [torch.tensor([[8.0, 8.0, 40.0, 36.0]])] * count,
        "labels": [torch.tensor([1])] * count,
        "tracks": [torch.tensor([7])] * count,
        "label_maps": [torch.ones(height, width, dtype=torch.uint8)] * count,
        "actions": torch.tensor([1]),
        "repeats": torch.zeros(1, len(indices), dtype=torch.bool),
        "clean": list(frames[targets]),
    }


def flow_batch(video: Tensor) -> dict[str, Tensor]:
    """Return a batch of one pair of frames for flow networks, with some flow."""
    current, key = video[:2].split(1)
    size = video.shape[-2:]
    known = torch.ones(1, *size, dtype=torch.bool)
    return {"current": current, "key": key, "flow": torch.ones(1, 2, *size), "valid": known}
