"""The task against arithmetic by hand: what a clip's loss and a video's score are made of."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from data_modules.video_data import HOST_KEYS
from flowfeat.heads.recognition import Recognition
from flowfeat.interfaces import FeatureNetwork, Output, TemporalModule
from flowfeat.key_frames.schedules import Fixed
from flowfeat.optimization import Optimization
from flowfeat.scores import read_scores
from flowfeat.tasks.recognition import RecognitionTask
from flowfeat.temporal.feature_flow import FeatureFlow
from flowfeat.temporal.per_frame import PerFrame

CLASSES = tuple(f"class {n}" for n in range(6))
T = 4


class Colours(FeatureNetwork):
    """The three channels of the frames, halved in size."""

    channels, strides = (3,), (2,)

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))

    def trunk(self, frames):
        return (self.gain * F.avg_pool2d(frames, 2),)


class Differences(TemporalModule):
    """Level 0 is the frame's own; level 1 its difference to the frame before, which the first
    frame of a video does not have; level 2 twice that."""

    def __init__(self):
        super().__init__()
        self.features = Colours()
        self.conv = nn.Conv2d(3, 3, 1)
        self.channels, self.strides = (3, 3, 3), (2, 2, 2)

    def step(self, frames, starts, state):
        (own,) = self.features(frames)
        known = ~starts if state is not None else torch.zeros_like(starts)
        change = self.conv(own - (own if state is None else state))
        valid = torch.ones(len(frames), 3, dtype=torch.bool)
        valid[:, 1:] = known[:, None]
        change = torch.where(known[:, None, None, None], change, torch.full_like(change, 1e6))
        return Output((own, change, 2 * change), frames, valid, torch.ones(len(frames)).bool()), own

    def training_keys(self, indices):
        return torch.ones(indices.shape, dtype=torch.bool)

    def forward(self, clip, is_key, targets, indices=None):
        state, outputs = None, []
        for t in range(clip.shape[1]):
            output, state = self.step(clip[:, t], torch.full((len(clip),), t == 0), state)
            outputs.append(output)
        stacked = [torch.stack(x, 1) for x in zip(*(o.features for o in outputs), strict=True)]
        rows = torch.arange(len(clip))[:, None]
        return Output(
            tuple(x[rows, targets].flatten(0, 1) for x in stacked),
            clip[rows, targets].flatten(0, 1),
            torch.stack([o.valid for o in outputs], 1)[rows, targets].flatten(0, 1),
            is_key.flatten(),
        )


def sgd(parameters):
    return torch.optim.SGD(parameters, 0.1)


def made(temporal=None, factors=None, dropout=0.0, **arguments):
    torch.manual_seed(0)
    temporal = temporal or Differences()
    head = Recognition(
        temporal.channels, temporal.strides, len(CLASSES), len(temporal.channels) - 1, dropout
    )
    for linear in (head.classifier, *head.motion):
        nn.init.normal_(linear.weight)
    optimization = Optimization(sgd, lambda step, total: 1.0, factors or {})
    task = RecognitionTask(temporal, head, CLASSES, optimization, **arguments)
    task.log = lambda *_, **__: None
    return task


def batch(names, seed, repeats=(), steps=T):
    draw = torch.Generator().manual_seed(seed)
    count = len(names)
    repeated = torch.zeros(count, steps, dtype=torch.bool)
    for row, first in repeats:
        repeated[row, first:] = True
    return {
        "frames": torch.rand(count, steps, 3, 8, 8, generator=draw),
        "sizes": torch.tensor([[8, 8]] * count),
        "scales": torch.ones(count, 2),
        "indices": torch.arange(steps).expand(count, steps),
        "targets": torch.arange(steps).expand(count, steps),
        "starts": torch.ones(count, dtype=torch.bool),
        "seeds": torch.arange(count) + 10 * seed,
        "snippets": list(names),
        "actions": torch.tensor([ord(name) % len(CLASSES) for name in names]),
        "repeats": repeated,
    }


def scores_by_hand(task, given, row, count):
    """Score one clip of ``count`` real steps: rows of numpy scores per level, None where none."""
    frames = given["frames"][row].numpy()[:count]
    colour = task.temporal.features.gain.item() * frames.mean((2, 3))  # (T, 3)
    motion = task.temporal.conv
    change = np.diff(colour, axis=0) @ motion.weight.detach().numpy()[:, :, 0, 0].T
    change += motion.bias.detach().numpy()
    levels = []
    for linear, x in zip(
        (task.head.classifier, *task.head.motion), (colour, change, 2 * change), strict=True
    ):
        scored = x @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()
        levels.append(scored.mean(0) if len(x) else None)
    return levels


def cross_entropy(scores, label):
    return np.log(np.exp(scores).sum()) - scores[label]


def loss_of(task, given):
    output = task.temporal(given["frames"], None or torch.ones(1, T).bool(), given["targets"])
    return task.losses(output, given)


def test_the_loss_is_that_of_the_average_over_real_steps():
    """Clip "b" repeats its last frame from step 2 on, "c" from step 1 on: no pair is left there."""
    task, given = made(), batch("abc", 1, repeats=[(1, 2), (2, 1)])
    losses = loss_of(task.train(), given)
    expected = np.zeros(3)
    for row, count in enumerate((4, 2, 1)):
        for level, scores in enumerate(scores_by_hand(task, given, row, count)):
            if scores is not None:
                expected[level] += cross_entropy(scores, int(given["actions"][row])) / 3
    found = [losses[f"level_{level}"].item() for level in range(3)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_averaging_comes_before_the_softmax():
    task, given = made(), batch("a", 1)
    task.eval()
    output = task.temporal(given["frames"], torch.ones(1, T).bool(), given["targets"])
    each = F.log_softmax(task.head(output.features, None)[0], 1)[:, given["actions"][0]]
    assert loss_of(task, given)["level_0"].item() != pytest.approx(-each.mean().item(), rel=1e-4)


def test_other_clips_of_the_batch_and_its_order_change_nothing():
    """Dropout too belongs to the clip."""
    task, given = made(dropout=0.5).train(), batch("ab", 2)
    alone = [loss_of(task, _row(given, row))["level_0"].item() for row in (0, 1)]
    assert loss_of(task, given)["level_0"].item() == pytest.approx(np.mean(alone), rel=1e-5)
    assert loss_of(task.eval(), given)["level_0"].item() != pytest.approx(np.mean(alone), rel=1e-3)


def _row(given, row):
    return {k: v[row : row + 1] for k, v in given.items()}


def test_stage_two_trains_the_added_levels_alone():
    task = made(factors={"features": 0, "head": 0}).train()
    given = batch("ab", 3)
    assert sorted(loss_of(task, given)) == ["level_1", "level_2"]
    assert set(task.parts()) == {"features", "conv", "head", "motion_head"}
    before = {name: value.clone() for name, value in task.named_parameters()}
    optimizer, _ = task.optimization.configure(task.parts(), 10)
    sum(loss_of(task, given).values()).backward()
    optimizer.step()
    changed = {n for n, v in task.named_parameters() if not torch.equal(v, before[n])}
    assert changed == {n for n in before if n.startswith(("temporal.conv", "head.motion"))}


class Videos(pl.LightningDataModule):
    def __init__(self, *batches):
        super().__init__()
        self.batches = batches

    def test_dataloader(self):
        return torch.utils.data.DataLoader(list(self.batches), batch_size=None)


def evaluated(task, folder, *batches):
    task.log = type(task).log.__get__(task)
    trainer = pl.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    return trainer.test(task, datamodule=Videos(*batches), verbose=False)[0]


def test_a_test_reports_the_fused_score_and_its_parts(tmp_path):
    first, second = batch("abcde", 4, repeats=[(3, 1)]), batch("fghij", 5, repeats=[(0, 3)])
    task = made()
    report = evaluated(task, tmp_path, first, second)
    counts = dict.fromkeys("abcdefghij", 4) | {"d": 1, "f": 3}
    right = {"accuracy": 0, "accuracy_features": 0, "accuracy_off": 0, "top5": 0}
    by_class = {}
    saved = read_scores(tmp_path / "scores.npz")
    for given in (first, second):
        for row, name in enumerate(given["snippets"]):
            label = int(given["actions"][row])
            own, middle, last = scores_by_hand(task, given, row, counts[name])
            fused = own if last is None else own + last
            right["accuracy"] += fused.argmax() == label
            right["accuracy_features"] += own.argmax() == label
            right["accuracy_off"] += last is not None and last.argmax() == label
            right["top5"] += label in np.argsort(fused)[-5:]
            by_class.setdefault(label, []).append(fused.argmax() == label)
            n = saved.names.index(name)
            assert saved.labels[n] == label
            nothing = np.full(len(CLASSES), np.nan)
            expected = [nothing if x is None else x for x in (own, middle, last)]
            np.testing.assert_allclose(saved.scores[n].numpy(), expected, rtol=1e-4, atol=1e-5)
    assert {k: report[k] for k in right} == pytest.approx({k: v / 10 for k, v in right.items()})
    mean = np.mean([np.mean(hits) for hits in by_class.values()])
    assert report["mean_class_accuracy"] == pytest.approx(mean)
    assert saved.classes == CLASSES
    assert saved.weights == (1.0, 0.0, 1.0)
    assert 0 < report["accuracy"] < 1  # or the counts would prove little


def test_weights_choose_what_is_fused(tmp_path):
    given = batch("abcdefgh", 6)
    task = made(score_weights=[0, 1, 0])
    report = evaluated(task, tmp_path, given)
    assert report["accuracy"] == report["accuracy_off"]
    middle = [scores_by_hand(task, given, row, T)[1].argmax() for row in range(8)]
    assert report["accuracy"] == pytest.approx(np.mean(middle == given["actions"].numpy()))


@pytest.mark.parametrize("crops", ["mean", "max"])
def test_entries_of_one_name_are_crops_of_one_video(tmp_path, crops):
    given = batch("aabbb", 7)
    task = made(PerFrame(Colours()), crops=crops)
    report = evaluated(task, tmp_path, given)
    assert set(report) == {"accuracy", "top5", "mean_class_accuracy"}
    saved = read_scores(tmp_path / "scores.npz")
    assert saved.names == ("a", "b")
    colour = given["frames"].numpy().mean((3, 4))  # (B, T, 3)
    linear = task.head.classifier
    steps = colour @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()
    for n, rows in enumerate(([0, 1], [2, 3, 4])):
        merged = steps[rows].max(0) if crops == "max" else steps[rows].mean(0)
        np.testing.assert_allclose(saved.scores[n, 0].numpy(), merged.mean(0), atol=1e-5)


def test_crops_in_two_batches_are_still_one_video(tmp_path):
    together, alone = batch("aab", 8), batch("a", 9)
    task = made(PerFrame(Colours()))
    evaluated(task, tmp_path / "two", together, alone)
    saved = read_scores(tmp_path / "two" / "scores.npz")
    colours = np.concatenate([x["frames"].numpy().mean((1, 3, 4)) for x in (together, alone)])
    linear = task.head.classifier
    expected = colours[[0, 1, 3]].mean(0) @ linear.weight.detach().numpy().T
    expected += linear.bias.detach().numpy()
    np.testing.assert_allclose(saved.scores[0, 0].numpy(), expected, atol=1e-5)


class Still(nn.Module):
    """No motion at all."""

    coarse_channels = 0

    def forward(self, current, key):
        from flowfeat.interfaces import Flow

        height, width = current.shape[-2] // 2, current.shape[-1] // 2
        return Flow(torch.zeros(len(current), 2, height, width), None)


def test_methods_with_key_frames_stream_the_clip(tmp_path):
    """Copied features of key frames 0 and 3 of 4: three quarters of the score are frame 0's."""
    given = batch("abc", 10)
    task = made(FeatureFlow(Colours(), Still(), Fixed(3)))
    report = evaluated(task, tmp_path, given)
    assert report["key_share"] == pytest.approx(0.5)
    colour = given["frames"].numpy().mean((3, 4))  # (B, T, 3)
    linear = task.head.classifier
    mixed = 0.75 * colour[:, 0] + 0.25 * colour[:, 3]
    expected = mixed @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()
    saved = read_scores(tmp_path / "scores.npz")
    np.testing.assert_allclose(saved.scores[:, 0].numpy(), expected, atol=1e-5)


