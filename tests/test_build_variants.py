"""Schedules, split points and pyramids by the names in the configs; no data needed."""

from typing import Any

import pytest
import torch
from torch import Tensor

from flowfeat.build import build_task
from flowfeat.cli import compose_config
from flowfeat.tasks.video_task import VideoTask

HEIGHT, WIDTH, LENGTH = 48, 64, 8
CLASSES = ("one", "two", "three")
TASKS = ("vid", "cityscapes")


def made(task: str, *words: str) -> VideoTask:
    config = compose_config(["features.model=test_resnet", f"task={task}", "method=dff", *words])
    torch.manual_seed(0)
    built = build_task(config, CLASSES)
    built.log = lambda *_, **__: None
    return built


def clips(length: int = LENGTH) -> Tensor:
    """Return two streams (2, T, 3, H, W) of noise."""
    return torch.rand(2, length, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))


def batch() -> Any:
    """Return what training gets: pairs (0, 1), and a key frame alone."""
    boxes = {
        "boxes": [torch.tensor([[8.0, 8.0, 40.0, 36.0]])] * 2,
        "labels": [torch.tensor([1])] * 2,
    }
    return {
        "frames": clips(2),
        "sizes": torch.tensor([[HEIGHT, WIDTH]] * 2),
        "indices": torch.tensor([[3, 5], [4, 4]]),
        "targets": torch.tensor([[1], [1]]),
        "seeds": torch.arange(2),
        "label_maps": [torch.zeros(HEIGHT, WIDTH, dtype=torch.uint8)] * 2,
        **boxes,
    }


def streamed(task: VideoTask) -> list[Any]:
    passing, sizes = task.eval().stream(), torch.tensor([[HEIGHT, WIDTH]] * 2)
    results = []
    for t in range(LENGTH):
        results += passing.push(clips()[:, t], torch.tensor([t == 0] * 2), sizes, t)
    return results


@pytest.mark.parametrize("task_name", TASKS)
@pytest.mark.parametrize("schedule", ["photometric", "flow_magnitude", "learned"])
def test_schedules_train_and_stream(task_name, schedule):
    task = made(task_name, f"key_frames={schedule}", "key_frames.interval=4").train()
    task.training_step(batch(), 0).backward()
    learns = [
        p.grad.abs().sum() > 0 for p in task.parts().get("schedule", torch.nn.Module()).parameters()
    ]
    assert len(learns) == (4 if schedule == "learned" else 0)
    assert all(learns)
    assert any(name.startswith("temporal.schedule.") for name in task.state_dict()) == bool(learns)
    for threshold, expected in ((1e9, [0, 4]), (0.0, list(range(LENGTH)))):
        task = made(
            task_name,
            f"key_frames={schedule}",
            "key_frames.interval=4",
            f"key_frames.threshold={threshold}",
        )
        if schedule == "flow_magnitude":
            torch.nn.init.ones_(task.temporal.flow.correct.bias)
        found = [result.is_key.all().item() for result in streamed(task)]
        assert [t for t, key in enumerate(found) if key] == expected


def test_an_unsuited_flow_is_named():
    with pytest.raises(ValueError, match="key_frames=learned: this flow has no coarse features"):
        made("vid", "key_frames=learned", "flow=dis")


@pytest.mark.parametrize("task_name", TASKS)
@pytest.mark.parametrize("split", ["0", "1", "2", "layer3"])
def test_at_l_1_every_split_finds_what_per_frame_finds(task_name, split):
    plain = made(task_name, "key_frames.interval=1")
    task = made(task_name, "key_frames.interval=1", f"features.split={split}")
    task.temporal.features.load_state_dict(plain.temporal.features.state_dict())
    task.head.load_state_dict(plain.head.state_dict())
    for ours, truth in zip(streamed(task), streamed(plain), strict=True):
        for a, b in zip(ours.predictions, truth.predictions, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("task_name", TASKS)
@pytest.mark.parametrize("split", ["0", "2", "layer3"])
def test_every_split_trains_every_part(task_name, split):
    task = made(task_name, f"features.split={split}").train()
    task.training_step(batch(), 0).backward()
    for name, part in task.parts().items():
        grads = [p.grad for p in part.parameters() if p.requires_grad]
        assert any(g is not None and g.abs().sum() > 0 for g in grads), name
    task.optimization.configure(task.parts(), total=10)  # no parameter in two parts
    assert len(streamed(task)) == LENGTH


@pytest.mark.parametrize("task_name", TASKS)
def test_a_pyramid_is_a_feature_network(task_name):
    task = made(task_name, "features=resnet50_fpn", "features.width=8", "features.norm=group")
    assert task.temporal.strides == (32, 16, 8)
    task.train().training_step(batch(), 0).backward()
    assert len(streamed(task)) == LENGTH


@pytest.mark.parametrize(("interval", "share"), [(1, 1.0), (4, 0.25), (5, 0.25), (8, 0.125)])
def test_the_share_of_key_frames_is_reported(interval, share):
    task = made("cityscapes", f"key_frames.interval={interval}").eval()
    logged: dict[str, float] = {}
    task.log = lambda name, value, **_: logged.update({name: float(value)})
    for _ in range(2):  # passes do not add up
        task.on_test_epoch_start()
        task.test_step(
            {
                "frames": clips(),
                "starts": torch.tensor([True, True]),
                "sizes": torch.tensor([[HEIGHT, WIDTH]] * 2),
                "targets": torch.tensor([[0], [0]]),
                "label_maps": [torch.zeros(HEIGHT, WIDTH, dtype=torch.uint8)] * 2,
            },
            0,
        )
        task.on_test_epoch_end()
        assert logged["key_share"] == share
    assert not task.is_score("key_share")


@pytest.mark.parametrize(("words", "reach"), [((), 9), (("before", "after"), 10)])
def test_fgfas_window_is_the_released_one_or_the_texts(words, reach):
    """The released settings aggregate 9 frames on either side, the paper's text 10."""
    wider = (f"temporal.{name}=10" for name in words)
    config = compose_config(["features.model=test_resnet", "method=fgfa", *wider])
    assert build_task(config, CLASSES).temporal.delay == reach
    assert (config.clip.before, config.clip.after) == (reach, reach)
