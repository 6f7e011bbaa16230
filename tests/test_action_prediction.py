"""Recognising actions over time: windows in seconds, scored as tests are, in memory that stays."""

import json
import weakref
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from data_modules.clips import ConsistentInterval
from data_modules.video import open_video
from flowfeat import predict
from flowfeat.action_windows import AT_ONCE, CHUNK, segment_frames, sliding_windows
from flowfeat.build import build_data, build_task
from flowfeat.checkpoint import KEY, Provenance
from flowfeat.cli import compose_config
from flowfeat.drawing.timeline import timeline, top_rows
from flowfeat.video_writer import VideoWriter

TINY = (
    "task=ucf101",
    "method=per_frame",
    "features.model=test_resnet",
    "~features.channels",
    "data.crop=32",
    "data.short_side=36",
    "clip.alpha=2",
    "clip.beta=5",
    "trainer.accelerator=cpu",
)
HEIGHT, WIDTH = 48, 64


def stored(path: Path, *words: str, **measured: float | None) -> tuple[Path, object]:
    """Save a small network with random weights as a checkpoint, and return it and its config."""
    config = compose_config([*TINY, *words])
    data = build_data(config)
    torch.manual_seed(0)
    task = build_task(config, data.classes).eval()
    for linear in (task.head.classifier, *task.head.motion):
        torch.nn.init.normal_(linear.weight, std=3.0)  # so that windows differ
    record = Provenance(config, data.classes, measured=measured).record
    torch.save({"state_dict": task.state_dict(), KEY: record}, path)
    return path, (task, data)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return stored(tmp_path_factory.mktemp("run") / "best.ckpt")


def clip(path: Path, fps: int, seconds: float = 3.0) -> Path:
    """Write a texture that moves and turns from dark to light, the same at every frame rate."""
    noise = np.random.default_rng(0).integers(0, 128, (6, 12, 3), np.uint8)
    ground = cv2.resize(noise, (4 * WIDTH, HEIGHT))
    with VideoWriter(path, fps, (HEIGHT, WIDTH), crf=10) as writer:
        for n in range(round(seconds * fps)):
            time = n / fps
            x = round(40 * time)
            writer.write(ground[:, x : x + WIDTH] + np.uint8(40 * time))
    return path


def run(monkeypatch, ckpt: Path, video: object, *words: str) -> None:
    monkeypatch.setattr("sys.argv", ["flowfeat-predict", f"ckpt={ckpt}", f"video={video}", *words])
    predict.main()


def refusal(monkeypatch, capsys, status: int, *call: object) -> str:
    with pytest.raises(SystemExit) as left:
        run(monkeypatch, *call)
    assert left.value.code == status
    [line] = [w for w in capsys.readouterr().err.splitlines() if w.startswith("flowfeat: ")]
    return line.removeprefix("flowfeat: ").removeprefix("error: ")


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def spans(*arguments: float) -> list[tuple[float, ...]]:
    return [(w.start, w.end, *w.shown) for w in sliding_windows(*arguments)]


def test_windows_cover_the_video_and_show_what_is_nearest():
    assert spans(3.0, 2.0, 1.0, 0.02) == [(0, 2, 0, 1.5), (1, 3, 1.5, 3)]
    assert spans(3.5, 2.0, 1.0, 0.02)[2] == (2, 3.5, 2.5, 3.5)  # the last one is shorter
    assert spans(0.7, 2.0, 1.0, 0.02) == [(0, 0.7, 0, 0.7)]
    assert spans(3.01, 2.0, 1.0, 0.02) == [(0, 2, 0, 1.5), (1, 3.01, 1.5, 3.01)]  # half a frame
    assert spans(5.0, 1.0, 3.0, 0.02) == [(0, 1, 0, 1), (3, 4, 3, 4)]  # nothing in between


@pytest.mark.parametrize("fps", [25, 50])
def test_segments_of_a_window_are_those_of_a_test_video_of_its_length(fps):
    beta = 25
    sampler, length = ConsistentInterval(7, beta), 4 * fps
    [first, second, *_] = sliding_windows(4.0, 2.0, 1.0, 0.01)
    times = [tick / 1000 for tick in sampler.testing(2000)]
    assert segment_frames(first, times, fps, length, 1) == sampler.testing(2 * fps)
    assert segment_frames(second, times, fps, length, 1) == [
        fps + frame for frame in sampler.testing(2 * fps)
    ]


