"""Holding and moving results: the head runs on key frames only, in batches as alone."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flowfeat.interfaces import Detections, Features, Flow, FlowNetwork, Output, TaskHead
from flowfeat.key_frames.schedules import Every, Fixed
from flowfeat.metering import Stopwatch, metering
from flowfeat.results import results_of
from flowfeat.speed import PartCosts, part_flops
from flowfeat.stream_speed import measure_stream
from flowfeat.streaming import Stream, steps_of
from flowfeat.temporal.feature_flow import FeatureFlow
from flowfeat.temporal.hold import Hold
from flowfeat.temporal.move import Move
from flowfeat.temporal.per_frame import PerFrame

LENGTH, SIZE = 7, (24, 32)


class Labels(TaskHead):
    """The sign of the fine level's first channels, one label per cell; counts its frames."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Conv2d(6, 3, 1)
        self.frames_seen = 0

    def forward(self, features: Features, frames: Tensor) -> Tensor:
        self.frames_seen += len(frames)
        return self.scores(features[0])

    def postprocess(self, raw: Tensor, sizes: Tensor) -> list[Tensor]:
        full = raw.argmax(1).byte().repeat_interleave(4, 1).repeat_interleave(4, 2)
        return [m[: int(h), : int(w)] for m, (h, w) in zip(full, sizes, strict=True)]

    def loss(self, raw: Any, labels: Any) -> dict[str, Tensor]:
        return {"all": raw.mean()}


class Boxes(Labels):
    """One box per picture, from the features' mean, with a score of its own."""

    def postprocess(self, raw: Tensor, sizes: Tensor) -> list[Detections]:
        score = raw.mean((1, 2, 3))
        box = torch.tensor([[8.0, 4.0, 24.0, 20.0]])
        return [Detections(box, value[None], torch.tensor([1])) for value in score]