def test_processes_gather_every_video_once(monkeypatch):
    """Two processes had "a" (a sampler that pads); each knows one of the others alone."""
    from flowfeat import scores as module

    theirs = {"a": (0, torch.tensor([[3.0, 1.0]]), 1), "z": (1, torch.tensor([[2.0, 6.0]]), 2)}
    fake = SimpleNamespace(
        is_available=lambda: True,
        is_initialized=lambda: True,
        get_world_size=lambda: 2,
        all_gather_object=lambda parts, mine: parts.__setitem__(slice(None), [mine, theirs]),
    )
    monkeypatch.setattr(module.torch, "distributed", fake)
    collected = module.Collected("mean")
    collected.add("a", 0, torch.tensor([[3.0, 1.0]]), 1)
    collected.add("m", 1, torch.tensor([[0.0, 1.0]]), 1)
    found = collected.gathered(("x", "y"), (1.0,))
    assert found.names == ("a", "m", "z")
    assert found.labels.tolist() == [0, 1, 1]
    assert found.scores[:, 0].tolist() == [[3, 1], [0, 1], [1, 3]]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"crops": "sum"}, "module.crops=sum: expected mean or max"),
        ({"score_weights": [1, float("nan"), 1]}, "expected 3 weights of at least 0"),
        ({"score_weights": [1, 1]}, r"module\.score_weights=\[1, 1\]: expected 3 weights"),
    ],
)
def test_what_cannot_be_is_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        made(**arguments)


