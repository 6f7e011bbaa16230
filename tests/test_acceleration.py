"""Every switch leaves the results equal within its tolerance, and says what it cannot do."""

import copy

import pytest
import torch

from flowfeat import acceleration
from flowfeat.acceleration import Acceleration
from flowfeat.build import build_task
from flowfeat.cli import compose_config
from flowfeat.flow.opencv_flow import DIS
from flowfeat.profile import build_random
from flowfeat.speed import part_flops
from flowfeat.streaming import Stream, steps_of
from flowfeat.tasks.video_task import VideoTask
from flowfeat.trust import build

SIZE = (32, 48)
CPU = torch.device("cpu")
SMALL = ["task=cityscapes", "method=dff", "flow=flownet_quarter", "profile.num_classes=4"]
SMALL += ["features=resnet18", "+features.model=test_resnet"]


@pytest.fixture(scope="module")
def task() -> VideoTask:
    torch.manual_seed(0)
    overrides = [o.replace("+features.model", "features.model") for o in SMALL]
    return build_random(compose_config(overrides))


def maps(task: VideoTask, running: Acceleration) -> torch.Tensor:
    """Return the head's raw maps of a key frame and two others (3, ...)."""
    frames = torch.rand(1, 3, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    running.prepare(task, CPU)
    state, raw = None, []
    with running.at_work(frames.device):
        for _, step, starts in steps_of(frames, torch.tensor([True])):
            output, state = task.temporal.step(step, starts, state)
            raw.append(task.head(output.features, output.frames).float().clone())
    return torch.cat(raw)


@pytest.mark.parametrize(
    ("switches", "tolerance"),
    [
        ({"inference_mode": False}, 0.0),
        ({"channels_last": True}, 1e-4),
        ({"autocast": True}, 5e-2),  # bfloat16 has 8 bits, and there are two networks in a row
        ({"compile": ("key", "non_key"), "backend": "aot_eager"}, 1e-4),
    ],
)
def test_a_switch_keeps_the_results(
    task: VideoTask, switches: dict[str, object], tolerance: float
) -> None:
    expected = maps(copy.deepcopy(task), Acceleration())
    found = maps(copy.deepcopy(task), Acceleration(**switches))  # type: ignore[arg-type]
    assert expected.std() > 0
    torch.testing.assert_close(
        found / expected.std(), expected / expected.std(), rtol=0, atol=tolerance
    )


def test_switches_really_switch(task: VideoTask) -> None:
    other = Acceleration(channels_last=True, compile=("key", "non_key"), backend="eager")
    changed = other.prepare(copy.deepcopy(task), CPU)
    weight = next(p for p in changed.parameters() if p.ndim == 4 and min(p.shape) > 1)
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()
    assert changed.state_dict().keys() == task.state_dict().keys()
    with Acceleration(autocast=True).at_work(torch.device("cpu")):
        assert torch.is_inference_mode_enabled()
        assert torch.is_autocast_enabled("cpu")
    with Acceleration(inference_mode=False).at_work(torch.device("cpu")):
        assert not torch.is_inference_mode_enabled()
        assert not torch.is_grad_enabled()


def test_compiled_paths_are_the_ones_that_run(task: VideoTask) -> None:
    ran: list[str] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        return lambda *given: (ran.append("compiled"), graph.forward(*given))[1]

    def stream(running: Acceleration, count: int) -> int:
        torch.compiler.reset()
        ran.clear()
        changed = running.prepare(copy.deepcopy(task), CPU)
        on = Stream(changed.temporal, changed.head)
        with running.at_work(torch.device("cpu")):
            for t in range(count):
                on.push(torch.rand(1, 3, *SIZE), torch.tensor([t == 0]), torch.tensor([SIZE]), t)
        return len(ran)

    key = Acceleration(compile=("key",), backend=backend)  # type: ignore[arg-type]
    assert stream(key, 1) == stream(key, 3) > 0  # N_feat runs on the first frame alone
    non_key = Acceleration(compile=("non_key",), backend=backend)  # type: ignore[arg-type]
    assert stream(non_key, 3) > stream(non_key, 1) > 0  # the head, and then the flow network too


def test_another_size_of_frames_does_not_compile_again(
    task: VideoTask, caplog: pytest.LogCaptureFixture
) -> None:
    """The head on maps of other sizes and numbers; torch treats a single row apart."""
    caplog.set_level("INFO")
    torch.compiler.reset()
    plain = copy.deepcopy(task.head)
    running = Acceleration(compile=("non_key",), backend="eager")
    changed = running.prepare(copy.deepcopy(task), CPU).head
    said = []
    for rows, height, width in ((2, 4, 6), (2, 8, 6), (3, 5, 11), (1, 4, 6), (1, 6, 4)):
        maps = torch.rand(rows, task.temporal.channels[-1], height, width)
        frames = torch.rand(rows, 3, 8 * height, 8 * width)
        with torch.inference_mode():
            torch.testing.assert_close(changed((maps,), frames), plain((maps,), frames))
        said.append([record.getMessage() for record in caplog.records])
        caplog.clear()
    assert [len(lines) for lines in said] == [0, 0, 0, 1, 0]
    (line,) = said[3]
    assert line.startswith("acceleration.compile: compiled Segmentation.forward again, for 1 x ")


def test_operations_of_compiled_paths_are_counted_all_the_same(task: VideoTask) -> None:
    clip = torch.rand(1, 3, 3, *SIZE), torch.tensor([SIZE])
    expected = part_flops(task.temporal, task.head, *clip).costs
    compiled = Acceleration(compile=("key", "non_key"), backend="aot_eager")
    changed = compiled.prepare(copy.deepcopy(task), CPU)
    assert part_flops(changed.temporal, changed.head, *clip).costs == expected


def test_around_and_inside_autocast_that_is_not_asked_for_changes_nothing() -> None:
    with torch.autocast("cpu", torch.bfloat16), Acceleration().at_work(torch.device("cpu")):
        assert torch.is_autocast_enabled("cpu")  # the trainer's precision


def test_a_flow_network_alone_runs_on_no_stream() -> None:
    flow = build_task(compose_config(["task=flying_chairs", "method=flow"]), ())
    with pytest.raises(ValueError, match="FlowTask runs on no stream"):
        Acceleration(compile=("key",)).prepare(flow, CPU)


def test_graphs_want_a_gpu_and_nothing_compiled(task: VideoTask) -> None:
    with pytest.raises(ValueError, match="cuda_graphs=true: needs an NVIDIA GPU, this run is on c"):
        Acceleration(cuda_graphs=True).prepare(task, CPU)
    with pytest.raises(ValueError, match=r"cuda_graphs=true: expected acceleration.compile=\[\]"):
        Acceleration(cuda_graphs=True, compile=("key",))


def test_flow_of_another_making_is_not_recorded(
    task: VideoTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded: list[torch.nn.Module] = []
    monkeypatch.setattr(acceleration, "_replace", lambda module, *_: recorded.append(module))
    by_hand = copy.deepcopy(task)
    by_hand.temporal.flow = DIS((8,), (8,))
    for one, names in ((task, ("features", "flow", "head")), (by_hand, ("features", "head"))):
        recorded.clear()
        Acceleration(cuda_graphs=True).prepare(one, torch.device("cuda"))
        assert recorded == [one.parts()[name] for name in names]


def test_the_config_builds_the_switches_and_names_unknown_paths() -> None:
    config = compose_config(["acceleration.channels_last=true", "acceleration.compile=[key]"])
    running = build(config.acceleration)
    assert running.channels_last
    assert list(running.compile) == ["key"]
    with pytest.raises(ValueError, match=r"acceleration.compile=\['all'\]: expected some of key"):
        Acceleration(compile=("all",))
