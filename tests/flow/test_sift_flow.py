"""SIFT Flow finds known motion: shifts, two regions, a generated scene."""

import cv2
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor
from torch.nn import functional as F

from data_modules.synthetic.scenes import Scene, SceneSettings
from flowfeat.cli import CONFIGS
from flowfeat.flow.sift_flow import SIFTFlow, matching_cost
from flowfeat.trust import build

LEAVES = ("sift_flow", "sift_flow_fast")


def leaf(name: str, stride: int = 8) -> SIFTFlow:
    return build(OmegaConf.load(CONFIGS / "flow" / f"{name}.yaml"))(
        channels=(4,), strides=(stride,)
    )


def texture(seed: int, height: int, width: int) -> Tensor:
    noise = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))
    return F.avg_pool2d(noise, 3, 1, 1)[0]


def moved(seed: int, dx: int, dy: int, height: int = 53, width: int = 63) -> tuple[Tensor, Tensor]:
    """Return frames (1, 3, H, W) with current(x) = key(x + d)."""
    whole = texture(seed, height + 40, width + 40)
    key = whole[:, 20 : 20 + height, 20 : 20 + width]
    current = whole[:, 20 + dy : 20 + dy + height, 20 + dx : 20 + dx + width]
    return current[None].clone(), key[None].clone()


def test_translations_are_found_to_the_pixel():
    """Two pairs at once, an odd size, and a motion far beyond the finest window."""
    truths = torch.tensor([[9, -6], [-3, 14]])
    pairs = [moved(row, *truth.tolist()) for row, truth in enumerate(truths)]
    current, key = (torch.cat(frames) for frames in zip(*pairs, strict=True))
    found = leaf("sift_flow").displacement(current, key)
    assert found.shape == (2, 2, 53, 63)
    inner = found[..., 16:-16, 16:-16]
    exact = (inner == truths[:, :, None, None]).all(1)
    assert exact.float().mean((1, 2)).min() > 0.95
    alone = leaf("sift_flow").displacement(current[1:], key[1:])
    assert torch.equal(alone[0], found[1])


def test_regions_move_each_in_its_own_way():
    """A square goes right and down before a background that goes left."""
    current, key = moved(0, -4, 0, 80, 104)
    square = texture(7, 48, 48)
    key[0, :, 18:66, 34:82] = square
    current[0, :, 16:64, 27:75] = square
    found = leaf("sift_flow").displacement(current, key)[0]
    inside = found[:, 19:61, 30:72] == torch.tensor([7, 2])[:, None, None]
    assert inside.all(0).float().mean() > 0.9
    around = torch.ones(80, 104, dtype=torch.bool)
    around[10:72, 19:90] = False  # what the square hides in either frame, and a SIFT cell or two
    around[:8], around[-8:], around[:, :8], around[:, -8:] = False, False, False, False
    outside = found == torch.tensor([-4, 0])[:, None, None]
    assert outside.all(0)[around].float().mean() > 0.95


@pytest.mark.parametrize(("name", "most"), [("sift_flow", 0.2), ("sift_flow_fast", 0.3)])
def test_a_generated_scene_is_followed(name, most):
    """End-point error on cells of 8 pixels, as a share of that of no motion."""
    scene = Scene(0, SceneSettings(size=(96, 128)))
    frames = [scene.render(t)[0] for t in (8, 3)]
    current, key = (torch.from_numpy(f).permute(2, 0, 1)[None].float() / 255 for f in frames)
    truth, visible = scene.flow(8, 3)
    cells = torch.from_numpy(cv2.resize(truth, (16, 12), interpolation=cv2.INTER_AREA)) / 8
    seen = torch.from_numpy(cv2.resize(visible.astype(np.float32), (16, 12))) > 0.5
    found = leaf(name)(current, key)
    assert found.scale is None
    error = (found.displacement[0].permute(1, 2, 0) - cells).norm(dim=2)[seen].mean()
    assert error < most * cells.norm(dim=2)[seen].mean()


@pytest.mark.parametrize("name", LEAVES)
def test_same_frames_and_flat_frames_do_not_move(name):
    frame = texture(4, 33, 50)[None]
    flat = torch.full_like(frame, 0.4)
    frames = torch.cat((frame, flat))
    assert (leaf(name, 1).displacement(frames, frames) == 0).all()


def test_matches_cost_their_distance_and_outside_the_median():
    ours, theirs = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[1.0, 5.0, 9.0]])
    centre = torch.zeros(2, 1, 1, 3, dtype=torch.int64)
    centre[0, 0, 0, 2] = -1
    costs = matching_cost(ours[None, ..., None], theirs[None, ..., None], centre, 1)
    # Inside are |1-1|, |1-5|; |2-1|, |2-5|, |2-9|; |4-1|, |4-5|, |4-9|: the lower median is 3.
    assert costs[1, :, 0, 0].T.tolist() == [[3, 0, 4], [1, 3, 7], [3, 1, 5]]
    assert (costs[0] == 3).all()
    assert (costs[2] == 3).all()


def test_the_match_limit_hides_a_wrong_patch():
    """With t far below any distance, the data say nothing and nothing moves."""
    current, key = moved(0, 3, 0)
    blind = SIFTFlow((1,), (1,), match_limit=0.0, levels=1, top_radius=4, top_iterations=3)
    assert (blind.displacement(current, key) == 0).all()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"levels": 0}, "flow.levels=0: expected at least 1"),
        ({"cell": 0}, "flow.cell=0: expected at least 1"),
        ({"iterations": -1}, "flow.iterations=-1: expected at least 1"),
        ({"smoothness": -2.0}, "flow.smoothness=-2.0: expected at least 0"),
        ({"match_limit": -1.0}, "flow.match_limit=-1.0: expected at least 0"),
    ],
)
def test_impossible_settings_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        SIFTFlow((1,), (8,), **settings)
