"""`flowfeat-fuse`: sums by hand; what does not fit together is refused with counts and names."""

import re
import sys

import pytest
import torch

from flowfeat import fuse as script
from flowfeat.fuse import fuse, read_stream
from flowfeat.scores import VideoScores, figures, write_scores

LABELS = torch.tensor([0, 1, 2, 0])


def stored(path, seed, levels=1, **changes):
    draw = torch.Generator().manual_seed(seed)
    scores = torch.randn(4, levels, 3, generator=draw)
    plain = VideoScores(("a", "b", "c", "d"), ("x", "y", "z"), LABELS, scores, (1.0,) * levels)
    found = plain._replace(**changes)
    write_scores(found, path)
    return found


def test_the_sum_is_weighted(tmp_path):
    a, b = stored(tmp_path / "a.npz", 1), stored(tmp_path / "b.npz", 2)
    streams = [read_stream(f"{tmp_path}/a.npz"), read_stream(f"{tmp_path}/b.npz:1.5")]
    total = a.scores[:, 0] + 1.5 * b.scores[:, 0]
    assert fuse(streams) == figures(total, LABELS)
    best = total.argmax(1)
    assert fuse(streams)["accuracy"] == pytest.approx(float((best == LABELS).float().mean()))


def test_levels_may_have_weights_of_their_own(tmp_path):
    a = stored(tmp_path / "a.npz", 3, levels=3, weights=(1.0, 0.0, 1.0))
    (own,) = [read_stream(f"{tmp_path}/a.npz:2")]
    torch.testing.assert_close(own.fused(), 2 * (a.scores[:, 0] + a.scores[:, 2]))
    each = read_stream(f"{tmp_path}/a.npz:1,2,0.5")
    torch.testing.assert_close(
        each.fused(), a.scores[:, 0] + 2 * a.scores[:, 1] + 0.5 * a.scores[:, 2]
    )
    with pytest.raises(ValueError, match="expected 1 weight or 3, one per level"):
        read_stream(f"{tmp_path}/a.npz:1,2")


def test_what_one_stream_says_nothing_about_the_other_may(tmp_path):
    a = stored(tmp_path / "a.npz", 4)
    a.scores[1] = torch.nan
    write_scores(a, tmp_path / "a.npz")
    b = stored(tmp_path / "b.npz", 5)
    total = a.scores[:, 0].nan_to_num() + b.scores[:, 0]
    streams = [read_stream(f"{tmp_path}/{n}.npz") for n in "ab"]
    assert fuse(streams) == figures(total, LABELS)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"names": ("a", "b", "c", "e")},
            "expected the 4 videos of .*a.npz, found 4, of which 3 are the same; d is only in one",
        ),
        (
            {"classes": ("x", "y", "other")},
            "expected the 3 classes of .*a.npz, found 3, of which 2 are the same; other is only",
        ),
        ({"classes": ("y", "x", "z")}, "the classes of .*a.npz in another order"),
        (
            {"labels": torch.tensor([0, 2, 2, 0])},
            "1 of 4 videos have another label than in .*a.npz, first b",
        ),
    ],
)
def test_scores_of_something_else_are_refused(tmp_path, monkeypatch, capsys, changes, said):
    stored(tmp_path / "a.npz", 1)
    stored(tmp_path / "b.npz", 2, **changes)
    words = [f"{tmp_path}/a.npz:1", f"{tmp_path}/b.npz:1.5"]
    monkeypatch.setattr(sys, "argv", ["flowfeat-fuse", *words])
    with pytest.raises(SystemExit) as left:
        script.main()
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert re.search(f"b.npz: {said}", error)
    assert error.count("\n") == 1


def test_the_command_prints_the_figures(tmp_path, monkeypatch, capsys):
    for name, seed in (("a", 1), ("b", 2)):
        stored(tmp_path / f"{name}.npz", seed)
    words = [f"{tmp_path}/a.npz", f"{tmp_path}/b.npz:1.5"]
    monkeypatch.setattr(sys, "argv", ["flowfeat-fuse", *words])
    script.main()
    printed = capsys.readouterr().out
    expected = fuse([read_stream(word) for word in words])
    for name, value in expected.items():
        assert re.search(rf"{name}\W+{value:.3f}", printed)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no scores; usage: flowfeat-fuse"),
        (["a.npz:-1"], "a.npz:-1: expected weights of at least 0, one above it, found -1"),
        (["a.npz:0"], "a.npz:0: expected weights of at least 0, one above it, found 0"),
        (["/no/such.npz:2"], "/no/such.npz: no such scores"),
    ],
)
def test_bad_words_end_in_one_line(monkeypatch, capsys, words, said):
    monkeypatch.setattr(sys, "argv", ["flowfeat-fuse", *words])
    with pytest.raises(SystemExit) as left:
        script.main()
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith(f"flowfeat: error: {said}")