class Pan(FlowNetwork):
    """What the frames' mean brightness says: (8, -4) network pixels times the difference."""

    def __init__(self, stride: int = 4) -> None:
        super().__init__()
        self.stride = stride

    def pyramid(self, current: Tensor, key: Tensor) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def forward(self, current: Tensor, key: Tensor) -> Flow:
        amount = (current - key).mean((1, 2, 3)).round()
        way = torch.tensor([8.0, -4.0]) / self.stride
        flow = (amount[:, None] * way)[..., None, None]
        return Flow(flow.expand(-1, -1, SIZE[0] // self.stride, SIZE[1] // self.stride), None)


def video(seed: int, length: int = LENGTH) -> Tensor:
    """Return frames whose brightness grows by 1 a step."""
    noise = torch.rand(length, 3, *SIZE, generator=torch.Generator().manual_seed(seed))
    return noise - noise.mean((1, 2, 3), keepdim=True) + torch.arange(length)[:, None, None, None]


@pytest.fixture
def head() -> Labels:
    torch.manual_seed(2)
    return Labels().eval()


def stream(module, head, clips: Tensor, starts: Tensor | None = None) -> list[list[Any]]:
    """Return the predictions per step, for clips (B, T, 3, H, W)."""
    passing: Stream[int] = Stream(module, head)
    sizes = torch.tensor([SIZE]).expand(len(clips), -1)
    found = []
    for t in range(clips.shape[1]):
        first = torch.full((len(clips),), t == 0) if starts is None else starts[:, t]
        [result] = passing.push(clips[:, t], first, sizes, t)
        assert result.tag == t
        found.append(result.predictions)
    return found


def test_results_are_those_of_the_key_frame(features, head):
    clip = video(0)[None]
    per_frame = stream(PerFrame(features), head, clip)
    for t, found in enumerate(stream(Hold(features, Fixed(3)), head, clip)):
        assert torch.equal(found[0], per_frame[t - t % 3][0])


def test_nothing_runs_between_key_frames(features, head):
    stream(Hold(features, Fixed(3)), head, video(0)[None])
    assert features.frames_seen == head.frames_seen == 3  # frames 0, 3 and 6 of 7


def test_interval_one_is_per_frame(features, head):
    clip = torch.stack([video(0), video(1)])
    for module in (Hold(features, Every()), Move(features, Pan(), Every())):
        ours, frame = stream(module, head, clip), stream(PerFrame(features), head, clip)
        assert all(
            torch.equal(a, b)
            for x, y in zip(ours, frame, strict=True)
            for a, b in zip(x, y, strict=True)
        )


def test_labels_are_moved_from_the_key_frame_not_from_the_frame_before(features, head):
    """Two steps after the key frame the content lies 16 pixels left of it, 8 below."""
    found = stream(Move(features, Pan(), Fixed(3)), head, video(0)[None])
    key, current = found[3][0], found[5][0]
    assert torch.equal(current[8:, : 32 - 16], key[: 24 - 8, 16:])


def test_boxes_are_moved_and_end_at_the_picture(features):
    head = Boxes()
    found = stream(Move(features, Pan(), Fixed(5)), head, video(0)[None])
    assert [d[0].boxes.tolist() for d in found[:4]] == [
        [[8, 4, 24, 20]],
        [[0, 8, 16, 24]],
        [[0, 12, 8, 24]],
        [],
    ]
    assert torch.equal(found[2][0].scores, found[0][0].scores)


@pytest.mark.parametrize("kind", [Labels, Boxes])
def test_streams_whose_key_frames_differ_equal_streams_run_alone(features, kind):
    """Stream 1 begins a new video at step 2, so its key frames fall at other times."""
    torch.manual_seed(2)
    head = kind()
    for module in (Hold(features, Fixed(3)), Move(features, Pan(), Fixed(3))):
        clips = torch.stack([video(0), torch.cat((video(1)[:2], video(2)[: LENGTH - 2]))])
        starts = torch.zeros(2, LENGTH, dtype=torch.bool)
        starts[:, 0] = starts[1, 2] = True
        together = stream(module, head, clips, starts)
        first = stream(module, head, clips[:1])
        second = stream(module, head, clips[1:, :2]) + stream(module, head, clips[1:, 2:])
        for both, one, other in zip(together, first, second, strict=True):
            for ours, alone in zip(both, (one[0], other[0]), strict=True):
                torch.testing.assert_close(ours, alone)


def test_passes_do_not_share_what_they_hold(features, head):
    """Two videos interleaved through one module give what they give alone."""
    module = Move(features, Pan(), Fixed(4))
    alone = [stream(module, head, video(s)[None]) for s in (0, 1)]
    passes: list[Stream[int]] = [Stream(module, head) for _ in (0, 1)]
    sizes = torch.tensor([SIZE])
    for t in range(LENGTH):
        for s in (0, 1):
            [result] = passes[s].push(video(s)[None, t], torch.tensor([t == 0]), sizes, t)
            assert torch.equal(result.predictions[0], alone[s][t][0])


@pytest.mark.parametrize("build", [lambda f: Hold(f, Fixed(3)), lambda f: Move(f, Pan(), Fixed(3))])
def test_forward_and_pairs_equal_the_stream(features, head, build):
    module = build(features)
    clips = torch.stack([video(0), video(1)])
    steps = stream(module, head, clips)
    is_key = torch.arange(LENGTH).remainder(3).eq(0).expand(2, -1)
    targets = torch.tensor([[0, 4, 5], [6, 2, 3]])
    sizes = torch.tensor([SIZE]).expand(6, -1)
    with torch.no_grad():
        for output in (
            module(clips, is_key, targets),
            module.pairs(clips, targets - targets % 3, targets),
        ):
            found = results_of(head, output, sizes)
            for b in range(2):
                for s, t in enumerate(targets[b].tolist()):
                    assert torch.equal(found[b * 3 + s], steps[t][b])


def test_training_is_per_frame_training(features, head):
    module = Hold(features, Fixed(3)).train()
    clip = video(0)[None, :1]
    keys = module.training_keys(torch.tensor([[4]]))
    assert keys.tolist() == [[True]]
    ours: Output = module(clip, keys, torch.tensor([[0]]))
    frame = PerFrame(features)(clip, keys, torch.tensor([[0]]))
    assert torch.equal(ours.features[0], frame.features[0])
    assert ours.features[0].requires_grad


def test_copying_a_moving_method_is_holding(features, head):
    clip = video(0)[None]
    held = stream(Hold(features, Fixed(3)), head, clip)
    copied = stream(Move(features, Pan(), Fixed(3)).controls()["copy"], head, clip)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(held, copied, strict=True))
    assert not Hold(features, Fixed(3)).controls()


def test_what_runs_is_what_is_counted(features, head, flow):
    """Of l = 4 frames one runs N_feat and N_task; r of Eq. 5 leaves N_task to key frames."""
    clip = video(0)[None]
    sizes = torch.tensor([SIZE])
    for module, expected in (
        (Hold(features, Fixed(4)), {"N_feat": 1, "tail": 1, "N_task": 1, "post": 1}),
        (
            Move(features, flow, Fixed(4)),
            {"N_feat": 1, "tail": 1, "N_task": 1, "post": 1, "F": 3, "W": 3},
        ),
        (
            FeatureFlow(features, flow, Fixed(4)),
            {"N_feat": 1, "tail": 4, "N_task": 4, "post": 4, "F": 3, "W": 3},
        ),
    ):
        watch = Stopwatch(torch.device("cpu"))
        passing: Stream[int] = Stream(module, head)
        with metering(watch):
            for t, frames, starts in steps_of(clip[:, :4], torch.tensor([True])):
                passing.push(frames, starts, sizes, t)
        assert {name: len(calls) for name, calls in watch.seconds.items()} == expected
    costs = part_flops(Move(features, flow, Fixed(4)), head, clip, sizes)
    known = costs.costs
    assert costs.ratio == known["F"] / (known["N_feat"] + known["N_task"])
    assert PartCosts(known).ratio > costs.ratio
    assert costs.with_flow(0.0).ratio == 0


def test_holding_speeds_up_by_l(features, head, monkeypatch):
    """With a clock that counts the network's frames, l = 4 is four times as fast."""
    monkeypatch.setattr("time.perf_counter", lambda: float(features.frames_seen))
    speed = measure_stream(Hold(features, Fixed(4)), head, video(0, 8)[None], torch.tensor([SIZE]))
    assert speed.speedup == 4


def test_a_schedule_that_asks_for_flow_is_refused(features):
    with pytest.raises(ValueError, match="key_frames: results are carried without asking a flow"):
        Hold(features, Fixed(3, needs_flow=True))


def test_what_has_no_place_in_the_picture_cannot_be_moved(features):
    class Scores(Labels):
        def postprocess(self, raw: Tensor, sizes: Tensor) -> Any:
            return list(raw.mean((2, 3)))

    with pytest.raises(
        ValueError, match="method move: cannot move Tensor, only boxes and label maps"
    ):
        stream(Move(features, Pan(), Fixed(3)), Scores(), video(0)[None])
