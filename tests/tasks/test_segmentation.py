"""SegmentationTask: one confusion matrix, counted again with numpy, and what it shows."""

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowfeat.heads.segmentation import Segmentation
from flowfeat.interfaces import FeatureNetwork, Features
from flowfeat.optimization import Optimization
from flowfeat.streaming import Result
from flowfeat.tasks.preview import Previewing
from flowfeat.tasks.segmentation import SegmentationTask, resize_labels, score_name
from flowfeat.tasks.video_task import Step
from flowfeat.temporal.per_frame import PerFrame

CLASSES = ("road", "traffic light", "sky", "car", "train")


class Tiny(FeatureNetwork):
    """One convolution at stride 4."""

    def __init__(self) -> None:
        super().__init__()
        self.channels, self.strides = (6,), (4,)
        self.convolution = nn.Conv2d(3, 6, 4, stride=4)

    def trunk(self, frames: Tensor) -> Features:
        return (self.convolution(frames),)


@pytest.fixture
def task() -> SegmentationTask:
    torch.manual_seed(0)
    optimization = Optimization(torch.optim.SGD, lambda step, total: 1.0)
    head = Segmentation((6,), (4,), len(CLASSES))
    with torch.no_grad():
        head.scores.weight.mul_(100)
    return SegmentationTask(PerFrame(Tiny()), head, CLASSES, optimization).eval()


def counted(found: list[np.ndarray], true: list[np.ndarray]) -> dict[str, float]:
    """Count TP, FP and FN over all pictures at once, class by class."""
    predicted = np.concatenate([f.ravel() for f in found]).astype(int)
    truth = np.concatenate([t.ravel() for t in true]).astype(int)
    predicted, truth = predicted[truth != 255], truth[truth != 255]
    scores = {}
    for label, name in enumerate(CLASSES):
        true_positive = np.sum((predicted == label) & (truth == label))
        union = np.sum((predicted == label) | (truth == label))
        if union:
            scores[score_name(name)] = true_positive / union
    return scores | {"mIoU": np.mean(list(scores.values()))}


def scored(task: SegmentationTask) -> dict[str, float]:
    return {name: float(value) for name, value in task.computed_metrics().items()}


def labels(rng: np.random.Generator, size: tuple[int, int], known: list[int]) -> np.ndarray:
    return rng.choice(np.array(known, np.uint8), size)


def test_scores_are_those_of_one_confusion_matrix(task):
    rng = np.random.default_rng(0)
    sizes = [(12, 16), (30, 9), (5, 5)]
    true = [labels(rng, size, [0, 1, 2, 3, 255]) for size in sizes]
    found = [np.where(rng.random(t.shape) < 0.6, t, labels(rng, t.shape, [0, 1, 2])) for t in true]
    found = [np.where(f == 255, 3, f).astype(np.uint8) for f in found]
    for f, t in zip(found, true, strict=True):
        task.score([torch.from_numpy(f)], [torch.from_numpy(t)])
    task.score([torch.from_numpy(found[0])], [None])  # a frame without a label does not count
    expected = counted(found, true)
    assert "IoU_traffic_light" in expected
    assert "IoU_train" not in expected
    assert scored(task) == pytest.approx(expected, abs=1e-6)
    means = [counted([f], [t])["mIoU"] for f, t in zip(found, true, strict=True)]
    assert abs(np.mean(means) - expected["mIoU"]) > 0.005  # no mean over pictures


def test_classes_that_nobody_names_do_not_count_and_imagined_ones_do(task):
    truth = torch.tensor([[0, 0, 2, 255]], dtype=torch.uint8)
    task.score([torch.tensor([[0, 0, 2, 4]], dtype=torch.uint8)], [truth])  # 4 where it is ignored
    assert scored(task) == {"mIoU": 1, "IoU_road": 1, "IoU_sky": 1}
    task.score([torch.tensor([[0, 4, 2, 2]], dtype=torch.uint8)], [truth])
    road, sky, imagined = 3 / 4, 1.0, 0.0
    expected = {"IoU_road": road, "IoU_sky": sky, "IoU_train": imagined}
    assert scored(task) == pytest.approx({"mIoU": (road + sky + imagined) / 3} | expected)


def test_predictions_are_scored_at_the_size_of_the_labels(task):
    coarse = torch.tensor([[0, 1], [2, 3]], dtype=torch.uint8)
    fine = coarse.repeat_interleave(3, 0).repeat_interleave(5, 1)
    task.score([coarse], [fine])
    assert scored(task)["mIoU"] == 1
    back = task.to_original(coarse, torch.tensor([1 / 5, 1 / 3]))
    assert torch.equal(back, fine)
    odd = torch.randint(0, 5, (64, 128), dtype=torch.uint8)
    assert task.to_original(odd, torch.tensor([128 / 333, 64 / 167])).shape == (167, 333)


def test_labels_are_never_mixed():
    labels = torch.tensor([[0, 200]], dtype=torch.uint8)
    assert set(resize_labels(labels, (7, 33)).unique().tolist()) == {0, 200}
    shrunk = resize_labels(torch.arange(9, dtype=torch.uint8).view(1, 9), (1, 3))
    assert shrunk.tolist() == [[1, 4, 7]]  # the middle of each three


def test_own_scores_are_told_from_other_figures(task):
    assert all(map(task.is_score, ("mIoU", "IoU_traffic_light", "IoU_train")))
    assert not any(map(task.is_score, ("fps", "IoU_bridge", "ms_F")))