def test_what_is_too_short_ends_in_repeats():
    [window] = sliding_windows(0.5, 1.0, 1.0, 0.01)
    times = [0.1, 0.3, 0.5, 0.7, 0.9]
    assert segment_frames(window, times, 10, 5, 1) == [1, 3, 3, 3, 3]
    assert segment_frames(window, times, 10, 5, 3) == [1, 1, 1, 1, 1]  # 1, 2 and 3
    assert segment_frames(window, times, 10, 2, 6) == [0] * 5
    assert segment_frames(window, times, 2, 2, 1) == [0, 1, 1, 1, 1]  # few frames per second


@pytest.mark.parametrize("modality", ["rgb", "rgb_diff"])
def test_every_window_is_scored_as_a_test_video(monkeypatch, tmp_path, modality):
    ckpt, (task, data) = stored(tmp_path / "best.ckpt", f"modality={modality}")
    video = clip(tmp_path / "clip #1.mp4", 10)
    run(monkeypatch, ckpt, video, f"out={tmp_path / 'out'}")
    found = lines_of(tmp_path / "out" / "clip #1.jsonl")
    assert [(line["window"], line["start"], line["end"]) for line in found] == [
        (0, 0, 2),
        (1, 1, 3),
    ]
    assert found[0]["segments"] == ConsistentInterval(2, 5).testing(20) == [1, 5, 9, 13, 17]
    whole = open_video(video).read(range(30))
    for line in found:
        spanned = data.modality.frames_needed
        starts = [10 * line["window"] + n for n in (1, 5, 9, 13, 17)]
        assert line["segments"] == [n for n in starts if n + spanned <= 30]
        pictures = whole[data.modality.plan(line["segments"], 30)]
        batch = data.prepare(pictures, line["segments"], "clip")
        batch = data.transfer_batch_to_device(batch, torch.device("cpu"), 0)  # from 8 bits
        steps = task.head(task.temporal.features(batch["frames"][0]), batch["frames"][0])[0]
        expected = steps.mean(0).softmax(0)
        classes = {entry["class"]: entry["probability"] for entry in line["classes"]}
        best = expected.topk(5)
        assert list(classes) == [data.classes[n] for n in best.indices.tolist()]
        assert list(classes.values()) == pytest.approx(best.values.tolist(), abs=2e-3)
    assert found[0]["classes"] != found[1]["classes"]


