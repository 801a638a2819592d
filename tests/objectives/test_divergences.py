"""Divergences between categoricals: closed forms, limits, bounds, and what maximises what."""

import functools

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

import objectives
from objectives import divergences, k1, k2, k3

# Compiled once each, because a dozen small programs would take longer to build.
alpha_divergence, entropy, forward_kl, jensen_shannon, optimal_policy, reverse_kl = map(
    jax.jit,
    (
        objectives.alpha_divergence,
        objectives.entropy,
        objectives.forward_kl,
        objectives.jensen_shannon,
        objectives.optimal_policy,
        objectives.reverse_kl,
    ),
)


@jax.jit
def log_softmax(z: jax.Array) -> jax.Array:
    return jax.nn.log_softmax(z)


def slope(divergence):
    """The gradient of a divergence from log q in the softmax logits of p."""
    return jax.jit(jax.grad(lambda z, logq, *rest: divergence(log_softmax(z), logq, *rest)))


forward_slope, reverse_slope, alpha_slope = map(slope, (forward_kl, reverse_kl, alpha_divergence))

pytestmark = pytest.mark.usefixtures("x64")
close = functools.partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-13)

K = 5
logits = hnp.arrays(np.float64, K, elements=st.floats(-8, 8))
alphas = st.floats(-3, 4)


def probabilities(z: np.ndarray) -> np.ndarray:
    weight = np.exp(z - z.max())
    return weight / weight.sum()


def kl(p: np.ndarray, q: np.ndarray) -> float:
    return sum(a * np.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


@given(logits, logits)
def test_divergences_are_their_sums(z, y):
    p, q = probabilities(z), probabilities(y)
    logp, logq = log_softmax(z), log_softmax(y)
    atol = 1e-12
    close(forward_kl(logp, logq), kl(q, p), atol=atol)
    close(reverse_kl(logp, logq), kl(p, q), atol=atol)
    m = (p + q) / 2
    close(jensen_shannon(logp, logq), (kl(p, m) + kl(q, m)) / 2, atol=atol)
    close(entropy(logp), -sum(p * np.log(p)), atol=atol)


@given(logits, logits)
def test_the_gradients_in_softmax_logits_are_the_closed_forms(z, y):
    p, q = probabilities(z), probabilities(y)
    close(forward_slope(z, log_softmax(y)), p - q)
    exact = p * (np.log(p) - np.log(q) - kl(p, q))
    close(reverse_slope(z, log_softmax(y)), exact, atol=1e-12)


@given(logits, logits)
def test_swapping_the_arguments_swaps_forward_and_reverse(z, y):
    close(forward_kl(log_softmax(z), log_softmax(y)), reverse_kl(log_softmax(y), log_softmax(z)))


@given(logits, logits)
def test_jensen_shannon_is_symmetric_and_at_most_log_2(z, y):
    logp, logq = log_softmax(z), log_softmax(y)
    close(jensen_shannon(logp, logq), jensen_shannon(logq, logp))
    assert -1e-15 <= jensen_shannon(logp, logq) <= np.log(2)


@given(logits)
def test_every_divergence_of_a_distribution_from_itself_is_zero(z):
    logp = log_softmax(z)
    for divergence in (forward_kl, reverse_kl, jensen_shannon):
        close(divergence(logp, logp), 0, atol=1e-15)
    for alpha in (-1.0, 0.0, 0.3, 1.0, 2.0):
        close(alpha_divergence(logp, logp, alpha), 0, atol=1e-15)


def log(*p: float) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(p)


def disjoint() -> tuple[np.ndarray, np.ndarray]:
    return (
        log(0.5, 0.5, 0.0, 0.0, 0.0),
        log(0.0, 0.0, 0.25, 0.75, 0.0),
    )


def test_zero_times_log_zero_is_zero():
    p, q = disjoint()
    close(jensen_shannon(p, q), np.log(2))
    close(jensen_shannon(p, p), 0)
    close(entropy(p), np.log(2))
    close(forward_kl(p, p), 0)
    close(reverse_kl(q, q), 0)
    wide = log(0.25, 0.25, 0.25, 0.125, 0.125)
    close(reverse_kl(p, wide), np.log(2))
    close(forward_kl(wide, p), np.log(2))
    for alpha in (0.2, 0.5, 0.8):
        close(alpha_divergence(p, q, alpha), -1 / (alpha * (alpha - 1)))


def test_a_divergence_is_infinite_exactly_where_it_should_be():
    p, wide = disjoint()[0], log(0.2, 0.2, 0.2, 0.2, 0.2)
    assert forward_kl(p, wide) == np.inf
    assert reverse_kl(wide, p) == np.inf
    assert alpha_divergence(wide, p, 1.5) == np.inf
    assert alpha_divergence(p, wide, -0.5) == np.inf


# One dial from forward to reverse KL.


@given(logits, logits, alphas)
def test_the_alpha_divergence_is_its_formula(z, y, alpha):
    if min(abs(alpha), abs(alpha - 1)) < 0.05:
        return
    p, q = probabilities(z), probabilities(y)
    expected = (sum(p**alpha * q ** (1 - alpha)) - 1) / (alpha * (alpha - 1))
    close(alpha_divergence(log_softmax(z), log_softmax(y), alpha), expected, rtol=1e-10, atol=1e-12)


@given(logits, logits)
def test_alpha_is_the_forward_kl_at_0_and_the_reverse_kl_at_1(z, y):
    logp, logq = log_softmax(z), log_softmax(y)
    close(alpha_divergence(logp, logq, 0.0), forward_kl(logp, logq))
    close(alpha_divergence(logp, logq, 1.0), reverse_kl(logp, logq))
    for step in (1e-4, 1e-7, 1e-10, 1e-13):
        # |log p - log q| is at most 16 here, so the slope in alpha is at most 16^2.
        for side in (-step, step):
            near_0, near_1 = (alpha_divergence(logp, logq, end + side) for end in (0.0, 1.0))
            np.testing.assert_allclose(near_0, forward_kl(logp, logq), rtol=0.01, atol=300 * step)
            np.testing.assert_allclose(near_1, reverse_kl(logp, logq), rtol=0.01, atol=300 * step)


@given(logits, logits, alphas)
def test_swapping_the_arguments_mirrors_alpha_about_a_half(z, y, alpha):
    logp, logq = log_softmax(z), log_softmax(y)
    left, right = alpha_divergence(logp, logq, alpha), alpha_divergence(logq, logp, 1 - alpha)
    np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-12)
    close(alpha_divergence(logp, logq, 0.5), alpha_divergence(logq, logp, 0.5))


