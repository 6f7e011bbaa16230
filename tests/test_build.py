"""Every task with every method: composes, builds, trains a step and streams; no data needed."""

from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor

from flowfeat.build import build_data, build_task
from flowfeat.cli import CONFIGS, compose_config
from flowfeat.start_from import untrained
from flowfeat.tasks.video_task import VideoTask
from flowfeat.trust import build

HEIGHT, WIDTH, LENGTH = 48, 64, 8
CLASSES = ("one", "two", "three")


def leaves(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def objects(count: int) -> dict[str, Any]:
    box = torch.tensor([[8.0, 8.0, 40.0, 36.0]])
    label, track = torch.tensor([1]), torch.tensor([7])
    return {"boxes": [box] * count, "labels": [label] * count, "tracks": [track] * count}


def maps(count: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    shape = (count, HEIGHT, WIDTH)
    return {"label_maps": list(torch.randint(0, 3, shape, generator=generator).byte())}


def actions(count: int) -> dict[str, Any]:
    repeats = torch.zeros(2, count // 2, dtype=torch.bool)  # every step of two clips is a target
    return {"actions": torch.tensor([0, 2]), "repeats": repeats}


def clean(count: int) -> dict[str, Any]:
    return {"clean": list(torch.rand(count, 3, HEIGHT, WIDTH))}


TRUTHS = {
    "vid": objects,
    "cityscapes": maps,
    "ucf101": actions,
    "hmdb51": actions,
    "vimeo90k": clean,
}
"""What a batch of the task holds beside frames, for so many targets."""

METHODS = [name for name in leaves("method") if name != "flow"]
NO_KEYS = ("per_frame", "fgfa", "off", "off_ms", "off_hypercolumn", "tsm")
"""Methods that run N_feat on every frame."""

PLACELESS = ("move", "dff_learned_keys")
"""Methods that move results or compare them, which a clip's scores cannot."""

RESTORING = ("per_frame", "fgfa", "off", "off_hypercolumn")
"""What serves a task whose results are pictures: no key frames, no ResNet."""

IMPOSSIBLE = {
    "vid": ("off_hypercolumn",),  # nothing but OFF is merged
    "cityscapes": ("off_hypercolumn",),
    "ucf101": (*PLACELESS, "off_ms"),  # off has several scales there
    "hmdb51": (*PLACELESS, "off_ms"),
    "vimeo90k": tuple(name for name in METHODS if name not in RESTORING),
}
SLOW = ("hmdb51",)
"""Tasks like another one but for their data."""

PAIRS = [
    pytest.param(t, m, marks=[pytest.mark.slow] if t in SLOW else [])
    for t in TRUTHS
    for m in METHODS
    if m not in IMPOSSIBLE[t]
]
KEYED = [name for name in METHODS if name not in NO_KEYS]
WORDS = dict.fromkeys(("ucf101", "hmdb51"), ("clip=consistent_interval_small",))
"""What a method that samples around labelled frames is to be told in addition."""


def tiny(task: str, method: str, *words: str) -> DictConfig:
    changes = [f"task={task}", f"method={method}"]
    if task != "vimeo90k":  # its features are a few convolutions
        changes.append("features.model=test_resnet")
    changes += [*WORDS.get(task, ()), *words]
    return compose_config(changes)


def video() -> Tensor:
    """Return frames (LENGTH, 3, H, W) of a pan over a smooth texture."""
    noise = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    wide = torch.nn.functional.interpolate(noise, (HEIGHT, WIDTH + 2 * LENGTH), mode="bicubic")
    return torch.stack([wide[0, ..., 2 * t : 2 * t + WIDTH] for t in range(LENGTH)]).clamp(0, 1)


def batch(config: DictConfig) -> Any:
    """Return what a data module would give for two clips, drawn by the method's own sampler."""
    sampler, rng = build(config.clip), np.random.default_rng(0)
    clips = [sampler(LENGTH, labelled, rng) for labelled in (LENGTH - 2, LENGTH // 2)]
    indices, targets = (torch.tensor(part) for part in zip(*clips, strict=True))
    return {
        "frames": video()[indices],
        "sizes": torch.tensor([[HEIGHT, WIDTH]] * 2),
        "scales": torch.ones(2, 2),
        "indices": indices,
        "targets": targets,
        "starts": torch.tensor([False, False]),
        "seeds": torch.arange(2),
        "snippets": ["a", "b"],
        **TRUTHS[config.task](targets.numel()),
    }


def made(config: DictConfig) -> VideoTask:
    torch.manual_seed(0)
    task = build_task(config, CLASSES)
    task.log = lambda *_, **__: None
    return task


def streamed(task: VideoTask) -> list[Any]:
    """Stream the video, two at once; return the results' tags with their predictions."""
    passing, results = task.eval().stream(), []
    sizes = torch.tensor([[HEIGHT, WIDTH]] * 2)
    clips = torch.stack((video(), video().flip(0)), dim=1)
    for t, frames in enumerate(clips):
        results += passing.push(frames, torch.tensor([t == 0] * 2), sizes, t)
    return results + passing.finish()


def test_every_task_is_tested():
    missing = set(leaves("task")) - set(TRUTHS) - {"flying_chairs"}
    assert not missing, f"say in TRUTHS what a batch of {missing} holds"


@pytest.mark.parametrize(("task_name", "method"), PAIRS)
def test_every_pair_trains_and_streams(task_name, method):
    config = tiny(task_name, method)
    assert (config.task, config.method) == (task_name, method)
    task = made(config).train()
    before = {name: value.clone() for name, value in task.named_parameters()}
    loss = task.training_step(batch(config), 0)
    assert torch.isfinite(loss)
    if not untrained(task):
        optimizer, _ = task.optimization.configure(task.parts(), total=10)
        loss.backward()
        optimizer.step()
        names = {value: name for name, value in task.named_parameters()}
        for part, module in task.parts().items():
            learning = [names[p] for p in module.parameters() if p.requires_grad]
            after = dict(task.named_parameters())
            assert not learning or any(not torch.equal(before[n], after[n]) for n in learning), part
    for name, value in task.named_parameters():
        if not value.requires_grad:
            assert torch.equal(value, before[name]), name

    results = streamed(task)
    assert [result.tag for result in results] == list(range(LENGTH))
    assert all(len(result.predictions) == 2 for result in results)
    assert (task.temporal.key_frames is None) == (method in NO_KEYS)
    if method in NO_KEYS:
        assert all(result.is_key.all() for result in results)


@pytest.mark.parametrize("flow", [name for name in leaves("flow") if name != "none"])
def test_flow_alone_trains_without_a_temporal_module(flow):
    config = compose_config(["task=flying_chairs", "method=flow", f"flow={flow}"])
    if "updates" in config.flow:
        config.flow.updates = 1
    torch.manual_seed(0)
    task = build_task(config, ()).train()
    task.log = lambda *_, **__: None
    assert not any("scale" in name for name in task.state_dict())
    if untrained(task):
        return
    current, key = video()[:2].split(1)
    known = torch.ones(1, HEIGHT, WIDTH, dtype=torch.bool)
    pair = {"current": current, "key": key, "flow": torch.ones(1, 2, HEIGHT, WIDTH), "valid": known}
    task.training_step(pair, 0).backward()
    assert all(p.grad is not None for p in task.parameters())


@pytest.mark.parametrize(
    ("task", "method", "choices"),
    [
        ("vid", "flow", "clockwork, .*dff, .*per_frame"),
        ("cityscapes", "flow", "clockwork, .*dff, .*per_frame"),
        ("flying_chairs", "dff", "flow$"),
        ("flying_chairs", "per_frame", "flow$"),
    ],
)
def test_impossible_pairs_name_the_choices(task, method, choices):
    config = compose_config([f"task={task}", f"method={method}"])
    said = f"^method={method}: impossible for task {task}, expected one of {choices}"
    for building in (build_data, lambda config: build_task(config, CLASSES)):
        with pytest.raises(ValueError, match=said) as refusal:
            building(config)
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("words", "run", "verb"),
    [
        (["move"], lambda task, config: streamed(task), "move"),
        (["dff", "key_frames=learned"], lambda task, c: task.training_step(batch(c), 0), "compare"),
    ],
)
def test_what_needs_a_place_says_that_scores_have_none(words, run, verb):
    """`move` would move results, a learned schedule compares where they are."""
    config = tiny("ucf101", *words)
    with pytest.raises(ValueError, match=f"cannot {verb} StepScores, only .*label maps"):
        run(made(config).train(), config)


@pytest.fixture(scope="module", params=[t for t in TRUTHS if set(KEYED) - set(IMPOSSIBLE[t])])
def per_frame(request) -> tuple[str, VideoTask, list[Any]]:
    """Return a task's name, its per-frame form and what that finds."""
    task = made(tiny(request.param, "per_frame"))
    return request.param, task, streamed(task)


@pytest.mark.parametrize("method", KEYED)
def test_at_l_1_every_method_is_per_frame(per_frame, method):
    """With the weights of per_frame, a method whose frames are all key frames finds the same."""
    task_name, frame, found = per_frame
    if method in IMPOSSIBLE[task_name]:
        pytest.skip(f"{method} is impossible for {task_name}")
    task = made(tiny(task_name, method, "key_frames.interval=1"))
    task.temporal.features.load_state_dict(frame.temporal.features.state_dict())
    task.head.load_state_dict(frame.head.state_dict())
    for ours, truth in zip(streamed(task), found, strict=True):
        for a, b in zip(ours.predictions, truth.predictions, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("flow", [name for name in leaves("flow") if name != "none"])
def test_every_flow_plugs_in(flow):
    config = tiny("vid", "dff", f"flow={flow}", "key_frames.interval=4")
    if "updates" in config.flow:
        config.flow.updates = 1
    task = made(config).train()
    task.training_step(batch(config), 0).backward()
    results = streamed(task)
    assert [result.is_key.all().item() for result in results] == [t % 4 == 0 for t in range(LENGTH)]
