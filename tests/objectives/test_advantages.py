"""Advantage estimators against loops."""

import functools
from math import sqrt

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

import objectives
from objectives import ADVANTAGES

# Compiled once each, because a dozen small programs would take longer to build.
batch_mean, gae, group_mean, group_zscore, leave_one_out, running_mean, whiten = map(
    jax.jit,
    (
        objectives.batch_mean,
        objectives.gae,
        objectives.group_mean,
        objectives.group_zscore,
        objectives.leave_one_out,
        objectives.running_mean,
        objectives.whiten,
    ),
)
kl_in_reward, kl_in_token_reward = map(
    jax.jit, (objectives.kl_in_reward, objectives.kl_in_token_reward)
)

float64 = pytest.mark.usefixtures("x64")
close = functools.partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-12)

B, N, T = 3, 4, 5
levels = st.sampled_from([0.0, 0.7, 1.9, -2.5, 0.25])
rewards = hnp.arrays(np.float64, (B, N), elements=levels)
exists = hnp.arrays(np.bool_, (B, N))


def given_to(f, reward: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """The estimate, with NaN wherever there is no response."""
    littered = np.where(valid, reward, np.nan)
    return np.asarray(f(jnp.asarray(littered), jnp.asarray(valid)))


def members(valid: np.ndarray, b: int) -> list[int]:
    return [n for n in range(N) if valid[b, n]]


def mean(numbers: list[float]) -> float:
    return sum(numbers) / len(numbers)


def spread(numbers: list[float]) -> float:
    """Population standard deviation."""
    return sqrt(mean([(x - mean(numbers)) ** 2 for x in numbers]))


def by_group(reward: np.ndarray, valid: np.ndarray, of) -> np.ndarray:
    """A loop over groups: ``of(own reward, rewards of the group, place in the group)``."""
    expected = np.zeros((B, N))
    for b in range(B):
        group = [float(reward[b, n]) for n in members(valid, b)]
        for place, n in enumerate(members(valid, b)):
            expected[b, n] = of(float(reward[b, n]), group, place)
    return expected


@given(rewards, exists)
@float64
def test_group_mean_is_its_loop(reward, valid):
    expected = by_group(reward, valid, lambda r, group, _: r - mean(group))
    close(given_to(group_mean, reward, valid), expected)


@given(rewards, exists, st.sampled_from([0.0, 0.05, 0.8, 5.0]))
@float64
def test_group_zscore_is_its_loop(reward, valid, floor):
    expected = by_group(
        reward,
        valid,
        lambda r, group, _: (r - mean(group)) / (max(spread(group), floor) + 1e-6),
    )
    # Equal rewards are centred to rounding, which the 1e-6 then magnifies.
    f = functools.partial(group_zscore, floor=floor)
    close(given_to(f, reward, valid), expected, atol=1e-9)
    if floor == 0:
        close(given_to(group_zscore, reward, valid), expected, atol=1e-9)


@given(rewards, exists)
@float64
def test_leave_one_out_is_its_loop(reward, valid):
    def others(r: float, group: list[float], place: int) -> float:
        rest = group[:place] + group[place + 1 :]
        return r - mean(rest) if rest else 0.0

    close(given_to(leave_one_out, reward, valid), by_group(reward, valid, others))


@given(rewards, exists)
@float64
def test_batch_mean_is_its_loop(reward, valid):
    everyone = [float(reward[b, n]) for b in range(B) for n in members(valid, b)]
    expected = by_group(reward, valid, lambda r, _, __: r - mean(everyone))
    close(given_to(batch_mean, reward, valid), expected)


@given(rewards, exists)
@float64
def test_running_mean_remembers_every_reward_so_far(reward, valid):
    state, seen = None, []
    for b in range(B):  # one group after another, ragged and sometimes empty
        littered = jnp.asarray(np.where(valid, reward, np.nan)[b : b + 1])
        advantage, state = running_mean(littered, jnp.asarray(valid[b : b + 1]), state)
        seen += [float(reward[b, n]) for n in members(valid, b)]
        expected = [float(reward[b, n]) - mean(seen) if valid[b, n] else 0.0 for n in range(N)]
        close(advantage[0], expected)
    close([state.total, state.number], [sum(seen), len(seen)])


@float64
def test_a_first_running_mean_is_the_batch_mean():
    reward = np.arange(12.0).reshape(B, N)
    valid = np.ones((B, N), bool)
    first = running_mean(jnp.asarray(reward), jnp.asarray(valid))[0]
    close(first, given_to(batch_mean, reward, valid))


@given(rewards, exists)
@float64
def test_whiten_is_its_loop(x, mask):
    scored = [float(x[place]) for place in np.ndindex(x.shape) if mask[place]]
    expected = np.zeros(x.shape)
    for place in np.ndindex(x.shape):
        if mask[place]:
            expected[place] = (x[place] - mean(scored)) / (spread(scored) + 1e-8)
    close(given_to(whiten, x, mask), expected, atol=1e-7)


@float64
def test_whitening_one_place_gives_zero_and_none_gives_none():
    x = np.full((B, N), 3.7)
    for count in (0, 1):
        mask = np.arange(B * N).reshape(B, N) < count
        np.testing.assert_array_equal(given_to(whiten, x, mask), 0)


@float64
def test_whitened_places_have_mean_zero_and_spread_one():
    x = np.random.default_rng(0).normal(3, 2, (B, N))
    mask = np.arange(B * N).reshape(B, N) % 3 > 0
    white = given_to(whiten, x, mask)[mask]
    close(white.mean(), 0)
    close(white.std(), 1, atol=1e-7)


@float64
def test_a_converged_group_is_noise_and_the_floor_keeps_it_small():
    reward = np.tile([0.999, 1.0], (B, N // 2))
    valid = np.ones((B, N), bool)
    assert abs(np.asarray(group_zscore(reward, valid))).min() > 0.99
    assert abs(np.asarray(group_zscore(reward, valid, floor=0.05))).max() < 0.0101


@pytest.mark.parametrize("name", ["batch_mean", "group_mean", "group_zscore", "leave_one_out"])
@float64
def test_an_advantage_ignores_a_constant_added_to_every_reward(name):
    reward = np.random.default_rng(1).normal(size=(B, N))
    valid = np.random.default_rng(2).random((B, N)) < 0.7
    f = jax.jit(ADVANTAGES[name])
    close(given_to(f, reward, valid), given_to(f, reward + 3.0, valid), atol=1e-9)


@float64
def test_garbage_does_not_leak_when_operations_run_one_by_one():
    # Compiled as a whole, NaN * 0 may become a selection; nothing should depend on that.
    reward, valid = np.arange(12.0).reshape(B, N), np.arange(12).reshape(B, N) % 3 > 0
    for f in (objectives.group_mean, objectives.whiten):
        close(given_to(f, reward, valid), given_to(jax.jit(f), reward, valid))
    token = np.where(valid[..., None], -1.0, np.nan)
    shaped = objectives.kl_in_reward(
        *map(jnp.asarray, (reward, token, token, np.isfinite(token))), 0.3
    )
    close(shaped, reward)


def test_the_estimators_a_recipe_may_name():
    assert set(ADVANTAGES) == {
        "batch_mean",
        "group_mean",
        "group_zscore",
        "leave_one_out",
        "running_mean",
    }
    assert all(f is getattr(objectives, name) for name, f in ADVANTAGES.items())


# Generalised advantage estimation.

masks = hnp.arrays(np.bool_, (2, T))
numbers = hnp.arrays(np.float64, (2, T), elements=st.floats(-3, 3, width=32))


def gae_by_loops(reward, values, mask, gamma, lambda_):
    """sum_k (gamma lambda)^k delta_{t+k} over the scored tokens from t on."""
    advantage, returns = np.zeros(reward.shape), np.zeros(reward.shape)
    for b in range(len(reward)):
        places = [t for t in range(T) if mask[b, t]]
        after = [*(values[b, t] for t in places[1:]), 0.0][: len(places)]
        deltas = [
            reward[b, t] + gamma * nxt - values[b, t] for t, nxt in zip(places, after, strict=True)
        ]
        for i, t in enumerate(places):
            advantage[b, t] = sum((gamma * lambda_) ** k * d for k, d in enumerate(deltas[i:]))
            returns[b, t] = advantage[b, t] + values[b, t]
    return advantage, returns


def littered_gae(reward, values, mask, *discounts):
    reward, values = (jnp.asarray(np.where(mask, x, np.nan)) for x in (reward, values))
    return gae(reward, values, jnp.asarray(mask), *discounts)


@given(numbers, numbers, masks, st.sampled_from([1.0, 0.9]), st.sampled_from([0.0, 0.5, 0.95, 1.0]))
@float64
def test_gae_is_its_sum_over_scored_tokens_and_skips_gaps(reward, values, mask, gamma, lambda_):
    advantage, returns = littered_gae(reward, values, mask, gamma, lambda_)
    expected, expected_returns = gae_by_loops(reward, values, mask, gamma, lambda_)
    close(advantage, expected)
    close(returns, expected_returns)


@given(numbers, numbers, masks)
@float64
def test_gae_with_lambda_1_has_the_discounted_rewards_as_returns(reward, values, mask):
    gamma = 0.9
    _, returns = littered_gae(reward, values, mask, gamma, 1.0)
    for b in range(2):
        places = [t for t in range(T) if mask[b, t]]
        for i, t in enumerate(places):
            to_go = sum(gamma**k * reward[b, u] for k, u in enumerate(places[i:]))
            close(returns[b, t], to_go)


@float64
def test_gae_discounts_nothing_and_trusts_the_critic_a_little_unless_told_otherwise():
    reward, values, mask = np.ones((2, T)), np.full((2, T), 0.5), np.ones((2, T), bool)
    close(littered_gae(reward, values, mask)[0], gae_by_loops(reward, values, mask, 1.0, 0.95)[0])


@float64
def test_gae_takes_any_leading_axes():
    rng = np.random.default_rng(0)
    reward, values = rng.normal(size=(2, 3, 2, T))
    mask = rng.random((3, 2, T)) < 0.7
    together = gae(jnp.asarray(reward), jnp.asarray(values), jnp.asarray(mask), 0.9, 0.8)
    expected = [gae_by_loops(reward[i], values[i], mask[i], 0.9, 0.8) for i in range(3)]
    close(together[0], np.stack([advantage for advantage, _ in expected]))
    close(together[1], np.stack([returns for _, returns in expected]))


# Reward shaping.


def shaping_inputs():
    rng = np.random.default_rng(3)
    mask = rng.random((B, N, T)) < 0.7
    mask[0, 0], mask[1, 1] = False, [False, True, False, True, False]
    old, ref = (np.where(mask, x, np.nan) for x in -rng.exponential(1, (2, B, N, T)))
    return rng.normal(size=(B, N)), old, ref, mask


@float64
def test_the_kl_in_the_reward_is_summed_over_a_response():
    reward, old, ref, mask = shaping_inputs()
    shaped = kl_in_reward(*map(jnp.asarray, (reward, old, ref, mask)), 0.3)
    for b, n in np.ndindex(B, N):
        kl = sum(old[b, n, t] - ref[b, n, t] for t in range(T) if mask[b, n, t])
        close(shaped[b, n], reward[b, n] - 0.3 * kl)


@float64
def test_the_kl_in_the_token_rewards_is_per_token_and_the_reward_is_at_the_last():
    reward, old, ref, mask = shaping_inputs()
    shaped = kl_in_token_reward(*map(jnp.asarray, (reward, old, ref, mask)), 0.3)
    for b, n in np.ndindex(B, N):
        places = [t for t in range(T) if mask[b, n, t]]
        for t in range(T):
            expected = 0.0
            if t in places:
                expected = -0.3 * (old[b, n, t] - ref[b, n, t])
            if places and t == places[-1]:
                expected += reward[b, n]
            close(shaped[b, n, t], expected)


@float64
def test_both_ways_of_shaping_add_up_to_the_same_reward():
    reward, old, ref, mask = (jnp.asarray(x) for x in shaping_inputs())
    whole, parts = (f(reward, old, ref, mask, 0.3) for f in (kl_in_reward, kl_in_token_reward))
    somewhere = np.asarray(mask).any(axis=-1)
    close(parts.sum(axis=-1)[somewhere], whole[somewhere])


def test_rewards_stay_floating_point():
    # A buffer made like the token ids would turn 0.7 into 0 and 1.9 into 1.
    reward = np.tile(np.array([0.7, 1.9], np.float32), (B, N // 2))
    mask, zeros = np.ones((B, N, T), bool), np.zeros((B, N, T), np.float32)
    per_token = kl_in_token_reward(reward, zeros, zeros, mask, 0.0)
    assert per_token.dtype == jnp.float32
    np.testing.assert_array_equal(np.asarray(per_token).sum(axis=-1), reward)
    np.testing.assert_array_equal(kl_in_reward(reward, zeros, zeros, mask, 0.0), reward)
    for name, f in ADVANTAGES.items():
        advantage = jax.jit(f)(reward, mask[..., 0])
        advantage = np.asarray(advantage[0] if name == "running_mean" else advantage)
        assert advantage.dtype == np.float32
        assert (advantage[:, 0] < 0).all()
        assert (advantage[:, 1] > 0).all()
        if name == "group_mean":
            np.testing.assert_allclose(advantage, np.tile([-0.6, 0.6], (B, 2)), rtol=1e-6)
