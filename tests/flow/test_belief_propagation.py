"""Belief propagation against exhaustive search on pixels, chains and small grids."""

import itertools

import numpy as np
import pytest
import torch

from flowfeat.flow.belief_propagation import minimise, spread

SMALL, SLOPE, LIMIT = 0.3, 1.0, 2.5


def energies(data: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the energy of every field that data (L, L, h, w) allow, and these (N, 2, h, w)."""
    labels, _, height, width = data.shape
    choices = np.array(list(itertools.product(range(labels**2), repeat=height * width)))
    v, u = np.divmod(choices.reshape(-1, height, width), labels)
    total = np.zeros(len(choices))
    for y, x in itertools.product(range(height), range(width)):
        total += data[v[:, y, x], u[:, y, x], y, x]
    fields = np.stack((u, v), 1) + centre - labels // 2
    total += SMALL * np.abs(fields).sum((1, 2, 3))
    for axis in (2, 3):
        steps = np.abs(np.diff(fields, axis=axis))
        total += np.minimum(SLOPE * steps, LIMIT).sum((1, 2, 3))
    return total, fields


def found(data: np.ndarray, centre: np.ndarray, iterations: int = 20) -> np.ndarray:
    field = minimise(
        torch.from_numpy(data)[:, :, None],
        torch.from_numpy(centre)[:, None],
        SMALL,
        SLOPE,
        LIMIT,
        iterations,
    )
    return field[:, 0].numpy()


def energy_of(field: np.ndarray, total: np.ndarray, fields: np.ndarray) -> float:
    (place,) = (fields == field).all((1, 2, 3)).nonzero()[0]
    return float(total[place])


def test_spread_is_the_minimum_convolution():
    costs = torch.rand(21, 7, generator=torch.Generator().manual_seed(0)) * 20
    steps = (torch.arange(21)[:, None] - torch.arange(21)).abs()
    expected = (costs[None] + 1.5 * steps[:, :, None]).amin(1)
    spread(costs, 1.5)
    torch.testing.assert_close(costs, expected)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", [(1, 4), (4, 1)])
@pytest.mark.parametrize("shifted", [False, True])
def test_a_chain_is_solved_exactly(seed, shape, shifted):
    """Also where every pixel searches around a middle of its own."""
    rng = np.random.default_rng(seed)
    data = rng.random((3, 1, *shape)) * 4 + rng.random((1, 3, *shape)) * 4
    centre = rng.integers(-2, 3, (2, *shape)) if shifted else np.zeros((2, *shape), dtype=np.int64)
    total, fields = energies(data, centre)
    np.testing.assert_array_equal(found(data, centre), fields[total.argmin()])


def test_the_data_couple_the_layers_of_a_pixel():
    """A lone pixel takes the best pair, which neither layer would choose by itself."""
    data = np.full((3, 3, 1, 1), 5.0)
    data[0, 2] = 1.0
    field = found(data, np.zeros((2, 1, 1), dtype=np.int64))
    assert field.ravel().tolist() == [1, -1]


@pytest.mark.parametrize("shifted", [False, True])
def test_a_grid_of_loops_comes_near_the_least_energy(shifted):
    """Noisy matches of one motion: messages end near the best field, pixels alone far from it."""
    above, above_alone = [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        data = rng.random((3, 3, 2, 2)) * 4
        data[1, 1] -= 1
        data -= data.min()
        centre = rng.integers(-1, 2, (2, 2, 2)) * int(shifted)
        total, fields = energies(data, centre)
        reached = energy_of(found(data, centre, 30), total, fields)
        v, u = np.divmod(data.reshape(9, 2, 2).argmin(0), 3)
        alone = energy_of(np.stack((u, v)) + centre - 1, total, fields)
        above.append(reached / total.min() - 1)
        above_alone.append(alone / total.min() - 1)
    assert np.mean(above) < 0.05
    assert np.mean(above_alone) > 0.5


def test_pairs_of_a_batch_do_not_mix():
    generator = torch.Generator().manual_seed(3)
    data = torch.rand(5, 5, 2, 6, 7, generator=generator) * 4
    centre = torch.randint(-2, 3, (2, 2, 6, 7), generator=generator)
    both = minimise(data, centre, SMALL, SLOPE, LIMIT, 10)
    for row in range(2):
        one = slice(row, row + 1)
        alone = minimise(data[:, :, one], centre[:, one], SMALL, SLOPE, LIMIT, 10)
        assert torch.equal(both[:, one], alone)
