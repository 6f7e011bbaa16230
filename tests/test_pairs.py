"""The paper's pairs against streams, on videos in which every score is known by hand."""

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from flowfeat.evaluation import evaluate
from flowfeat.flow.zero import ZeroFlow
from flowfeat.heads.segmentation import Segmentation
from flowfeat.interfaces import FeatureNetwork, Features
from flowfeat.key_frames.schedules import Fixed
from flowfeat.optimization import Optimization
from flowfeat.pairs import PairEvaluation, over_interval, spread
from flowfeat.tasks.segmentation import SegmentationTask
from flowfeat.temporal.feature_flow import FeatureFlow
from flowfeat.temporal.per_frame import PerFrame

CLASSES = ("red", "green", "blue")
VIDEOS = ("rrgbgb", "bbbrrrrr")
"""The colour of each frame; only the last one is labelled, with its own colour."""


class Colours(FeatureNetwork):
    """The mean colour of each 4 x 4 cell; the class is the brightest colour."""

    channels, strides = (3,), (4,)

    def trunk(self, frames: Tensor) -> Features:
        return (F.avg_pool2d(frames, 4),)


class Chunks(pl.LightningDataModule):
    """The videos in chunks of three frames, as a data module streams them."""

    def test_dataloader(self):
        chunks = []
        for name in VIDEOS:
            frames = torch.zeros(len(name), 3, 8, 12)
            for t, colour in enumerate(name):
                frames[t, "rgb".index(colour)] = 1
            for start in range(0, len(name), 3):
                part = frames[None, start : start + 3]
                last = start + part.shape[1] == len(name)
                label = torch.full((8, 12), "rgb".index(name[-1]), dtype=torch.uint8)
                chunks.append(
                    {
                        "frames": part,
                        "sizes": torch.tensor([[8, 12]]),
                        "indices": torch.arange(start, start + part.shape[1])[None],
                        "targets": torch.tensor([[part.shape[1] - 1] if last else []]).long(),
                        "starts": torch.tensor([start == 0]),
                        "snippets": [name],
                        "label_maps": [label] if last else [],
                    }
                )
        return torch.utils.data.DataLoader(chunks, batch_size=None)


def segmentation(temporal) -> SegmentationTask:
    head = Segmentation((3,), (4,), 3)
    with torch.no_grad():
        head.scores.weight.copy_(torch.eye(3)[..., None, None])
    optimization = Optimization(torch.optim.SGD, lambda step, total: 1.0)
    return SegmentationTask(temporal, head, CLASSES, optimization, consistency=False)


def copying(interval: int) -> FeatureFlow:
    """A method whose flow is zero: every frame gets its key frame's class."""
    return FeatureFlow(Colours(), ZeroFlow((3,), (4,)), Fixed(interval))


@pytest.fixture
def trainer(tmp_path) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


# Labelled: b and r. Key frames at distance 0 .. 4 before them: b, g, b, g, r and r, r, r, r, r.
# Counts per class over both pictures: at an even distance both are right; at 1 and 3 the first is
# green instead of blue (IoU of blue 0, of green 0, of red 1); at 4 it is red (blue 0, red 1 / 2).
DISTANCE = [1.0, 1 / 3, 1.0, 1 / 3, 1 / 4]


def test_scores_by_distance_are_those_counted_by_hand(trainer):
    pairs = PairEvaluation(segmentation(copying(5)), 5)
    trainer.test(pairs, datamodule=Chunks(), verbose=False)
    found = [scores["mIoU"] for scores in pairs.by_distance]
    assert found == pytest.approx(DISTANCE)
    assert pairs.by_distance[1]["IoU_green"] == 0  # imagined
    assert "IoU_green" not in pairs.by_distance[0]
    trainer.test(pairs, datamodule=Chunks(), verbose=False)  # nothing is left from the first test
    assert [scores["mIoU"] for scores in pairs.by_distance] == pytest.approx(DISTANCE)