def test_pairs_are_no_way_to_score_clips():
    with pytest.raises(ValueError, match=r"evaluation\.pairs_every: recognition scores whole"):
        made().truth(json.loads("{}"), 0)


def test_on_a_gpu_the_loss_mixes_no_devices():
    """A pretended GPU: shapes and devices without values, which steer what they may."""
    task = made(PerFrame(Colours()))
    with FakeTensorMode():
        with torch.device("cuda"):
            task.head = Recognition((3,), (2,), len(CLASSES), 0, dropout=0.0)
        steps = torch.zeros(2, T, dtype=torch.int64)
        given = {
            "targets": steps,  # with the other keys that steer, on the CPU
            "seeds": torch.zeros(2, dtype=torch.int64),
            "actions": torch.zeros(2, dtype=torch.int64, device="cuda"),
            "repeats": torch.zeros(2, T, dtype=torch.bool, device="cuda"),
        }
        assert {key for key in given if given[key].device.type == "cpu"} < set(HOST_KEYS)
        features = (torch.rand(2 * T, 3, 4, 4, device="cuda"),)
        valid = torch.ones(2 * T, 1, dtype=torch.bool, device="cuda")
        output = Output(features, torch.rand(2 * T, 3, 8, 8, device="cuda"), valid, valid.cpu())
        (loss,) = task.losses(output, given).values()
        assert loss.device.type == "cuda"