@pytest.mark.parametrize("alpha", [-0.5, 0.0, 1e-6, 0.25, 0.5, 0.75, 1 - 1e-6, 1.0, 1.5])
def test_the_gradient_of_the_alpha_divergence_is_its_formula(alpha):
    z, y = np.array([0.3, -1.0, 2.0, 0.0, 0.5]), np.array([1.0, 0.2, -0.7, 0.1, 0.0])
    p, q = probabilities(z), probabilities(y)
    # d/dlog p = p^alpha q^(1-alpha) / (alpha - 1), and through the softmax.
    pull = p**alpha * q ** (1 - alpha) / (alpha - 1) if alpha != 1 else p * (np.log(p / q) + 1)
    gradient = alpha_slope(z, log_softmax(y), alpha)
    close(gradient, pull - p * pull.sum(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 0.8])
def test_a_target_without_some_bins_leaves_the_gradient_finite(alpha):
    z, target = np.array([0.3, -1.0, 2.0, 0.0, 0.1]), log(0.5, 0.5, 0.0, 0.0, 0.0)
    p, q = probabilities(z), np.exp(target)
    pull = p**alpha * q ** (1 - alpha) / (alpha - 1)
    close(alpha_slope(z, target, alpha), pull - p * pull.sum(), rtol=1e-9)
    close(forward_slope(z, target), p - q)


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_a_policy_that_has_underflowed_still_has_a_gradient(alpha):
    # In float32 exp(-200) is 0, and a collapsed policy is where a gradient is needed most.
    z = np.array([0.0, -200.0, -200.0, -1.0, -2.0], np.float32)
    target = np.log(np.full(5, 0.2, np.float32))
    value = alpha_divergence(log_softmax(z), target, alpha)
    assert value.dtype == jnp.float32
    assert np.isfinite(value)
    assert np.isfinite(alpha_slope(z, target, alpha)).all()