def test_the_report_has_pairs_streams_and_distances(trainer):
    task = segmentation(copying(5))
    report = evaluate(trainer, task, Chunks(), intervals=[1, 2], copy=True, pairs_every=1)
    mean = {1: 1.0, 2: sum(DISTANCE[:2]) / 2, 5: sum(DISTANCE) / 5}
    for interval, value in mean.items():
        assert report[f"mIoU_l{interval}"] == pytest.approx(value)
    for distance, value in enumerate(DISTANCE):
        assert report[f"mIoU_distance{distance}_l5"] == pytest.approx(value)
        assert report[f"mIoU_distance{distance}_copy_l5"] == pytest.approx(value)
    assert report["mIoU_worst_l5"] == pytest.approx(1 / 4)
    assert report["mIoU_copy_l5"] == pytest.approx(mean[5])
    # Streams: at l = 2 the frames 5 and 7 follow their key frames 4 (green) and 6 (red); at l = 5
    # frame 5 is a key frame itself, and frame 7 follows frame 5 (red).
    assert report["mIoU_stream_l1"] == 1
    assert report["mIoU_stream_l2"] == pytest.approx(1 / 3)
    assert report["mIoU_stream_l5"] == 1
    # Red: 1 at distance 0 .. 3, 1 / 2 at 4; green: imagined at 1 and 3 alone.
    assert report["IoU_red_l5"] == pytest.approx(0.9)
    assert report["IoU_green_l5"] == 0
    assert report["IoU_blue_l5"] == pytest.approx(2 / 5)
    assert not [name for name in report if "pairs" in name]


def test_methods_without_key_frames_have_plain_names(trainer):
    report = evaluate(trainer, segmentation(PerFrame(Colours())), Chunks(), [1, 5], True, 1)
    assert report == {"mIoU": 1, "IoU_red": 1, "IoU_blue": 1}


def test_without_pairs_only_streams_are_left(trainer):
    report = evaluate(trainer, segmentation(copying(2)), Chunks(), pairs_every=0)
    assert report["mIoU_stream_l2"] == pytest.approx(1 / 3)
    assert {name for name in report if not name.endswith("_stream_l2")} == {"key_share_l2"}


def test_pairs_before_the_video_are_left_out(trainer):
    pairs = PairEvaluation(segmentation(copying(2)), 8)
    trainer.test(pairs, datamodule=Chunks(), verbose=False)
    found = [scores.get("mIoU") for scores in pairs.by_distance]
    assert found[:5] == pytest.approx(DISTANCE)
    assert found[6] == 0  # only the second video is that long: its frame 1 is blue, not red
    assert found[7] == 0
    pairs = PairEvaluation(segmentation(copying(2)), 9)
    trainer.test(pairs, datamodule=Chunks(), verbose=False)
    assert pairs.by_distance[8] == {}


def test_every_other_frame(trainer):
    pairs = PairEvaluation(segmentation(copying(2)), 1, every=7)  # frame 6, 13, ...: not labelled
    trainer.test(pairs, datamodule=Chunks(), verbose=False)
    assert pairs.by_distance == [{}]
    with pytest.raises(ValueError, match="expected interval, every >= 1, found 0, 1"):
        PairEvaluation(segmentation(copying(2)), 0)


def test_averages_skip_distances_without_a_score():
    scores = [{"mIoU": 1.0, "IoU_red": 0.5}, {"mIoU": 0.5}, {}]
    assert over_interval(scores, 3) == {"mIoU": 0.75, "IoU_red": 0.5}
    assert over_interval(scores, 1) == {"mIoU": 1.0, "IoU_red": 0.5}
    expected = {"mIoU_distance0": 1.0, "mIoU_distance1": 0.5, "mIoU_worst": 0.5}
    assert spread(scores, "mIoU") == expected
    assert spread(scores, "mIoU", "min")["mIoU_worst"] == 1.0
    assert spread(scores, "PSNR") == {}


def test_frames_of_another_size_make_no_pairs(trainer):
    """The last chunk of the second video, of two frames, is taller than what came before it."""

    class Resized(Chunks):
        def test_dataloader(self):
            chunks = list(super().test_dataloader())
            chunks[-1]["frames"] = chunks[-1]["frames"].repeat_interleave(2, dim=3)
            chunks[-1]["sizes"] = torch.tensor([[16, 12]])
            return torch.utils.data.DataLoader(chunks, batch_size=None)

    pairs = PairEvaluation(segmentation(copying(2)), 5)
    trainer.test(pairs, datamodule=Resized(), verbose=False)
    assert [int(count.compute()) for count in pairs.pairs] == [2, 2, 1, 1, 1]