def batch(steps: int, targets: list[int], label_size: tuple[int, int]) -> dict:
    generator = torch.Generator().manual_seed(3)
    return {
        "frames": torch.rand(1, steps, 3, 24, 40, generator=generator),
        "sizes": torch.tensor([[24, 40]]),
        "indices": torch.arange(5, 5 + steps)[None],
        "targets": torch.tensor([targets], dtype=torch.int64),
        "starts": torch.tensor([True]),
        "seeds": torch.tensor([0]),
        "snippets": ["aachen"],
        "label_maps": [
            torch.randint(0, 5, label_size, dtype=torch.uint8, generator=generator) for _ in targets
        ],
    }


def test_truth_belongs_to_its_step(task):
    clip = batch(4, [1, 3], (24, 40))
    assert task.truth(clip, 0) == [None]
    assert task.truth(clip, 1)[0] is clip["label_maps"][0]
    assert task.truth(clip, 3)[0] is clip["label_maps"][1]


def test_a_stream_scores_its_labelled_frames_only(task):
    clip = batch(4, [2], (48, 80))
    task.on_validation_epoch_start()
    task.validation_step(clip, 0)
    (found,) = task.head.postprocess(task.head(task.temporal.features(clip["frames"][:, 2]), None),
                                     clip["sizes"])  # fmt: skip
    large = found.numpy().repeat(2, 0).repeat(2, 1)
    assert scored(task) == pytest.approx(counted([large], [clip["label_maps"][0].numpy()]))


def test_consistency_is_that_of_neighbouring_frames_of_one_video(task):
    """A still picture whose labels change at its key frames; the second video begins anew."""
    logged: dict[str, float] = {}
    task.log = lambda name, value, **_: logged.update({name: float(value)})
    picture = batch(1, [], (1, 1))["frames"][:, 0]
    here = torch.randint(0, 5, (24, 40), generator=torch.Generator().manual_seed(1)).byte()
    changed = here.clone()
    changed[:6] = (here[:6] + 1) % 5  # a quarter
    for _ in range(2):  # passes do not add up
        task.on_validation_epoch_start()
        for t, labels in enumerate((here, here, changed, changed, 4 - here)):
            step = Step([None], picture, torch.tensor([t in (0, 4)]))
            task._score_all([Result(step, [labels], torch.tensor([t % 2 == 0]), torch.ones(1, 1))])
        task.on_validation_epoch_end()
        pixels = task.stream_metrics["consistency"].pixels.tolist()
        assert pixels == [2 * 24 * 40, 24 * 40]
    assert logged["consistency_inside"] == 1
    assert logged["consistency_across"] == 0.75
    off = SegmentationTask(task.temporal, task.head, CLASSES, task.optimization, consistency=False)
    assert not len(off.stream_metrics)


def test_training_lowers_the_loss(task):
    task.train()
    clip = batch(1, [0], (24, 40))
    clip["label_maps"] = [(clip["frames"][0, 0, 0] > 0.5).byte()]
    clip["frames"] = clip["frames"].round()
    optimiser = torch.optim.SGD(task.parameters(), 0.1)
    losses = []
    for _ in range(30):
        output = task.temporal(clip["frames"], torch.ones(1, 1, dtype=torch.bool), clip["targets"])
        loss = task.losses(output, clip)["segmentation"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("targets", [[2], []])
def test_a_preview_shows_frame_prediction_and_truth(task, targets):
    assert isinstance(task, Previewing)
    clip = batch(4, targets, (24, 40))
    preview = task.preview(clip)
    assert preview.caption.startswith(f"aachen: frame {7 if targets else 8} from")
    shown = 2 if targets else 3
    assert torch.equal(preview.current, clip["frames"][0, shown])
    assert preview.predicted.shape == preview.truth.shape == (24 * 9, 40 * 9, 3)
    assert not np.array_equal(preview.predicted, preview.truth)


def test_descriptions_are_shares_of_pixels(task):
    found = torch.zeros(10, 20, dtype=torch.uint8)
    found[:3] = 2
    found[9, 0] = 1
    assert task.describe(found, 0.5) == {
        "classes": {"road": 0.695, "sky": 0.3, "traffic light": 0.005}
    }
    picture = np.zeros((10, 20, 3), np.uint8)
    drawn = task.render(picture, found, None, 0.5)
    assert drawn.shape == picture.shape
    assert (drawn[5, 5] > 0).any()
    assert np.array_equal(task.label_map(found), found.numpy())


@pytest.mark.parametrize("old", [(9, 8), (64, 96), (368, 12), (600, 375)])
@pytest.mark.parametrize("new", [(3, 16), (128, 192), (1708, 261), (375, 500)])
def test_opencv_resizes_labels_only_where_it_takes_the_same_pixels(old, new):
    """368 -> 1708 and 12 -> 261 are sizes at which it takes others: half a pixel, rounded."""
    labels = torch.randint(0, 19, old, generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    rule = F.interpolate(labels[None, None].float(), size=new, mode="nearest-exact")[0, 0]
    assert torch.equal(resize_labels(labels, new), rule.to(torch.uint8))
    if (old, new) == ((368, 12), (1708, 261)):
        theirs = cv2.resize(labels.numpy(), new[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        assert not np.array_equal(theirs, rule.numpy())
