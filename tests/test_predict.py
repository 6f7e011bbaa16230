"""Predicting a video: every frame, as the method streams it, in memory that does not grow."""

import json
import re
import weakref
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from data_modules.cityscapes_labels import CLASSES
from data_modules.video import open_video
from flowfeat import cli, predict
from flowfeat.build import build_data, build_task
from flowfeat.checkpoint import KEY, Provenance
from flowfeat.interfaces import Detections
from flowfeat.prediction import Baseline, Summary
from flowfeat.stream_speed import StreamSpeed
from flowfeat.streaming import Stream
from flowfeat.video_prediction import CHUNK, predict_video
from flowfeat.video_writer import VideoWriter

TINY = (
    "features.model=test_resnet",
    "head.anchor_sizes=[16,32]",
    "head.foreground_prior=0.6",
    "head.max_detections=5",
    "data.short_side=32",
    "data.long_side=64",
    "trainer.accelerator=cpu",
)
DFF = ("flow=flownet_half", "flow.width=0.0625", "key_frames.interval=4")
FRAMES, HEIGHT, WIDTH = 11, 70, 94  # neither a multiple of the chunk, of l nor of the network size


def stored(path: Path, *settings: str) -> Path:
    """Save a small network with random weights as a checkpoint."""
    config = cli.compose_config(settings if "task=cityscapes" in settings else [*TINY, *settings])
    classes = build_data(config).classes
    torch.manual_seed(0)
    task = build_task(config, classes)
    content = {"state_dict": task.state_dict(), KEY: Provenance(config, classes).record}
    torch.save(content, path)
    return path


def pictures(count: int) -> np.ndarray:
    """Return coarse noise that moves: (count, H, W, 3)."""
    noise = np.random.default_rng(0).integers(40, 216, (12, 16, 3), np.uint8)
    ground = cv2.resize(noise, (WIDTH + 2 * count, HEIGHT))
    return np.stack([ground[:, 2 * t : 2 * t + WIDTH] for t in range(count)])


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory) -> Path:
    return stored(tmp_path_factory.mktemp("run") / "best.ckpt", *DFF)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("videos") / "clip #1.mp4"
    with VideoWriter(path, 12.5, (HEIGHT, WIDTH), crf=10) as writer:
        for picture in pictures(FRAMES):
            writer.write(picture)
    return path


def run(monkeypatch, ckpt: Path, video: object, *words: str) -> None:
    call = ["flowfeat-predict", f"ckpt={ckpt}", f"video={video}", *words]
    monkeypatch.setattr("sys.argv", call)
    predict.main()


def refusal(monkeypatch, capsys, status: int, *call: object) -> str:
    with pytest.raises(SystemExit) as left:
        run(monkeypatch, *call)
    assert left.value.code == status
    [line] = [w for w in capsys.readouterr().err.splitlines() if w.startswith("flowfeat: ")]
    return line.removeprefix("flowfeat: ").removeprefix("error: ")


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_are_what_the_method_streams_in_original_pixels(monkeypatch, ckpt, clip):
    run(monkeypatch, ckpt, clip)
    found = lines_of(ckpt.parent / "predictions" / "clip #1.jsonl")
    assert [line["frame"] for line in found] == list(range(FRAMES))
    assert [line["key_frame"] for line in found] == [t % 4 == 0 for t in range(FRAMES)]

    content = torch.load(ckpt, weights_only=True)
    config = OmegaConf.create(content[KEY]["config"])
    task = build_task(config, tuple(content[KEY]["classes"])).eval()
    task.load_state_dict(content["state_dict"])
    stream: Stream[None] = Stream(task.temporal, task.head)
    many = 0
    for t, picture in enumerate(open_video(clip).read(range(FRAMES))):
        height, width = 32, round(WIDTH * 32 / HEIGHT)
        small = cv2.resize(picture, (width, height))
        frames = torch.from_numpy(small).permute(2, 0, 1)[None].float() / 255
        sizes = torch.tensor([[height, width]])
        [result] = stream.push(frames, torch.tensor([t == 0]), sizes, None)
        boxes, scores, labels = result.predictions[0]
        back = torch.tensor([WIDTH / width, HEIGHT / height]).repeat(2)
        kept = scores >= 0.05
        entries = found[t]["detections"]
        many += len(entries)
        assert [e["class"] for e in entries] == [task.classes[n] for n in labels[kept].tolist()]
        assert [e["score"] for e in entries] == pytest.approx(scores[kept].tolist(), abs=1e-4)
        expected = (boxes[kept] * back).flatten().tolist()
        assert [v for e in entries for v in e["box"]] == pytest.approx(expected, abs=0.02)
    assert many >= FRAMES