def test_alpha_may_be_traced_and_swept():
    logp, logq = log_softmax(np.arange(5.0)), log_softmax(np.array([1.0, 0.0, 2.0, 0.0, -1.0]))
    alpha = jnp.asarray([0.0, 0.5, 1.0, 2.0])
    swept = jax.vmap(lambda a: alpha_divergence(logp, logq, a))(alpha)
    close(swept, [alpha_divergence(logp, logq, float(a)) for a in alpha])


# The optimum of KL-regularised reinforcement learning.


@given(logits, logits, st.floats(0.1, 3), logits)
def test_the_optimal_policy_maximises_reward_minus_kl(ref, reward, beta, other):
    reference = log_softmax(ref)

    def worth(logp: jax.Array) -> float:
        return np.exp(logp) @ reward - beta * float(reverse_kl(logp, reference))

    best = optimal_policy(reference, reward, beta)
    close(np.exp(best).sum(), 1)
    log_normaliser = np.log(np.exp(reference) @ np.exp(reward / beta))
    np.testing.assert_allclose(worth(best), beta * log_normaliser, rtol=1e-9, atol=1e-10)
    # What any other policy misses is beta times its distance to the best.
    rival = log_softmax(other)
    missed = worth(best) - worth(rival)
    np.testing.assert_allclose(missed, beta * reverse_kl(rival, best), rtol=1e-7, atol=1e-10)
    assert missed >= -1e-10


def test_nudging_the_optimal_policy_in_any_direction_loses():
    rng = np.random.default_rng(0)
    reference, r, beta = log_softmax(rng.normal(size=K)), jnp.asarray(rng.normal(size=K)), 0.5

    @jax.jit
    def worth(z: jax.Array) -> jax.Array:
        logp = jax.nn.log_softmax(z)
        return jnp.exp(logp) @ r - beta * reverse_kl(logp, reference)

    best = optimal_policy(reference, r, beta)
    np.testing.assert_allclose(jax.grad(worth)(best), 0, atol=1e-14)
    for direction in np.eye(K):
        assert worth(best + 0.01 * direction) < worth(best) > worth(best - 0.01 * direction)


def test_the_optimal_policy_keeps_the_reference_when_beta_is_large_and_the_argmax_when_small():
    reference, r = log_softmax(np.zeros(K)), jnp.arange(5.0)
    np.testing.assert_allclose(optimal_policy(reference, r, 1e9), reference, atol=1e-8)
    np.testing.assert_allclose(
        jnp.exp(optimal_policy(reference, r, 1e-2)), np.eye(K)[4], atol=1e-12
    )


# Small numbers.

log1mexp = jax.jit(divergences.log1mexp)
log1mexp_slope = jax.jit(jax.grad(lambda x: divergences.log1mexp(x).sum()))


@given(st.floats(-700, -1e-6))
def test_the_log_of_a_complement_is_accurate_at_both_ends(x):
    expected = np.log(-np.expm1(x)) if x > -0.5 else np.log1p(-np.exp(x))
    close(log1mexp(jnp.asarray(x)), expected, rtol=1e-14)


def test_the_log_of_a_complement_stops_at_its_ceiling_and_has_no_gradient_above():
    above = np.array([-1e-7, 0.0, -9e-7, -1e-12])
    close(log1mexp(above), np.log(-np.expm1(-1e-6)))
    close(log1mexp_slope(above), 0)
    x = np.array([-1e-3, -0.5, -0.7, -3.0])
    close(log1mexp_slope(x), -np.exp(x) / -np.expm1(x))


@given(st.floats(-5, 5))
def test_estimators_of_a_log_ratio_are_their_formulas(x):
    close(k1(jnp.asarray(x)), x)
    close(k2(jnp.asarray(x)), x**2 / 2)
    close(k3(jnp.asarray(x)), np.exp(-x) - 1 + x, atol=1e-15)
