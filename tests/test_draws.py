"""Draws of a training step belong to the samples, not to the process."""

import torch

from flowfeat.draws import drop, mix, sample_seeds, seeded

MAPS = torch.ones(3, 8, 6, 7)


def test_a_rows_draws_follow_its_seed_wherever_it_stands() -> None:
    seeds = torch.tensor([5, 6, 5])
    torch.manual_seed(0)
    first = drop(MAPS, 0.5, seeds)
    torch.manual_seed(1)
    assert torch.equal(drop(MAPS, 0.5, seeds), first)
    assert torch.equal(first[0], first[2])
    assert not torch.equal(first[0], first[1])
    assert torch.equal(drop(MAPS[1:2], 0.5, seeds[1:2])[0], first[1])


def test_what_is_kept_is_scaled_up() -> None:
    dropped = drop(torch.ones(1, 64, 20, 20), 0.8, torch.tensor([3]))
    assert set(dropped.flatten().tolist()) == {0.0, torch.tensor(1 / (1 - 0.8)).item()}
    assert abs(float(dropped.mean()) - 1) < 0.05
    assert drop(MAPS, 0.0, None) is MAPS


def test_seeds_hold_inside_the_block_alone() -> None:
    assert sample_seeds() is None
    with seeded(torch.tensor([1, 2])):
        found = sample_seeds()
        assert found is not None
        assert found.tolist() == [1, 2]
    assert sample_seeds() is None


def test_parts_of_neighbouring_samples_get_different_seeds() -> None:
    mixed = mix(torch.arange(20)[:, None], torch.arange(30))
    assert len(set(mixed.flatten().tolist())) == 600
    assert mix(torch.tensor(2**62), 3) >= 0
