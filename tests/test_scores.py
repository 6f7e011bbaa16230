"""Scores of videos: averages, fusion and figures against counts by hand; files that are refused."""

import numpy as np
import pytest
import torch

from flowfeat.scores import (
    Collected,
    VideoScores,
    consensus,
    figures,
    fuse_levels,
    read_scores,
    write_scores,
)

NAN = float("nan")


def videos(seed=0, count=40, levels=2, classes=7):
    draw = torch.Generator().manual_seed(seed)
    return VideoScores(
        tuple(f"v{n:03d}" for n in range(count)),
        tuple(f"class {n}" for n in range(classes)),
        torch.randint(0, classes, (count,), generator=draw),
        torch.randn(count, levels, classes, generator=draw),
        (1.0,) * levels,
    )


def counted(scores, labels):
    """Count in plain loops: right among the first 1 and 5, and the mean over classes that occur."""
    hits, top5, by_class = 0, 0, {}
    for row, label in zip(scores.tolist(), labels.tolist(), strict=True):
        order = sorted(range(len(row)), key=lambda c: -row[c])
        said = row[0] == row[0]
        hits += said and order[0] == label
        top5 += said and label in order[:5]
        by_class.setdefault(label, []).append(said and order[0] == label)
    mean = np.mean([np.mean(right) for right in by_class.values()])
    return {
        "accuracy": hits / len(labels),
        "top5": top5 / len(labels),
        "mean_class_accuracy": mean,
    }


@pytest.mark.parametrize("seed", range(4))
def test_the_figures_are_the_counts(seed):
    found = videos(seed, count=23, levels=1, classes=9)
    scores = found.scores[:, 0] + 2 * torch.nn.functional.one_hot(found.labels, 9)
    labels = found.labels.clamp(max=6)  # two classes never occur, but are predicted
    scores[3] = NAN  # said nothing: wrong
    assert figures(scores, labels) == pytest.approx(counted(scores, labels), abs=1e-6)


def test_with_few_classes_all_are_among_the_first_five():
    found = videos(classes=3, levels=1)
    assert figures(found.scores[:, 0], found.labels)["top5"] == pytest.approx(1)


def test_nothing_said_is_nothing_right():
    assert set(figures(torch.full((2, 3), NAN), torch.tensor([0, 1])).values()) == {0.0}


def test_the_consensus_counts_only_real_steps():
    steps = torch.tensor([[[1.0, 2.0]], [[3.0, 8.0]], [[NAN, 5.0]]])  # (T, L, C)
    scores, known = consensus(steps, torch.tensor([[True], [True], [False]]))
    assert scores.tolist() == [[2.0, 5.0]]
    assert known.tolist() == [True]
    scores, known = consensus(steps, torch.zeros(3, 1, dtype=torch.bool))
    assert scores.tolist() == [[0.0, 0.0]]
    assert known.tolist() == [False]


def test_levels_are_added_with_their_weights():
    scores = torch.tensor([[[1.0, 2], [10, 30]], [[4, 5], [NAN, NAN]], [[NAN, NAN], [7, 8]]])
    assert fuse_levels(scores, (1, 0.5)).tolist() == [[6, 17], [4, 5], [3.5, 4]]
    alone = fuse_levels(scores, (0, 2.0))
    assert alone[0].tolist() == [20, 60]
    assert alone[1].isnan().all()


def test_crops_of_one_video_are_averaged_whenever_they_come():
    collected = Collected("mean")
    collected.add("b", 1, torch.tensor([[1.0, 3.0]]), crops=2)
    collected.add("a", 0, torch.tensor([[5.0, 0.0]]), crops=1)
    collected.add("b", 1, torch.tensor([[4.0, 0.0]]), crops=1)
    found = collected.gathered(("x", "y"), (1.0,))
    assert found.names == ("a", "b")
    assert found.labels.tolist() == [0, 1]
    assert found.scores.tolist() == [[[5.0, 0.0]], [[2.0, 2.0]]]


def test_a_maximum_over_crops_needs_them_together():
    collected = Collected("max")
    collected.add("b", 1, torch.zeros(1, 2), crops=2)
    with pytest.raises(ValueError, match=r"module\.crops=max: expected all crops of b in one"):
        collected.add("b", 1, torch.zeros(1, 2), crops=1)


def test_a_file_gives_back_what_was_written(tmp_path):
    written = videos()
    written.scores[2, 1] = NAN
    write_scores(written, tmp_path / "scores.npz")
    read = read_scores(tmp_path / "scores.npz")
    assert read[:2] == written[:2]
    assert read.weights == written.weights
    assert torch.equal(read.labels, written.labels)
    assert torch.equal(read.scores.nan_to_num(99), written.scores.nan_to_num(99))
    assert [p.name for p in tmp_path.iterdir()] == ["scores.npz"]


def test_files_of_another_kind_are_refused_in_one_line(tmp_path):
    good = {
        "names": np.array(["a", "b"]),
        "classes": np.array(["x", "y"]),
        "labels": np.array([0, 1]),
        "scores": np.zeros((2, 1, 2), np.float32),
        "weights": np.ones(1, np.float32),
    }
    bad = {
        "pickled": {**good, "names": np.array(["a", {"b": 1}], dtype=object)},
        "twice": {**good, "names": np.array(["a", "a"])},
        "label": {**good, "labels": np.array([0, 2])},
        "shape": {**good, "scores": np.zeros((2, 2))},
        "words": {**good, "weights": np.array(["1"])},
        "letters": {**good, "scores": np.full((2, 1, 2), "a")},
        "without": {key: good[key] for key in ("names", "classes", "labels", "weights")},
    }
    for name, content in bad.items():
        np.savez(tmp_path / f"{name}.npz", **content)
    (tmp_path / "text.npz").write_text("no scores")
    np.save(tmp_path / "array.npy", np.zeros(3))
    for name in (*(f"{n}.npz" for n in bad), "text.npz", "array.npy"):
        with pytest.raises(ValueError, match=name) as refusal:
            read_scores(tmp_path / name)
        assert "\n" not in str(refusal.value)
    with pytest.raises(FileNotFoundError, match="no such scores"):
        read_scores(tmp_path / "absent.npz")


def test_a_damaged_file_is_refused_wherever_the_damage_is(tmp_path):
    write_scores(videos(), tmp_path / "good.npz")
    good, path = (tmp_path / "good.npz").read_bytes(), tmp_path / "bad.npz"
    refused = 0
    for place in range(0, len(good), 61):
        path.write_bytes(good[:place] + bytes([good[place] ^ 0xFF]) + good[place + 1 :])
        try:
            read_scores(path)  # some bytes say nothing
        except ValueError as error:
            refused += str(error).startswith(f"{path}: ")
    assert refused > 20
