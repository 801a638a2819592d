"""The shuffle is a permutation that differs by epoch and seed, looks random, and can be entered."""

import itertools
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from llm.data.order import InOrder, Order, permute


def epoch_of(size: int, seed: int = 0, epoch: int = 0) -> np.ndarray:
    return permute(np.arange(size), size, seed, epoch)


@pytest.mark.parametrize("size", [*range(1, 40), 64, 100, 127, 257, 1000, 4097, 65_537])
def test_an_epoch_visits_every_example_once(size):
    assert np.array_equal(np.sort(epoch_of(size)), np.arange(size))


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [epoch_of(1000, seed, epoch) for seed in range(3) for epoch in range(3)]
    for one, other in itertools.combinations(orders, 2):
        assert np.mean(one == other) < 0.01


def test_an_epoch_is_not_the_next_seeds_epoch_before():
    # A key made as seed + epoch would give run 1 the second epoch of run 0.
    assert not np.array_equal(epoch_of(1000, 0, 1), epoch_of(1000, 1, 0))


@pytest.mark.parametrize("size", [2, 3, 7, 16])
def test_the_first_place_is_taken_by_every_example_equally_often(size):
    draws = 400 * size
    firsts = Counter(int(permute(np.array([0]), size, 0, epoch)[0]) for epoch in range(draws // 10))
    counts = [firsts[row] for row in range(size)]
    assert stats.chisquare(counts).pvalue > 1e-3


def test_all_orders_of_four_examples_are_equally_likely():
    orders = Counter(tuple(epoch_of(4, seed).tolist()) for seed in range(720))
    counts = [orders[order] for order in itertools.permutations(range(4))]
    assert stats.chisquare(counts).pvalue > 1e-3


def test_neighbours_do_not_stay_neighbours():
    order = epoch_of(10_000)
    steps = np.abs(np.diff(order))
    # The mean distance of two random places is a third of the size.
    assert 0.31 < steps.mean() / 10_000 < 0.36
    assert abs(np.corrcoef(np.arange(10_000), order)[0, 1]) < 0.03


@pytest.mark.parametrize(("size", "batch"), [(10, 4), (7, 7), (5, 8), (3, 10), (1, 3)])
def test_steps_that_straddle_epochs_still_see_each_example_once_per_epoch(size, batch):
    order = Order(size, batch, seed=3)
    stream = np.concatenate([order.batch(step) for step in range(3 * size)])
    for epoch in range(len(stream) // size):
        assert np.array_equal(np.sort(stream[epoch * size : (epoch + 1) * size]), np.arange(size))


def test_a_step_far_away_is_the_same_as_having_walked_there():
    order = Order(1000, 32, seed=1)
    far = 10**9
    rows = order.batch(far)
    epochs, within = np.divmod(np.arange(far * 32, (far + 1) * 32), 1000)
    expected = [permute(within[i : i + 1], 1000, 1, int(epochs[i]))[0] for i in range(32)]
    assert rows.tolist() == expected


def test_any_integer_is_a_seed():
    for seed in (-1, 2**63, 2**200):
        assert np.array_equal(np.sort(epoch_of(20, seed)), np.arange(20))


def test_one_epoch_has_as_many_steps_as_it_needs():
    assert Order(10, 4, 0).steps(1) == 3
    assert Order(10, 4, 0).steps(2) == 5
    assert Order(10, 4, 0).steps(0.5) == 2


def test_a_pass_in_order_ends_with_a_short_step_and_then_with_nothing():
    order = InOrder(5, 2)
    assert [order.batch(step).tolist() for step in range(4)] == [[0, 1], [2, 3], [4], []]
    assert order.steps == 3


@pytest.mark.parametrize("make", [lambda: Order(0, 1, 0), lambda: InOrder(3, 0)])
def test_an_order_over_nothing_is_refused(make):
    with pytest.raises(ValueError, match="at least 1"):
        make()