@pytest.mark.parametrize(
    ("words", "tolerance"),
    [
        (("acceleration.inference_mode=false",), 1e-6),
        (("acceleration.channels_last=true",), 1e-3),
        (("acceleration.compile=[key,non_key]", "acceleration.backend=aot_eager"), 1e-3),
        (("acceleration.autocast=true",), 5e-2),
    ],
)
def test_switches_of_acceleration_act_and_keep_the_scores(
    monkeypatch, ckpt, clip, tmp_path, words, tolerance
):
    seen = set()

    def push(self, frames, *rest):
        seen.add((torch.is_autocast_enabled("cpu"), torch.is_inference_mode_enabled()))
        return plain(self, frames, *rest)

    plain = Stream.push
    run(monkeypatch, ckpt, clip, f"out={tmp_path}")
    expected = lines_of(tmp_path / "clip #1.jsonl")
    monkeypatch.setattr(Stream, "push", push)
    run(monkeypatch, ckpt, clip, f"out={tmp_path}", *words)
    found = lines_of(tmp_path / "clip #1.jsonl")
    assert seen == {("autocast" in words[0], "inference_mode" not in words[0])}
    for ours, theirs in zip(found, expected, strict=True):
        scores = [[entry["score"] for entry in line["detections"]] for line in (ours, theirs)]
        assert scores[0] == pytest.approx(scores[1], abs=tolerance)


