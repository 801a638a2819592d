"""From rewards to preferences, against loops; noisy labels against their probabilities."""

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

import objectives
from objectives import labels

# Compiled once each, because a dozen small programs would take longer to build.
pairs = jax.jit(objectives.pairs, static_argnums=2)
bradley_terry = jax.jit(objectives.bradley_terry)
best, worst, differs = map(jax.jit, (labels.best, labels.worst, labels.differs))

B, N = 3, 4
rewards = hnp.arrays(np.float32, (B, N), elements=st.sampled_from([0.0, 0.25, 0.5, 1.0]))
exists = hnp.arrays(np.bool_, (B, N))
thresholds = st.sampled_from([0.0, 0.25, 0.5])


def on_device(reward: np.ndarray, there: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """With something alarming wherever there is no response."""
    garbage = np.resize([np.nan, 99.0, -99.0, np.inf, -np.inf], reward.shape)
    return jnp.asarray(np.where(there, reward, garbage).astype(np.float32)), jnp.asarray(there)


def members(there: np.ndarray, b: int) -> list[int]:
    return [n for n in range(N) if there[b, n]]


@given(rewards, exists, thresholds)
def test_all_pairs_are_every_ordered_pair_with_a_gap_above_the_threshold(reward, there, threshold):
    marked = pairs(*on_device(reward, there), "all", threshold)
    for b, w, loser in np.ndindex(B, N, N):
        both = there[b, w] and there[b, loser]
        assert marked[b, w, loser] == (both and reward[b, w] > reward[b, loser] + threshold)


@given(rewards, exists, thresholds)
def test_best_against_worst_is_at_most_one_pair_per_group(reward, there, threshold):
    marked = pairs(*on_device(reward, there), "best_vs_worst", threshold)
    for b in range(B):
        expected = np.zeros((N, N), bool)
        group = members(there, b)
        if group:
            top = max(group, key=lambda n: reward[b, n])  # the first among equals
            bottom = min(group, key=lambda n: reward[b, n])
            expected[top, bottom] = reward[b, top] > reward[b, bottom] + threshold
        np.testing.assert_array_equal(marked[b], expected)


@given(rewards, exists)
def test_the_best_and_the_worst_are_the_first_among_equals(reward, there):
    marked = [np.asarray(f(*on_device(reward, there))) for f in (best, worst)]
    for b in range(B):
        for mark, choose in zip(marked, (max, min), strict=True):
            group = members(there, b)
            expected = [choose(group, key=lambda n: reward[b, n])] if group else []
            assert list(np.flatnonzero(mark[b])) == expected


@given(rewards, exists)
def test_a_group_differs_if_it_holds_two_rewards(reward, there):
    marked = differs(*on_device(reward, there))
    for b in range(B):
        assert marked[b] == (len({reward[b, n] for n in members(there, b)}) > 1)


def one_group(*reward: float) -> tuple[jax.Array, jax.Array]:
    """The first of the groups; the others are not there."""
    padded = np.zeros((B, N), np.float32)
    padded[0, : len(reward)] = reward
    there = np.zeros((B, N), bool)
    there[0, : len(reward)] = True
    return on_device(padded, there)


def test_a_labelled_pair_is_a_group_of_two():
    assert np.argwhere(pairs(*one_group(1.0, 0.0), "all", 0.0)).tolist() == [[0, 0, 1]]


def test_all_strict_pairs_are_the_default():
    default = objectives.pairs(*one_group(1.0, 0.0, 0.0, 0.5))
    np.testing.assert_array_equal(default, pairs(*one_group(1.0, 0.0, 0.0, 0.5), "all", 0.0))
    assert default.sum() == 5


@pytest.mark.parametrize("rule", ["all", "best_vs_worst"])
def test_a_tie_is_no_preference(rule):
    assert not pairs(*one_group(0.7, 0.7, 0.7, 0.7), rule, 0.0).any()


@pytest.mark.parametrize("rule", ["all", "best_vs_worst"])
def test_the_threshold_is_exclusive(rule):
    assert not pairs(*one_group(1.0, 0.5), rule, 0.5).any()
    assert pairs(*one_group(1.0, 0.5), rule, 0.49).sum() == 1


DRAWS = 40_000


def share(key: jax.Array, gap: float, temperature: float) -> float:
    """How often the first response is preferred when it is better by ``gap``."""
    better = np.full(DRAWS, 0.2 + gap, np.float32)
    drawn = bradley_terry(key, better, np.full(DRAWS, 0.2, np.float32), temperature)
    return float(np.asarray(drawn).mean())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_bradley_terry_prefers_with_the_probability_it_says(key, temperature):
    expected = 1 / (1 + np.exp(-0.7 / temperature))
    error = np.sqrt(expected * (1 - expected) / DRAWS)
    assert abs(share(key, 0.7, temperature) - expected) < 4 * error


def test_bradley_terry_is_certain_of_great_differences_and_fair_about_none(key):
    assert share(key, 1.0, 0.01) == 1
    assert share(key, -1.0, 0.01) == 0
    assert abs(share(key, 0.0, 1.0) - 0.5) < 4 * 0.5 / np.sqrt(DRAWS)


def test_bradley_terry_depends_on_the_key_alone():
    tied = np.zeros(DRAWS, np.float32)
    first, again, other = (bradley_terry(jax.random.key(k), tied, tied, 1.0) for k in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (np.asarray(first) != np.asarray(other)).any()


def test_labels_are_drawn_at_temperature_one_unless_told_otherwise(key):
    a, b = jnp.linspace(-1, 1, 64), jnp.zeros(64)
    default = objectives.bradley_terry(key, a, b)
    np.testing.assert_array_equal(default, objectives.bradley_terry(key, a, b, 1.0))