def test_twice_the_frame_rate_gives_the_same_times(monkeypatch, tmp_path, network):
    found = []
    for fps in (10, 20):
        video = clip(tmp_path / f"{fps}.mp4", fps, 2.6)
        run(monkeypatch, network[0], video, f"out={tmp_path / 'out'}", "window=1", "stride=0.5")
        found.append(lines_of(tmp_path / "out" / f"{fps}.jsonl"))
    slow, fast = found
    times = [(line["start"], line["end"]) for line in slow]
    assert times == [(line["start"], line["end"]) for line in fast]
    assert times == [(0, 1), (0.5, 1.5), (1, 2), (1.5, 2.5), (2, 2.6)]
    for one, two in zip(slow, fast, strict=True):
        assert [n // 2 for n in two["segments"]] == one["segments"]  # seen at the same time
        steps = np.diff(two["segments"])
        assert (steps == 4).all()  # 0.2 s
    assert len(slow[-1]["segments"]) == 3  # of 0.6 s; the rest of beta is masked


@pytest.mark.parametrize("word", ["data.reader=auto", "data.reader=pyav"])
def test_a_folder_of_frames_is_predicted_as_its_video_is(monkeypatch, tmp_path, network, word):
    video, folder = clip(tmp_path / "a.mp4", 25), tmp_path / "frames"
    folder.mkdir()
    for number, picture in enumerate(open_video(video).read(range(75))):
        Image.fromarray(picture).save(folder / f"{number}.png")
    for place in (video, folder):
        run(monkeypatch, network[0], place, word, f"out={tmp_path / 'out'}")
    found, wanted = (lines_of(tmp_path / "out" / f"{n}.jsonl") for n in ("frames", "a"))
    assert found == wanted
    assert len(found) > 1


def test_the_video_shows_the_nearest_window_and_the_timeline_opens(monkeypatch, tmp_path, network):
    video = clip(tmp_path / "a.mp4", 10)
    before = open_video(video).read(range(30)).astype(int)
    words = (f"out={tmp_path / 'out'}", "window=1", "stride=2", "crf=1")
    run(monkeypatch, network[0], video, *words)
    written = open_video(tmp_path / "out" / "a.mp4")
    assert (len(written), written.size, written.fps) == (30, (HEIGHT, WIDTH), 10)
    corner = np.abs(written.read(range(30)) - before)[:, :10, :20]
    plates = (corner > 60).mean(axis=(1, 2, 3)) > 0.1
    assert plates.tolist() == [not 10 <= n < 20 for n in range(30)]  # no window from 1 s to 2 s
    with Image.open(tmp_path / "out" / "a_timeline.png") as chart:
        assert chart.size[0] == 1000
        assert len(np.unique(np.asarray(chart.convert("RGB")).reshape(-1, 3), axis=0)) > 20
    run(monkeypatch, network[0], video, *words, "threshold=1.1")
    plain = open_video(tmp_path / "out" / "a.mp4").read(range(30))
    assert np.abs(plain - before).max(axis=(1, 2, 3)).max() < 60


def test_the_timeline_has_the_classes_that_win_most():
    shares = np.array([[0.5, 0.3, 0.2], [0.1, 0.3, 0.6], [0.2, 0.2, 0.6], [np.nan] * 3], np.float32)
    assert top_rows(shares) == [2, 0, 1]
    figure = timeline(np.array([[0, 1], [1, 2], [4, 5], [5, 6]]), shares, ("a", "b", "c"))
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["c", "a", "b"]
    assert axes.get_xlim() == (0, 6)
    values = np.ma.filled(axes.collections[0].get_array(), np.nan)
    np.testing.assert_allclose(values[0], [0.2, 0.6, np.nan, 0.6, np.nan])
    with pytest.raises(ValueError, match="a timeline needs"):
        timeline(np.zeros((0, 2)), np.zeros((0, 3)), ("a", "b", "c"))


class Endless:
    """A long video that notes how much of it was asked for, and is in memory, at once."""

    fps, size = 10.0, (HEIGHT, WIDTH)

    def __init__(self, length: int = 300, stop: BaseException | None = None) -> None:
        self.length, self.stop = length, stop
        self.largest, self.alive, self.most_alive = 0, 0, 0

    def __len__(self) -> int:
        return self.length

    def read(self, indices):
        if self.stop is not None and max(indices) >= 40:
            raise self.stop
        frames = np.zeros((len(indices), *self.size, 3), np.uint8)
        self.alive += 1
        weakref.finalize(frames, self._gone)
        self.largest = max(self.largest, len(indices))
        self.most_alive = max(self.most_alive, self.alive)
        return frames

    def _gone(self) -> None:
        self.alive -= 1


def test_memory_does_not_grow_with_the_video(monkeypatch, tmp_path, network):
    source = Endless()
    monkeypatch.setattr("data_modules.video_data.open_video", lambda path, reader: source)
    run(monkeypatch, network[0], "long.mp4", f"out={tmp_path}")
    assert [line["start"] for line in lines_of(tmp_path / "long.jsonl")] == list(range(29))
    assert source.largest <= max(AT_ONCE, CHUNK)
    assert source.most_alive <= 3


@pytest.mark.parametrize(
    ("stop", "status", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted after 35 of 300 frames, nothing was written"),
        (ValueError("bad\nbytes"), 2, "broken after 35 of 300 frames, nothing was written (bad"),
    ],
)
def test_a_run_cut_short_leaves_nothing_new(
    monkeypatch, capsys, tmp_path, network, stop, status, said
):
    (tmp_path / "long_timeline.png").write_text("of an earlier run")
    source = Endless(stop=stop)
    monkeypatch.setattr("data_modules.video_data.open_video", lambda path, reader: source)
    line = refusal(monkeypatch, capsys, status, network[0], "/v/long.mp4", f"out={tmp_path}")
    assert line.startswith(f"/v/long.mp4: {said}")
    assert [p.name for p in tmp_path.iterdir()] == ["long_timeline.png"]
    assert (tmp_path / "long_timeline.png").read_text() == "of an earlier run"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("stride=-1", "stride=-1: expected a number of at least 0.1"),
        ("window=inf", "window=inf: expected a number of at least 0.1"),
        ("side_by_side=true", "side_by_side=true: task ucf101 predicts no pictures"),
    ],
)
def test_bad_input_ends_in_one_line(monkeypatch, capsys, tmp_path, network, word, said):
    line = refusal(monkeypatch, capsys, 2, network[0], tmp_path / "a.mp4", word)
    assert line.startswith(said)


