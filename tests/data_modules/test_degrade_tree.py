"""A degraded tree is made once, all or nothing per clip, goes on after any end, knows itself."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from data_modules import degrade_tree
from data_modules.clean_clips import CleanClip, CleanFrames
from data_modules.degrade_codecs import Degradation, Ffmpeg
from data_modules.degrade_manifest import (
    JOURNAL,
    MANIFEST,
    Recipe,
    check_tree,
    read_journal,
)
from data_modules.degrade_tree import degrade_clips, psnr
from data_modules.pictures import read_pictures, write_png
from data_modules.septuplets import FRAMES
from data_modules.synthetic.scenes import Scene, SceneSettings
from flowfeat.video_writer import VideoWriter

COMMAND = "flowfeat-degrade data=vimeo90k"
SIZE = (32, 48)


def picture(seed: int, t: int = 0) -> np.ndarray:
    return Scene(seed, SceneSettings(size=SIZE)).render(t).image


@pytest.fixture
def clips(tmp_path: Path) -> list[CleanClip]:
    found = []
    for number in range(1, 5):
        folder = tmp_path / f"clean/00001/000{number}"
        folder.mkdir(parents=True)
        for t, name in enumerate(FRAMES):
            write_png(folder / name, picture(number, t))
        found.append(CleanClip(f"00001/000{number}", folder, FRAMES))
    return found


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return tmp_path / "degraded/jpeg2000_q20"


def test_the_tree_is_parallel_and_its_psnr_is_true(clips: list[CleanClip], tree: Path) -> None:
    done = degrade_clips(clips, tree, Degradation(), workers=2)
    scores = []
    for clip in clips:
        clean = read_pictures(clip.path, FRAMES)
        found = read_pictures(tree / clip.name, FRAMES)
        assert sorted(p.name for p in (tree / clip.name).iterdir()) == sorted(FRAMES)
        pairs = zip(clean, found, strict=True)
        scores.append(np.mean([peak_signal_noise_ratio(c, f) for c, f in pairs]))
        assert done[clip.name].psnr == pytest.approx(scores[-1], abs=1e-3)
    manifest = json.loads((tree / MANIFEST).read_text())
    assert manifest["psnr_input"] == pytest.approx(np.mean(scores), abs=2e-3)
    assert (manifest["clips"], manifest["frames"], manifest["complete"]) == (4, 28, True)
    assert manifest["recipe"]["encoder"].startswith("4.2.2")
    assert {p.name for p in tree.iterdir()} == {"00001", MANIFEST, JOURNAL}


def test_a_whole_video_is_one_clip(tmp_path: Path, tree: Path) -> None:
    path = tmp_path / "a.mp4"
    with VideoWriter(path, 25, SIZE, crf=0, threads=1) as video:
        for t in range(19):
            video.write(picture(7, t))
    clip = CleanClip("videos/a.mp4", path)
    done = degrade_clips([clip], tree, Degradation("h264", 30))
    assert done[clip.name].frames == 19
    found = read_pictures(tree / clip.name, [f"{t:06}.png" for t in range(19)])
    clean = CleanFrames().read(clip, range(19))
    scores = np.array([[psnr(f, c) for c in clean] for f in found])
    assert scores.argmax(axis=1).tolist() == list(range(19))
    assert len(list((tree / clip.name).iterdir())) == 19


def test_psnr_of_what_comes_back_unchanged_is_finite() -> None:
    black = np.zeros((8, 8, 3), np.uint8)
    assert psnr(black, black) == 100
    assert psnr(black, black + np.uint8(1)) == pytest.approx(20 * np.log10(255))


def test_nothing_is_made_twice(clips: list[CleanClip], tree: Path) -> None:
    first = degrade_clips(clips[:2], tree, Degradation())
    before = (tree / clips[0].name / "im1.png").stat().st_mtime_ns
    both = degrade_clips(clips, tree, Degradation())
    assert (tree / clips[0].name / "im1.png").stat().st_mtime_ns == before
    assert {name: both[name] for name in first} == first
    assert len(both) == 4


def test_an_interrupted_run_goes_on(
    clips: list[CleanClip], tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, count, once = degrade_tree._degrade, [0], threading.Lock()

    def interrupted(*args: object) -> object:
        with once:
            count[0] += 1
            if count[0] > 2:
                raise KeyboardInterrupt
        return whole(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(degrade_tree, "_degrade", interrupted)
    with pytest.raises(KeyboardInterrupt, match=r"interrupted, 2 of 4 clips are left; the same"):
        degrade_clips(clips, tree, Degradation(), workers=1)
    assert not json.loads((tree / MANIFEST).read_text())["complete"]
    names = [clip.name for clip in clips]
    line = r"half made, 2 of 4 clips are missing \(00001/0003, 00001/0004\): .* goes on"
    with pytest.raises(FileNotFoundError, match=line):
        check_tree(tree, Recipe.of(Degradation(), None), names, COMMAND)
    monkeypatch.setattr(degrade_tree, "_degrade", whole)
    degrade_clips(clips, tree, Degradation(), workers=1)
    lengths = check_tree(tree, Recipe.of(Degradation(), None), names, COMMAND)
    assert lengths == dict.fromkeys(names, 7)
    assert json.loads((tree / MANIFEST).read_text())["complete"]


def test_traces_of_a_killed_process_do_no_harm(clips: list[CleanClip], tree: Path) -> None:
    degrade_clips(clips[:2], tree, Degradation())
    truth = (tree / clips[0].name / "im1.png").read_bytes()
    with (tree / JOURNAL).open("a") as journal:
        journal.write('{"name": "00001/00')  # cut off
    (tree / ".partial/abc").mkdir(parents=True)
    half = tree / clips[2].name  # complete on disk, but the journal does not know it
    half.mkdir()
    (half / "im1.png").write_bytes(b"old")
    degrade_clips(clips, tree, Degradation())
    assert len(read_journal(tree)) == 4
    assert len(list(half.iterdir())) == 7
    assert not (tree / ".partial").exists()
    assert (tree / clips[0].name / "im1.png").read_bytes() == truth


def test_clips_that_were_lost_since_are_made_again(clips: list[CleanClip], tree: Path) -> None:
    names, recipe = [clip.name for clip in clips], Recipe.of(Degradation(), None)
    degrade_clips(clips, tree, Degradation())
    truth = (tree / names[1] / "im3.png").read_bytes()
    shutil.rmtree(tree / names[0])
    (tree / names[1] / "im3.png").unlink()
    line = r"half made, 1 of 4 clips are missing \(00001/0001\): .* goes on"
    with pytest.raises(FileNotFoundError, match=line):
        check_tree(tree, recipe, names, COMMAND)
    degrade_clips(clips, tree, Degradation())
    assert check_tree(tree, recipe, names, COMMAND) == dict.fromkeys(names, 7)
    assert all(len(list((tree / name).iterdir())) == 7 for name in names)
    assert (tree / names[1] / "im3.png").read_bytes() == truth


def test_a_spoilt_manifest_is_named_and_a_spoilt_journal_begun_anew(
    clips: list[CleanClip], tree: Path
) -> None:
    degrade_clips(clips[:2], tree, Degradation())
    spoilt = b'{"name": "x", "frames": "y", "psnr": 1}\n\xff\xfe\n'
    (tree / JOURNAL).write_bytes(spoilt + (tree / JOURNAL).read_bytes())
    assert set(read_journal(tree)) == {clip.name for clip in clips[:2]}
    degrade_clips(clips, tree, Degradation())
    assert b"\xff" not in (tree / JOURNAL).read_bytes()
    (tree / MANIFEST).write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=f"{MANIFEST}: expected a manifest of degraded frames"):
        degrade_clips(clips, tree, Degradation())


@pytest.mark.parametrize(
    ("other", "line"),
    [
        ({"quality": 40}, "made with jpeg2000 40: expected jpeg2000 20"),
        ({"encoder": "9.0.2"}, "made by FFmpeg 9.0.2: expected 4.2.2"),
        ({"arguments": "-x"}, "made with -x: expected -c:v jpeg2000"),
        ({"source": "abc"}, "made from an embedded set of other settings"),
    ],
)
def test_a_tree_made_otherwise_is_refused(
    clips: list[CleanClip], tree: Path, other: dict[str, object], line: str
) -> None:
    degrade_clips(clips[:1], tree, Degradation())
    wanted = Recipe.of(Degradation(), None)
    manifest = json.loads((tree / MANIFEST).read_text())
    manifest["recipe"] |= other
    (tree / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=f"{tree}: {line}.*; remove that folder") as raised:
        check_tree(tree, wanted, [clips[0].name], COMMAND)
    assert COMMAND in str(raised.value)
    assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match=line):
        degrade_clips(clips[:1], tree, Degradation())
    degrade_clips(clips[:1], tree, Degradation(), replace=True)
    assert check_tree(tree, wanted, [clips[0].name], COMMAND)


def test_another_ffmpeg_is_noticed(
    clips: list[CleanClip], tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    degrade_clips(clips[:1], tree, Degradation())
    recipe = Recipe.of(Degradation(), None)
    other = Ffmpeg(degrade_tree.ffmpeg().path, "9.0.2-static")
    monkeypatch.setattr("data_modules.degrade_manifest.ffmpeg", lambda: other)
    assert Recipe.of(Degradation(), None) == replace(recipe, encoder="9.0.2-static")
    with pytest.raises(ValueError, match=r"made by FFmpeg 4.2.2\S*: expected 9.0.2-static"):
        degrade_clips(clips, tree, Degradation())


def test_no_tree_and_foreign_folders(clips: list[CleanClip], tree: Path) -> None:
    wanted = Recipe.of(Degradation(), None)
    with pytest.raises(FileNotFoundError, match=f"no degraded frames: {COMMAND} makes them"):
        check_tree(tree, wanted, ["00001/0001"], COMMAND)
    tree.mkdir(parents=True)
    (tree / "holiday.png").write_bytes(b"")
    for replace_it in (False, True):
        with pytest.raises(ValueError, match=r"found holiday.png; it is left alone"):
            degrade_clips(clips, tree, Degradation(), replace=replace_it)
    assert (tree / "holiday.png").exists()
    (tree / MANIFEST).write_text("{")
    with pytest.raises(ValueError, match=f"{MANIFEST}: expected a manifest"):
        check_tree(tree, wanted, ["00001/0001"], COMMAND)


def test_bad_clips_are_named_and_the_others_are_made(clips: list[CleanClip], tree: Path) -> None:
    (clips[1].path / "im5.png").unlink()
    write_png(clips[2].path / "im6.png", picture(3)[:-2])
    with pytest.raises(ValueError, match=r"2 of 4 clips could not be degraded .*: \S+/im") as found:
        degrade_clips(clips, tree, Degradation(), workers=1)
    assert "0002/im5.png: no such picture" in str(found.value)
    assert set(read_journal(tree)) == {clips[0].name, clips[3].name}
    assert not (tree / clips[1].name).exists()
    with pytest.raises(ValueError, match=r"0003/im6.png: 48x30 pixels: expected 48x32"):
        degrade_clips(clips[2:], tree, Degradation())


def test_workers_must_be_some(clips: list[CleanClip], tree: Path) -> None:
    with pytest.raises(ValueError, match="workers=0: expected 1 or more"):
        degrade_clips(clips, tree, Degradation(), workers=0)


_SLOWLY = """
import signal, sys, time
from pathlib import Path
from data_modules import degrade_tree
from data_modules.clean_clips import CleanClip
from data_modules.degrade_codecs import Degradation
from data_modules.septuplets import FRAMES
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background
tree, *folders = map(Path, sys.argv[1:])
clips = [CleanClip(f"00001/{f.name}", f, FRAMES) for f in folders]
whole = degrade_tree.write_png
degrade_tree.write_png = lambda path, picture: (time.sleep(0.2), whole(path, picture))
try:
    degrade_tree.degrade_clips(clips, tree, Degradation(), workers=1)
except KeyboardInterrupt as error:
    sys.exit(str(error))
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_process_can_be_stopped_at_any_time(
    clips: list[CleanClip], tree: Path, how: signal.Signals
) -> None:
    words = [sys.executable, "-c", _SLOWLY, str(tree), *(str(clip.path) for clip in clips)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment)
    while not (tree / JOURNAL).is_file() or len(read_journal(tree)) < 1:
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(how)
    _, said = process.communicate(timeout=20)
    if how == signal.SIGINT:
        assert "clips are left; the same command goes on" in said
        assert not (tree / ".partial").exists()
    finished = set(read_journal(tree))
    assert 1 <= len(finished) < 4
    assert all(len(list((tree / name).iterdir())) == 7 for name in finished)
    degrade_clips(clips, tree, Degradation())
    assert len(read_journal(tree)) == 4
