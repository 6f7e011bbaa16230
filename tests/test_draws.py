"""Draws of a training step belong to the samples, not to the process."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from flowfeat import draws
from flowfeat.draws import drop, kept, mix, sample_seeds, seeded, words

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


CPU = torch.device("cpu")


def test_the_bits_are_the_published_generators() -> None:
    """The first outputs of SplitMix64 for seed 1234567, as its authors' code gives them."""
    expected = (
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    )
    (found,) = words(torch.tensor([1234567]), 5).tolist()
    assert [bits % 2**64 for bits in found] == list(expected)


def by_hand(seed: int, count: int, share: float) -> list[bool]:
    """Python's whole numbers of any size: what every device has to give."""
    full = 2**64

    def output(state: int) -> int:
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % full
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % full
        return state ^ (state >> 31)

    key = output((seed + 0x9E3779B97F4A7C15) % full)
    found = []
    for position in range(count):
        bits = output((key + (position // 2 + 1) * 0x9E3779B97F4A7C15) % full)
        half = bits >> 32 if position % 2 else bits % 2**32
        signed = half - 2**32 if half >= 2**31 else half
        found.append(signed >= round(share * 2**32) - 2**31)
    return found


@pytest.mark.parametrize("at_once", [1, 2**22])
def test_every_value_is_that_of_its_seed_and_position_alone(monkeypatch, at_once: int) -> None:
    monkeypatch.setattr(draws, "_AT_ONCE", at_once)
    seeds = torch.tensor([0, 1, 2**62 - 1, 12345678901234567])
    found = kept(seeds, 21, 0.8, CPU)
    assert found.tolist() == [by_hand(seed, 21, 0.8) for seed in seeds.tolist()]


def test_the_draws_are_spread_as_chance_is() -> None:
    """Over 200 neighbouring samples: the share, rows and places, and pairs of both."""
    seeds = mix(torch.arange(200), 3)
    stays = kept(seeds, 5000, 0.8, CPU).numpy()
    deviation = (0.8 * 0.2) ** 0.5
    assert abs(stays.mean() - 0.2) < 4 * deviation / stays.size**0.5
    for axis, count in ((1, 5000), (0, 200)):  # sums of independent draws are normal
        z = (stays.mean(axis=axis) - 0.2) / (deviation / count**0.5)
        assert np.abs(z).max() < 5
        assert abs(z.std() - 1) < 4 / (2 * z.size) ** 0.5
    for one, other in ((stays[:, 1:], stays[:, :-1]), (stays[1:], stays[:-1])):
        correlation = np.corrcoef(one.ravel(), other.ravel())[0, 1]
        assert abs(correlation) < 4 / one.size**0.5
    values, counts = np.unique(words(seeds, 500).numpy() & 15, return_counts=True)
    assert len(values) == 16
    assert stats.chisquare(counts).pvalue > 1e-3


def test_a_units_draw_is_a_few_calls_and_little_memory() -> None:
    """Pairs took a generator each, as many calls, and all their draws at once beside the maps."""

    class Count(TorchDispatchMode):
        calls, largest = 0, 0  # largest: bytes of a result that is no mask

        def __torch_dispatch__(self, function, types, arguments=(), options=None):  # type: ignore[no-untyped-def]
            result = function(*arguments, **(options or {}))
            self.calls += 1
            if isinstance(result, Tensor) and result.dtype != torch.bool:
                self.largest = max(self.largest, result.numel() * result.element_size())
            return result

    maps = torch.ones(768, 8, 7, 7)
    with Count() as count:
        drop(maps, 0.8, torch.arange(768))
    assert count.calls < 50
    assert count.largest <= maps.numel() * maps.element_size()  # the result itself
