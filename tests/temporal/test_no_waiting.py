"""The host waits for the device once a frame at most, and without a head never.

A step with a fixed schedule reads no value from the device: the meta device has none, so any such
read fails. What a whole stream would wait for is counted on a stand-in for a GPU.
"""

from contextlib import nullcontext

import pytest
import torch

from flowfeat.batches import StreamChunk
from flowfeat.key_frames.schedules import Fixed
from flowfeat.prediction import ModelClock, predict_stream
from flowfeat.results import on_host
from flowfeat.temporal.feature_flow import FeatureFlow
from tests.stand_in_gpu import GPU, StandInGPU, mark, moved, on_gpu
from tests.test_build import HEIGHT, KEYED, PAIRS, WIDTH, made, tiny, video


@pytest.mark.parametrize("staggered", [False, True])
def test_a_fixed_schedule_never_makes_the_host_wait(
    features, flow, staggered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # meta knows none
    method = FeatureFlow(features, flow, Fixed(interval=3)).to("meta").eval()
    state, seen = None, []
    for t in range(7):
        frames = torch.empty(2, 3, 32, 48, device="meta")
        starts = torch.tensor([t == 0, t == (2 if staggered else 0)]) | torch.tensor([t == 0] * 2)
        with torch.inference_mode():
            output, state = method.step(frames, starts, state)
        seen.append(output.is_key.tolist())
        assert output.features[0].device.type == "meta"
    expected = [[t % 3 == 0] * 2 for t in range(7)]
    if staggered:
        expected = [[t % 3 == 0, t == 0 or t % 3 == 2] for t in range(7)]
    assert seen == expected


def test_reading_from_the_meta_device_fails() -> None:
    """What the test above rests on."""
    with pytest.raises((RuntimeError, NotImplementedError)):
        bool(torch.ones(1, device="meta").any())


ASKING = ("clockwork_adaptive", "dff_learned_keys")
"""Methods whose schedule must know a value before it can go on: a wait of their own."""

ON_THE_HOST = ("sff", "move")
"""Methods whose flow is computed on the host by default, which gets two batches of frames."""


@pytest.mark.parametrize(
    ("task_name", "method"),
    [
        p.values
        for p in PAIRS
        if not p.marks and (p.values[0] != "ucf101" or p.values[1] in ("off", "dff", "tsm"))
    ],
)
def test_a_frame_waits_once_at_most(task_name, method):
    """Two streams, of which the second begins anew at step 2: its key frames fall elsewhere."""
    words = ["key_frames.interval=3"] if method not in ("fgfa",) else ["temporal.after=1"]
    words = words if method in KEYED or method == "fgfa" else []
    words += ["flow=correlation"] if method in ON_THE_HOST else []
    task = made(tiny(task_name, method, *words)).eval()
    moved(task)
    sizes = torch.tensor([[HEIGHT, WIDTH]] * 2)
    clips = torch.stack((video(), video().flip(0)), dim=1)
    # Of the two frames at a step, `move` detects on one and moves the boxes of the other.
    most = (task_name == "vid") * (1 + (method == "move")) + (method in ASKING)
    with torch.inference_mode(), StandInGPU() as gpu:
        stream, results = task.stream(), []
        for t in range(5):
            before = len(gpu.waits)
            frames, starts = mark(clips[t].clone()), torch.tensor([t == 0, t in (0, 2)])
            results += stream.push(frames, starts, sizes, t)
            assert len(gpu.waits) - before <= most, gpu.waits[before:]
        results += stream.finish()
    assert [result.tag for result in results] == [0, 1, 2, 3, 4]
    if task_name == "vid":
        assert gpu.waits  # the stand-in sees them
        assert all(on_gpu(found.boxes) for found in results[-1].predictions)


@pytest.mark.parametrize("task_name", ["vid", "cityscapes"])
def test_predicting_a_video_waits_once_in_the_model_and_once_behind_it(task_name):
    task = made(tiny(task_name, "dff", "key_frames.interval=3")).eval()
    moved(task)
    batch = {
        "frames": mark(video()[None].clone()),
        "starts": torch.tensor([True]),
        "indices": torch.arange(len(video()))[None],
        "scales": torch.ones(1, 2),
        "sizes": torch.tensor([[HEIGHT, WIDTH]]),
    }
    pictures = (video().permute(0, 2, 3, 1) * 255).byte().numpy()
    with torch.inference_mode(), StandInGPU() as gpu:
        clock, count = ModelClock(torch.device("cpu")), 0
        for frame in predict_stream(task, [StreamChunk(batch, pictures)], clock):
            count += task_name == "vid"
            assert len(gpu.waits) == count
            found = on_host(frame.predictions)
            count += 1
            assert len(gpu.waits) == count
            task.render(frame.picture, found, True, 0.3)
            task.describe(found, 0.0)
            assert len(gpu.waits) == count
    assert count == len(video()) * (2 if task_name == "vid" else 1)


def test_the_stand_in_sees_waits_and_mixed_devices():
    with StandInGPU() as gpu:
        here, there = torch.rand(3), torch.rand(3, device="cuda")
        assert (here.device, there.device) == (torch.device("cpu"), GPU)
        assert (there * 2)[1:].device == GPU
        (
            there.to("cuda"),
            there.float(),
            there.sum(),
            there.new_zeros(2),
            there[here.argmax().item()],
        )
        here.pin_memory().to(GPU, non_blocking=True)
        assert not gpu.waits
        for wait in (
            lambda: there.tolist(),
            lambda: bool(there.any()),
            lambda: there.cpu(),
            lambda: there[0].item(),
            lambda: there.nonzero(),
            lambda: there[there > 2],
            lambda: there[torch.tensor([0])],
            lambda: here.to(GPU),
            lambda: there.new_tensor([1.0]),
            lambda: torch.tensor([1.0], device=GPU),
            lambda: there.repeat_interleave(there.long()),
            lambda: there.unique(),
            lambda: float(there.sum()),
            lambda: there.numpy(),
        ):
            before = len(gpu.waits)
            wait()
            assert len(gpu.waits) == before + 1
        with pytest.raises(RuntimeError, match="expected all tensors to be on the same device"):
            here + there