def test_windows_are_of_recognition_alone(monkeypatch, capsys, tmp_path):
    words = ["task=vid", "method=per_frame", "features.model=test_resnet"]
    config = compose_config([*words, "trainer.accelerator=cpu"])
    task = build_task(config, ("cat",))
    content = {"state_dict": task.state_dict(), KEY: Provenance(config, ("cat",)).record}
    torch.save(content, tmp_path / "vid.ckpt")
    line = refusal(monkeypatch, capsys, 2, tmp_path / "vid.ckpt", "a.mp4", "window=3")
    assert line == "window: task vid is predicted frame by frame"


def test_windows_keep_the_trainings_time_between_segments(monkeypatch, tmp_path, caplog):
    """Five segments 0.3 s apart fill 1.5 s, at any frame rate; half of each window is new."""
    ckpt, _ = stored(tmp_path / "best.ckpt", step_seconds=0.3)
    for fps, step in ((10, 3), (20, 6)):
        video = clip(tmp_path / f"{fps}.mp4", fps)
        run(monkeypatch, ckpt, video, f"out={tmp_path / 'out'}")
        found = lines_of(tmp_path / "out" / f"{fps}.jsonl")
        assert [(line["start"], line["end"]) for line in found] == [
            (0, 1.5),
            (0.75, 2.25),
            (1.5, 3),
        ]
        assert all((np.diff(line["segments"]) == step).all() for line in found)
    assert not [r for r in caplog.records if r.levelname == "WARNING"]


@pytest.mark.parametrize(("window", "step"), [(1.0, 0.2), (1.2, None), (2.2, None), (2.5, 0.5)])
def test_another_step_than_the_trainings_is_named(monkeypatch, tmp_path, caplog, window, step):
    """Up to 1.5 times is no other motion."""
    ckpt, _ = stored(tmp_path / "best.ckpt", step_seconds=0.32)
    video = clip(tmp_path / "a.mp4", 10)
    run(monkeypatch, ckpt, video, f"out={tmp_path / 'out'}", f"window={window}")
    warnings = [r.message for r in caplog.records if r.levelname == "WARNING"]
    if step is None:
        assert not warnings
    else:
        [line] = warnings
        assert line.startswith(f"window={window:g}: segments begin {step:.3f} s apart, ")
        assert "in training 0.320 s" in line
        assert line.endswith("window=1.6 keeps the training's step")


def test_a_checkpoint_that_keeps_no_step_says_so_once(monkeypatch, tmp_path, caplog, network):
    video = clip(tmp_path / "a.mp4", 10)
    run(monkeypatch, network[0], video, f"out={tmp_path / 'out'}")
    [line] = [r.message for r in caplog.records if r.levelname == "WARNING"]
    assert "does not keep the time between segments in training" in line
    assert lines_of(tmp_path / "out" / "a.jsonl")[0]["end"] == 2
    # Of segments that are spread over a video there is no such time, and nothing to say.
    spread, _ = stored(tmp_path / "spread.ckpt", step_seconds=None)
    caplog.clear()
    run(monkeypatch, spread, video, f"out={tmp_path / 'out'}")
    assert not [r for r in caplog.records if r.levelname == "WARNING"]


@pytest.mark.parametrize("value", [-0.3, float("nan"), "fast"])
def test_a_step_that_cannot_be_is_refused(monkeypatch, capsys, tmp_path, value):
    ckpt, _ = stored(tmp_path / "best.ckpt", step_seconds=value)
    line = refusal(monkeypatch, capsys, 2, ckpt, tmp_path / "a.mp4")
    assert line.startswith(f"{ckpt}: measured: expected numbers above 0 by name, found ")
