"""RestorationTask: figures counted again by scikit-image, target frames only, and what it shows."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor, nn

from flowfeat.build import build_task
from flowfeat.cli import compose_config
from flowfeat.features.dncnn import DnCNN
from flowfeat.heads.restoration import Restoration
from flowfeat.optimization import Optimization
from flowfeat.prediction import Describing, Restoring
from flowfeat.tasks.preview import Previewing
from flowfeat.tasks.restoration import Reference, RestorationTask
from flowfeat.temporal.off_layer import OffLayer
from flowfeat.temporal.off_restoration import OffRestoration
from flowfeat.temporal.per_frame import PerFrame

HEIGHT, WIDTH = 21, 27


def made(frames: int | None = None) -> RestorationTask:
    """Return a small network: DnCNN, or OFF on so many frames."""
    torch.manual_seed(0)
    features = DnCNN(width=8)
    temporal: Any = PerFrame(features)
    if frames is not None:
        temporal = OffRestoration(features, partial(OffLayer, reduce_to=4), frames)
    head = Restoration((8,), (1,), depth=2)
    optimization = Optimization(partial(torch.optim.Adam, lr=1e-3), lambda step, total: 1.0)
    task = RestorationTask(temporal, head, (), optimization).eval()
    task.log = lambda *_, **__: None
    return task


def rounded(picture: np.ndarray) -> np.ndarray:
    return np.clip(np.round(picture), 0, 255).astype(np.uint8)


def pictures(count: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return (restored, degraded, clean), each (H, W, 3), of several qualities."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        clean = rng.integers(20, 236, (HEIGHT, WIDTH, 3)).astype(float)
        better, worse = (clean + rng.normal(0, s * (number + 1), clean.shape) for s in (2, 5))
        found.append((rounded(better), rounded(worse), rounded(clean)))
    return found


def chw(picture: np.ndarray) -> Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1)


def test_figures_are_means_over_pictures_and_scikit_images():
    task, found = made(), pictures(3)
    for restored, degraded, clean in found:
        reference = Reference(chw(clean) / 255, chw(degraded) / 255)
        task.score([chw(restored), chw(restored)], [reference, None])  # None: not a target
    psnr = partial(peak_signal_noise_ratio, data_range=255)
    ssim = partial(
        structural_similarity,
        data_range=255,
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    expected = {
        "PSNR": [psnr(c, r) for r, _, c in found],
        "PSNR_input": [psnr(c, d) for _, d, c in found],
        "PSNR_Y": [psnr(rgb2ycbcr(c)[..., 0], rgb2ycbcr(r)[..., 0]) for r, _, c in found],
        "SSIM": [ssim(c, r) for r, _, c in found],
    }
    ours = {name: float(value) for name, value in task.computed_metrics().items()}
    assert list(ours) == list(expected)
    for name, values in expected.items():
        assert ours[name] == pytest.approx(np.mean(values), abs=1e-3), name
    assert all(map(task.is_score, expected))
    task.reset_metrics()
    restored, degraded, clean = found[0]
    task.score([chw(restored)], [Reference(chw(clean) / 255, chw(degraded) / 255)])
    assert float(task.computed_metrics()["PSNR"]) == pytest.approx(expected["PSNR"][0], abs=1e-3)


def batch(length: int = 3, seeds: tuple[int, ...] = (0, 1), starts: bool = True) -> dict[str, Any]:
    """Return clips whose middle frame is the target, padded at the right."""
    frames, clean = [], []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        own = (torch.rand(length, 3, HEIGHT, WIDTH, generator=generator) * 255).round() / 255
        frames.append(nn.functional.pad(own, (0, 4)))
        clean.append((own[length // 2] + 0.02).clamp(0, 1))
    count = len(seeds)
    return {
        "frames": torch.stack(frames),
        "sizes": torch.tensor([[HEIGHT, WIDTH]] * count),
        "scales": torch.ones(count, 2),
        "indices": torch.arange(length).expand(count, -1),
        "targets": torch.tensor([[length // 2]] * count),
        "starts": torch.tensor([starts] * count),
        "seeds": torch.arange(count),
        "snippets": [f"clip {seed}" for seed in seeds],
        "clean": clean,
    }


@pytest.mark.parametrize("frames", [None, 2, 3])
def test_validation_scores_each_target_with_its_own_picture(frames):
    """With a network that changes nothing, a restored frame is its own input."""
    task = made(frames)
    nn.init.zeros_(task.head.layers[-1].weight)
    task.on_validation_epoch_start()
    task.head.train()  # the mode is the trainer's matter
    for seed in (0, 1, 2):
        task.validation_step(batch(seeds=(seed,)), 0)
    logged: dict[str, float] = {}
    task.log = lambda name, value, **_: logged.update({name: float(value)})
    task.on_validation_epoch_end()
    assert logged["PSNR"] == logged["PSNR_input"]
    inputs = [batch(seeds=(seed,)) for seed in (0, 1, 2)]
    psnrs = [
        peak_signal_noise_ratio(
            rounded(255 * b["clean"][0].numpy()),
            rounded(255 * b["frames"][0, 1, :, :, :WIDTH].numpy()),
            data_range=255,
        )
        for b in inputs
    ]
    assert logged["PSNR_input"] == pytest.approx(np.mean(psnrs), abs=1e-3)
    assert set(logged) == {"PSNR", "PSNR_input", "PSNR_Y", "SSIM"}  # and no share of key frames


@pytest.mark.parametrize("frames", [None, 1, 2, 3])
def test_a_few_steps_lower_the_loss(frames):
    task = made(frames).train()
    optimizer, _ = task.optimization.configure(task.parts(), total=10)
    losses = []
    for _ in range(8):
        loss = task.training_step(batch(), 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_preview_shows_input_restored_and_clean():
    task = made(3)
    assert isinstance(task, Previewing)
    data = batch()
    shown = task.preview(data)
    assert shown.key is None
    assert torch.equal(shown.current, data["frames"][0, 1, :, :, :WIDTH])
    assert shown.predicted.shape == shown.truth.shape == (HEIGHT, WIDTH, 3)
    assert np.array_equal(shown.truth, rounded(255 * data["clean"][0].permute(1, 2, 0).numpy()))
    # Frames 0 and 2 are neighbours of the target, so they must have been given to the network.
    data["frames"][0, 2] = 0
    assert not np.array_equal(task.preview(data).predicted, shown.predicted)
    assert shown.caption.startswith("clip 0: frame 1, ")
    data["targets"] = torch.zeros(2, 0, dtype=torch.int64)
    assert task.preview(data).caption == "clip 0: frame 2"


def test_predictions_are_pictures_of_the_videos_own_size():
    task = made()
    assert isinstance(task, Describing)
    assert isinstance(task, Restoring)
    restored, degraded, _ = pictures(1)[0]
    found = task.to_original(chw(restored), torch.ones(2))
    assert np.array_equal(task.render(degraded, found, None, 0.3), restored)
    assert task.describe(found, 0.3) == {"size": [HEIGHT, WIDTH]}
    with pytest.raises(ValueError, match=r"frames were resized by 0\.5 x 0\.5.*short_side=null"):
        task.to_original(found, torch.tensor([0.5, 0.5]))


@pytest.mark.parametrize("method", ["dff", "sff", "clockwork", "hold", "move", "dff_learned_keys"])
def test_key_frames_are_refused_in_one_line(method):
    config = compose_config(
        ["task=vimeo90k", f"method={method}", "features=dncnn", "head=restoration"]
    )
    with pytest.raises(ValueError, match="does not fit artifact removal") as refusal:
        build_task(config, ())
    said = str(refusal.value)
    assert "\n" not in said
    assert said.endswith("expected a method without key frames, as per_frame or off")
    if method not in ("hold", "move"):
        # By hand: 18 inner layers of 64 x 64 and two with 3 channels, 15 + 1 inner ones in N_task.
        speedup = (18 * 64 + 2 * 3) / (16 * 64 + 3)
        assert f"17 of 20 convolutions would run on every frame, so that s < {speedup:.2f}" in said
        assert speedup < 1.2


def test_the_text_has_18_convolutions_behind_the_off():
    """Section 7.2, Figure 6: 3 on each frame, 5 on the OFF, "the rest 18", against DnCNN's 20."""
    config = compose_config(["experiment=vimeo90k_off_text"])
    task = build_task(config, ())
    count = [
        sum(isinstance(m, nn.Conv2d) for m in part.modules())
        for part in (task.temporal.features, task.temporal.refinement, task.head)
    ]
    assert count == [3, 5, 18]


@pytest.mark.parametrize("words", [(), ("method=per_frame",)])
def test_the_papers_setting(words):
    config = compose_config(["experiment=vimeo90k_off_paper", *words])
    task = build_task(config, ())
    convolutions = [m for m in task.modules() if isinstance(m, nn.Conv2d)]
    of_dncnn = [*task.temporal.features.modules(), *task.head.modules()]
    assert sum(isinstance(m, nn.Conv2d) for m in of_dncnn) == 20
    assert words or task.temporal.off.out_channels == 3 * 128  # section 4: "reduced to 128"
    on_off = len(convolutions) - 20
    assert on_off == (0 if words else 1 + 5)  # the reduction and the five of Figure 6
    assert task.temporal.delay == (0 if words else 1)
    optimizer, scheduler = task.optimization.configure(task.parts(), total=100)
    assert isinstance(optimizer, torch.optim.Adam)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(5e-4)
    for _ in range(50):
        optimizer.step()
        scheduler.step()
    assert scheduler.get_last_lr()[0] == pytest.approx(2.5e-4)  # half of a cosine
    assert (config.data.batch_size, config.trainer.max_epochs) == (28, 50)
    assert config.data.augment == {"crop": None, "flip": 0.0}
