"""Warm-up pairs carry their true flow and depend on (seed, epoch, index) alone."""

import cv2
import numpy as np
import pytest
import torch

from data_modules.synthetic.scenes import SceneSettings
from data_modules.synthetic_flow import FlowPairs, SyntheticFlow

CLEAN = SceneSettings(noise=0, brightness=0, detail=0)


def module(**changes: object) -> SyntheticFlow:
    settings: dict[str, object] = {
        "size": (64, 80),
        "pairs_per_epoch": 8,
        "batch_size": 4,
        "val_pairs": 4,
        "num_workers": 0,
        "scene": CLEAN,
        **changes,
    }
    return SyntheticFlow(**settings)  # type: ignore[arg-type]


def test_batches_carry_flow_from_current_to_key() -> None:
    batch = next(iter(module(batch_size=8, val_pairs=8).train_dataloader()))
    assert batch["current"].dtype == batch["flow"].dtype == torch.float32
    assert batch["valid"].dtype == torch.bool
    y, x = np.mgrid[:64, :80].astype(np.float32)
    errors = np.zeros(2)
    for n in range(8):
        flow, valid = batch["flow"][n].numpy(), batch["valid"][n].numpy()
        key = np.ascontiguousarray(batch["key"][n].permute(1, 2, 0).numpy())
        current = batch["current"][n].permute(1, 2, 0).numpy()
        warped = cv2.remap(key, x + flow[0], y + flow[1], cv2.INTER_LINEAR)
        errors += [np.abs(picture - current)[valid].mean() for picture in (warped, key)]
    assert errors[0] / 8 < 0.008
    assert errors[0] < 0.25 * errors[1]


def test_epochs_differ_and_repeat() -> None:
    data = module()
    loader, again = data.train_dataloader(), module().train_dataloader()
    epochs = []
    for epoch in range(2):
        for each in (loader, again):
            each.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        pairs = torch.cat([batch["current"] for batch in loader])
        assert torch.equal(pairs, torch.cat([batch["current"] for batch in again]))
        epochs.append(pairs)
    assert len(torch.unique(torch.cat(epochs).flatten(1), dim=0)) == 16


def test_held_out_pairs_stay_and_are_others() -> None:
    loader = module().val_dataloader()
    first = torch.cat([batch["flow"] for batch in loader])
    loader.sampler.set_epoch(3)  # type: ignore[attr-defined]
    assert torch.equal(first, torch.cat([batch["flow"] for batch in loader]))
    train = torch.cat([batch["flow"] for batch in module().train_dataloader()])
    assert not any(torch.equal(a, b) for a in first for b in train)


def test_ranks_share_the_global_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    class Trainer:
        world_size = 2
        global_rank = 0

    whole = next(iter(module().train_dataloader()))["current"]
    shares = []
    for rank in range(2):
        data = module()
        trainer = Trainer()
        trainer.global_rank = rank
        data.trainer = trainer  # type: ignore[assignment]
        shares.append(next(iter(data.train_dataloader()))["current"])
        assert len(shares[-1]) == 2
    joined = torch.cat(shares)
    assert all(any(torch.equal(a, b) for b in joined) for a in whole)


def test_largest_distance_bounds_the_motion() -> None:
    pairs = FlowPairs(CLEAN, 6, 0, (0, 0))
    for index in range(6):
        item = pairs[(0, index)]
        assert torch.equal(item["current"], item["key"])
        assert item["flow"].abs().max() < 1e-3
    far = [FlowPairs(CLEAN, 6, 9, (0, 0))[(0, n)]["flow"].abs().max() for n in range(6)]
    assert max(far) > 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"pairs_per_epoch": 9}, "pairs_per_epoch"),
        ({"max_offset": -1}, "max_offset"),
    ],
)
def test_bad_numbers_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        module(**change)