def test_the_video_keeps_size_frames_and_rate_and_shows_boxes(monkeypatch, ckpt, clip, tmp_path):
    original = open_video(clip).read(range(FRAMES)).astype(float)
    marked = []
    for threshold in ("1.1", "0.05"):
        run(monkeypatch, ckpt, clip, f"out={tmp_path}", f"threshold={threshold}")
        drawn = open_video(tmp_path / "clip #1.mp4")
        assert (len(drawn), drawn.size, drawn.fps) == (FRAMES, (HEIGHT, WIDTH), 12.5)
        change = np.abs(drawn.read(range(FRAMES)) - original).max(axis=(2, 3))[:, HEIGHT // 2 :]
        marked.append((change > 60).any(axis=1))
    nothing, boxes = marked
    assert not nothing.any()  # the mark of key frames lies in the upper half
    assert boxes.all()


def test_a_folder_of_frames_is_a_video(monkeypatch, ckpt, tmp_path):
    folder = tmp_path / "frames.v1"
    folder.mkdir()
    for t, picture in enumerate(pictures(3)):
        cv2.imwrite(str(folder / f"{t}.png"), picture)
    run(monkeypatch, ckpt, f"{folder}/", "out=" + str(tmp_path / "new" / "out"))
    out = tmp_path / "new" / "out"
    assert sorted(p.name for p in out.iterdir()) == ["frames.v1.jsonl", "frames.v1.mp4"]
    assert len(lines_of(out / "frames.v1.jsonl")) == len(open_video(out / "frames.v1.mp4")) == 3


class Endless:
    """A long video that notes how much of it was asked for, and is in memory, at once."""

    fps, size = 25.0, (HEIGHT, WIDTH)

    def __init__(self, length: int = 100, stop: BaseException | None = None, at: int = 16) -> None:
        self.length, self.stop, self.at = length, stop, at
        self.largest, self.alive, self.most_alive = 0, 0, 0

    def __len__(self) -> int:
        return self.length

    def read(self, indices):
        if self.stop is not None and indices[-1] >= self.at:
            raise self.stop
        frames = np.zeros((len(indices), *self.size, 3), np.uint8)
        self.alive += 1
        weakref.finalize(frames, self._gone)
        self.largest = max(self.largest, len(indices))
        self.most_alive = max(self.most_alive, self.alive)
        return frames

    def _gone(self) -> None:
        self.alive -= 1


def test_memory_does_not_grow_with_the_video(monkeypatch, ckpt, tmp_path):
    source = Endless()
    monkeypatch.setattr("data_modules.video_data.open_video", lambda path, reader: source)
    run(monkeypatch, ckpt, "long.mp4", f"out={tmp_path}")
    assert len(lines_of(tmp_path / "long.jsonl")) == 100
    assert source.largest <= CHUNK
    # The chunk in work and the next one; two that frames wait to be written from; one in between.
    assert source.most_alive <= 5


@pytest.mark.parametrize(
    ("stop", "status", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted after 16 of 100 frames, nothing was written"),
        (ValueError("bad\nbytes"), 2, "only 16 of 100 frames could be read, nothing was written"),
        (OSError("gone"), 2, "only 16 of 100 frames could be read, nothing was written (gone)"),
    ],
)
def test_a_run_cut_short_leaves_nothing_new(
    monkeypatch, capsys, ckpt, tmp_path, stop, status, said
):
    (tmp_path / "long.jsonl").write_text("of an earlier run")
    source = Endless(stop=stop)
    monkeypatch.setattr("data_modules.video_data.open_video", lambda path, reader: source)
    line = refusal(monkeypatch, capsys, status, ckpt, "/v/long.mp4", f"out={tmp_path}")
    assert line.startswith(f"/v/long.mp4: {said}")
    assert [p.name for p in tmp_path.iterdir()] == ["long.jsonl"]
    assert (tmp_path / "long.jsonl").read_text() == "of an earlier run"


@pytest.mark.parametrize("overlapping", [False, True])
def test_a_disk_that_fills_up_ends_the_run_and_leaves_nothing(
    monkeypatch, capsys, ckpt, tmp_path, overlapping
):
    def write(self, picture):
        if self.frames == 20:
            raise OSError(f"{self.path}: no space left on the device")
        plain(self, picture)

    plain = VideoWriter.write
    whole = partial(predict_video, overlapping=overlapping)
    monkeypatch.setattr("flowfeat.predict.predict_video", whole)
    monkeypatch.setattr(VideoWriter, "write", write)
    monkeypatch.setattr("data_modules.video_data.open_video", lambda path, reader: Endless())
    line = refusal(monkeypatch, capsys, 2, ckpt, "/v/long.mp4", f"out={tmp_path}")
    assert line == f"{tmp_path / 'long.mp4'}: no space left on the device"
    assert list(tmp_path.iterdir()) == []


def test_in_line_or_overlapping_the_same_is_written(monkeypatch, ckpt, clip, tmp_path):
    """Pictures are compared before the encoder, which may read memory that nobody wrote."""

    def write(self, picture):
        pictures[self.path.parent.name].append(picture.copy())
        plain(self, picture)

    plain, pictures = VideoWriter.write, {"overlapping": [], "line": []}
    monkeypatch.setattr(VideoWriter, "write", write)
    run(monkeypatch, ckpt, clip, f"out={tmp_path / 'overlapping'}")
    in_line = partial(predict_video, overlapping=False)
    monkeypatch.setattr("flowfeat.predict.predict_video", in_line)
    run(monkeypatch, ckpt, clip, f"out={tmp_path / 'line'}")
    lines = [tmp_path / folder / "clip #1.jsonl" for folder in pictures]
    assert lines[0].read_text() == lines[1].read_text()
    assert len(pictures["line"]) == FRAMES
    for ours, theirs in zip(*pictures.values(), strict=True):
        assert np.array_equal(ours, theirs)
    assert all((path.parent / "clip #1.mp4").is_file() for path in lines)


def test_a_truncated_video_is_predicted_as_far_as_it_goes(
    monkeypatch, capsys, caplog, ckpt, tmp_path
):
    whole, cut = tmp_path / "whole.avi", tmp_path / "cut.avi"
    with VideoWriter(whole, 25, (HEIGHT, WIDTH), codec="mpeg4", gop=1) as writer:
        for picture in pictures(20):
            writer.write(picture)
    content = whole.read_bytes()
    cut.write_bytes(content[: len(content) * 6 // 10])
    run(monkeypatch, ckpt, cut, f"out={tmp_path}")
    count = len(lines_of(tmp_path / "cut.jsonl"))
    assert 5 < count < 15
    assert f"{count} can be decoded" in caplog.text
    assert str(cut) in caplog.text


def test_no_dataset_is_needed(monkeypatch, ckpt, clip, tmp_path):
    monkeypatch.chdir(tmp_path)
    run(monkeypatch, ckpt, clip, "out=here", "data.root=/no/such/root")
    run(monkeypatch, ckpt, clip, "out=here", "data.root=null", "data.synthetic_root=data")
    assert [p.name for p in tmp_path.iterdir()] == ["here"]


def test_the_speedup_is_said_where_there_are_key_frames(monkeypatch, caplog, ckpt, clip, tmp_path):
    caplog.set_level("INFO")
    run(monkeypatch, ckpt, clip, f"out={tmp_path}", "baseline=4")
    assert "times as fast as per-frame at l = 4 (on the first 4 frames" in caplog.text
    plain = stored(tmp_path / "plain.ckpt", "method=per_frame")
    run(monkeypatch, plain, clip, f"out={tmp_path}", "baseline=4")
    assert "baseline=4: nothing to compare, the method has no key frames" in caplog.text
    assert caplog.text.splitlines()[-1].endswith(" fps end to end")
    assert all(line["key_frame"] for line in lines_of(tmp_path / "clip #1.jsonl"))


def test_the_summary_is_one_line(ckpt):
    config = OmegaConf.create(torch.load(ckpt, weights_only=True)[KEY]["config"])
    temporal = build_task(config, ("cat",)).temporal
    line = Summary("a", 30, 3.0, 1.5, Baseline(12, StreamSpeed((0.05,), (0.125,), 4))).line(
        temporal
    )
    fps = "a: 30 frames, 20.0 fps of the model, 10.0 fps end to end"
    assert line == (
        f"{fps}; the model is 2.50 times as fast as per-frame at l = 4 (on the first 12 frames)"
    )
    assert Summary("a", 30, 3.0, 1.5, None).line(temporal) == fps
    busy = StreamSpeed((0.05,), (0.3,), 4)
    line = Summary("a", 30, 3.0, 1.5, Baseline(12, busy)).line(temporal)
    assert line.endswith("12 frames; doubtful: s = 6.00 is more than l = 4 can give)")


def test_the_encoder_takes_the_fast_way_unless_told(monkeypatch, ckpt, clip, tmp_path):
    video = tmp_path / "clip #1.mp4"
    for words, effort in (((), b"2"), (("preset=ultrafast",), b"0")):
        run(monkeypatch, ckpt, clip, f"out={tmp_path}", *words)
        # x264 writes its settings into the file: veryfast searches motion with an effort of 2.
        assert re.search(rb"subme=(\d+)", video.read_bytes())[1] == effort


def test_no_time_is_spent_on_a_comparison_that_nobody_asked_for(
    monkeypatch, caplog, ckpt, clip, tmp_path
):
    caplog.set_level("INFO")
    monkeypatch.setattr("flowfeat.prediction.measure_stream", None)  # a call would fail
    run(monkeypatch, ckpt, clip, f"out={tmp_path}")
    assert re.search(
        r"frames, [\d.]+ fps of the model, [\d.]+ fps end to end$", caplog.text.strip()
    )


def test_detections_go_back_to_original_pixels(ckpt):
    config = OmegaConf.create(torch.load(ckpt, weights_only=True)[KEY]["config"])
    task = build_task(config, ("cat", "dog"))
    found = Detections(
        torch.tensor([[2.0, 4, 6, 8], [0, 0, 1, 1]]), torch.tensor([0.9, 0.1]), torch.tensor([1, 0])
    )
    original = task.to_original(found, torch.tensor([0.5, 2.0]))
    assert task.describe(original, 0.5) == {
        "detections": [{"class": "dog", "score": 0.9, "box": [4.0, 2.0, 12.0, 4.0]}]
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("threshold=high",), "threshold=high: expected a number of at least 0"),
        (("baseline=-1",), "baseline=-1: expected a number of at least 0"),
        (("acceleration.cuda_graphs=true",), "acceleration.cuda_graphs=true: needs an NVIDIA GPU"),
        (("baseline=1.5",), "baseline=1.5: expected a whole number"),
        (("preset=quick",), "preset=quick: expected one of ultrafast, superfast, veryfast, "),
        (("trainer.accelerator=gpuu",), "trainer.accelerator=gpuu, trainer.devices=1: You sel"),
        (("key_frames.interval=0",), "key_frames.interval: expected an integer >= 1, found 0"),
        (("key_frames.speed=0",), "key_frames.speed: unknown key, expected one of key_frames: "),
        (("out=/proc/nothing/here",), "out=/proc/nothing/here: "),
        (("ckpt=/no/such.ckpt",), "/no/such.ckpt: no such checkpoint"),
        (("video=",), "video= is missing; usage: flowfeat-predict ckpt="),
    ],
)
def test_bad_input_ends_in_one_line(monkeypatch, capsys, ckpt, clip, words, said):
    assert refusal(monkeypatch, capsys, 2, ckpt, clip, *words).startswith(said)


def test_the_device_is_the_first_that_the_trainer_names():
    def devices(*words):
        return predict.one_device(cli.compose_config(words))

    assert devices() == devices("trainer.devices=8") == devices("trainer=ddp") == 1
    assert devices("trainer=gpu", "trainer.devices=[2,3]") == [2]


def test_label_maps_are_what_the_overlay_shows(monkeypatch, clip, tmp_path):
    tiny = [word for word in TINY if not word.startswith("head.")]
    ckpt = stored(tmp_path / "city.ckpt", *DFF, *tiny, "task=cityscapes")
    maps = tmp_path / "out" / f"{clip.stem}_labels"
    maps.mkdir(parents=True)
    (maps / "000099.png").touch()  # of an earlier, longer video
    (maps / "notes.txt").touch()
    run(monkeypatch, ckpt, clip, f"out={tmp_path / 'out'}", "label_maps=true")
    names = [f"{n:06}.png" for n in range(FRAMES)]
    assert sorted(path.name for path in maps.iterdir()) == [*names, "notes.txt"]
    task = build_task(cli.compose_config([*tiny, *DFF, "task=cityscapes"]), CLASSES)
    shown = open_video(tmp_path / "out" / clip.name)
    for n, line in enumerate(lines_of(tmp_path / "out" / f"{clip.stem}.jsonl")):
        labels = cv2.imread(str(maps / names[n]), cv2.IMREAD_UNCHANGED)
        assert labels.shape == (HEIGHT, WIDTH)
        largest = CLASSES[np.bincount(labels.ravel()).argmax()]
        assert next(iter(line["classes"])) == largest
        drawn = task.render(open_video(clip).read([n])[0], torch.from_numpy(labels), None, 0.3)
        error = np.abs(drawn[20:].astype(int) - shown.read([n])[0][20:]).mean()
        assert error < 12  # what H.264 leaves of it; the key frame's mark is above


def test_label_maps_of_boxes_are_refused(monkeypatch, capsys, ckpt, clip):
    assert "label_maps=maybe: expected true or false" in refusal(
        monkeypatch, capsys, 2, ckpt, clip, "label_maps=maybe"
    )
    assert "label_maps=true: task vid predicts no label maps" in refusal(
        monkeypatch, capsys, 2, ckpt, clip, "label_maps=true"
    )


def test_what_is_no_video_is_named(monkeypatch, capsys, ckpt, tmp_path):
    (tmp_path / "text.mp4").write_text("no pictures here")
    (tmp_path / "empty").mkdir()
    for name, said in (
        ("missing.mp4", "no such video"),
        ("text.mp4", "not a video"),
        ("empty", "a folder without pictures"),
    ):
        line = refusal(monkeypatch, capsys, 2, ckpt, tmp_path / name)
        assert line.startswith(f"{tmp_path / name}: {said}")


def test_the_video_itself_is_never_replaced(monkeypatch, capsys, ckpt, clip):
    before = clip.read_bytes()
    line = refusal(monkeypatch, capsys, 2, ckpt, clip, f"out={clip.parent}")
    assert line.startswith(f"out={clip.parent}: would replace the video itself")
    assert clip.read_bytes() == before
