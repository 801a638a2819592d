"""What calculus says about bins, checked by autodiff and by taking the step itself."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given

from bandit import R1
from bandit.theory import (
    bin_velocity,
    forward_kl_velocity,
    lemma_6_2,
    log_ratio_velocity,
    logarithmic_mean,
    reverse_kl_velocity,
    theorem_6_5_holds,
)
from objectives import forward_kl, reverse_kl

pytestmark = pytest.mark.usefixtures("x64")

K = 5
DIRECTIONS = [
    pytest.param(forward_kl, forward_kl_velocity, id="forward"),
    pytest.param(reverse_kl, reverse_kl_velocity, id="reverse"),
]


def log_softmax(z: np.ndarray) -> np.ndarray:
    z = z - z.max(axis=-1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


def logits(bins: int = K, size: float = 4.0) -> st.SearchStrategy[np.ndarray]:
    number = st.floats(-size, size, allow_subnormal=False)
    return st.lists(number, min_size=bins, max_size=bins).map(np.array)


@pytest.mark.parametrize(("divergence", "velocity"), DIRECTIONS)
@given(z=logits(), target=logits())
def test_a_velocity_is_the_negative_gradient_of_its_divergence(divergence, velocity, z, target):
    target_logp = jnp.asarray(log_softmax(target))
    slope = GRADIENT[divergence](jnp.asarray(z), target_logp)
    found = velocity(jnp.asarray(log_softmax(z)), target_logp)
    np.testing.assert_allclose(found, -slope, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(np.sum(found), 0, atol=1e-12)


GRADIENT = {
    divergence: jax.jit(
        jax.grad(lambda z, target, of=divergence: of(jax.nn.log_softmax(z), target))
    )
    for divergence in (forward_kl, reverse_kl)
}


@pytest.mark.parametrize(("divergence", "velocity"), DIRECTIONS)
@given(z=logits(), target=logits())
def test_bins_move_as_logits_do_and_no_mass_is_made(divergence, velocity, z, target):
    logp, target_logp = jnp.asarray(log_softmax(z)), jnp.asarray(log_softmax(target))
    v = velocity(logp, target_logp)
    moved = bin_velocity(logp, v)
    _, expected = jax.jvp(jax.nn.softmax, (jnp.asarray(z),), (v,))
    np.testing.assert_allclose(moved, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(np.sum(moved), 0, atol=1e-12)


@pytest.mark.parametrize(("divergence", "velocity"), DIRECTIONS)
@given(z=logits(), target=logits(), step=st.floats(0.01, 50), bins=st.permutations(range(K)))
def test_a_step_of_any_size_changes_a_log_ratio_by_exactly_the_difference_of_velocities(
    divergence, velocity, z, target, step, bins
):
    i, j, *_ = bins
    target_logp = jnp.asarray(log_softmax(target))
    before = log_softmax(z)
    v = velocity(jnp.asarray(before), target_logp)
    after = log_softmax(z - step * np.asarray(GRADIENT[divergence](jnp.asarray(z), target_logp)))
    change = (after[i] - after[j]) - (before[i] - before[j])
    np.testing.assert_allclose(step * log_ratio_velocity(v, i, j), change, rtol=1e-8, atol=1e-10)


def test_velocities_and_effects_are_functions_of_the_last_axis():
    rng = np.random.default_rng(0)
    logp, target = (jnp.asarray(log_softmax(rng.normal(size=(3, 2, K)))) for _ in range(2))
    for velocity in (forward_kl_velocity, reverse_kl_velocity):
        together = bin_velocity(logp, velocity(logp, target))
        alone = bin_velocity(logp[1, 0], velocity(logp[1, 0], target[1, 0]))
        np.testing.assert_allclose(together[1, 0], alone, rtol=1e-12)
        gap = log_ratio_velocity(together, 0, 3)
        np.testing.assert_allclose(gap[1, 0], alone[0] - alone[3], rtol=1e-12)
    for together, alone in zip(lemma_6_2(logp, 0, 1), lemma_6_2(logp[1, 0], 0, 1), strict=True):
        np.testing.assert_allclose(together[1, 0], alone, rtol=1e-12)


def effect_by_autodiff(z: np.ndarray, winner: int, loser: int, c2: float) -> tuple:
    """First-order changes along -c2 grad log pi(loser), and the product of the two gradients."""

    def log_pi(z: jax.Array) -> jax.Array:
        return jax.nn.log_softmax(z)[jnp.array([winner, loser])]

    g_w, g_l = jax.jacrev(log_pi)(jnp.asarray(z))
    _, (chosen, rejected) = jax.jvp(log_pi, (jnp.asarray(z),), (-c2 * g_l,))
    return chosen - rejected, chosen, rejected, g_w @ g_l


@given(z=logits(), pair=st.permutations(range(K)), c2=st.floats(0, 3))
def test_lemma_6_2_is_what_autodiff_says_of_the_negative_gradient(z, pair, c2):
    winner, loser, *_ = pair
    effect = lemma_6_2(jnp.asarray(log_softmax(z)), winner, loser, c2)
    margin, chosen, rejected, inner = effect_by_autodiff(z, winner, loser, c2)
    np.testing.assert_allclose(effect.margin, margin, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(effect.chosen, chosen, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(effect.rejected, rejected, rtol=1e-9, atol=1e-12)
    assume(abs(inner) > 1e-12)
    assert effect.gradients_oppose == (inner <= 0)


@given(z=logits(), pair=st.permutations(range(K)), c2=st.floats(1e-3, 3))
def test_a_negative_gradient_widens_the_margin_and_lowers_the_loser_whatever_the_policy(
    z, pair, c2
):
    winner, loser, *_ = pair
    effect = lemma_6_2(jnp.asarray(log_softmax(z)), winner, loser, c2)
    assert effect.margin > 0
    assert effect.rejected < 0
    assert (effect.chosen >= 0) == effect.gradients_oppose


def test_on_a_policy_that_loves_a_third_response_the_winner_falls_with_the_loser():
    z = np.log(np.array([0.05, 0.05, 0.9]))
    effect = lemma_6_2(jnp.asarray(z), winner=0, loser=1)
    assert not effect.gradients_oppose
    assert effect.margin > 0 and effect.chosen < 0 and effect.rejected < effect.chosen
    # And so it does in a step one can take, not only to first order.
    g_l = np.eye(3)[1] - np.exp(z)
    change = log_softmax(z - 0.1 * g_l) - z
    assert change[0] < 0 and change[1] < change[0] and change[2] > 0


@pytest.mark.parametrize(
    ("winner", "loser", "oppose"), [(16, 17, True), (70, 0, True), (70, 20, True), (70, 50, False)]
)
def test_at_the_papers_reference_pushing_a_rare_bin_down_does_not_raise_another_rare_bin(
    winner, loser, oppose
):
    # |p|^2 is 0.023 there, which bins 70 and 50 together do not reach.
    effect = lemma_6_2(jnp.asarray(R1.ref_logp, jnp.float64), winner, loser)
    assert bool(effect.gradients_oppose) is oppose
    assert bool(effect.chosen > 0) is oppose
    assert effect.margin > 0.9


@given(st.floats(1e-6, 1), st.floats(1e-6, 1))
def test_the_logarithmic_mean_lies_between_the_geometric_and_the_arithmetic(a, b):
    mean = float(logarithmic_mean(jnp.asarray(a), jnp.asarray(b)))
    assert np.sqrt(a * b) * (1 - 1e-6) <= mean <= (a + b) / 2 * (1 + 1e-6)
    assert float(logarithmic_mean(jnp.asarray(a), jnp.asarray(a))) == a


@st.composite
def equally_likely(draw_from: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """A policy whose first two bins are equally likely, and a target that prefers the first."""
    z, target = draw_from(logits()), draw_from(logits())
    z[1] = z[0]
    assume(abs(target[0] - target[1]) > 1e-3)
    target[:2] = max(target[:2]), min(target[:2])
    return log_softmax(z), log_softmax(target)


@given(equally_likely(), st.floats(0.01, 10))
def test_theorem_6_5_holds_exactly_where_the_policy_exceeds_the_logarithmic_mean(pq, step):
    logp, target_logp = pq
    p, q = np.exp(logp), np.exp(target_logp)

    def parted(divergence):
        slope = GRADIENT[divergence](jnp.asarray(logp), jnp.asarray(target_logp))
        z = logp - step * np.asarray(slope)
        return (z[0] - z[1]) - (logp[0] - logp[1])

    reverse, forward = parted(reverse_kl), parted(forward_kl)
    assume(abs(reverse - forward) > 1e-9 * step)
    holds = theorem_6_5_holds(*(jnp.asarray(x) for x in (p[0], q[0], q[1])))
    assert bool(holds) == (reverse > forward)


@pytest.mark.parametrize(("p", "holds"), [(0.4, True), (0.2, False)])
def test_without_its_condition_theorem_6_5_fails_where_the_policy_has_yet_to_discover(p, holds):
    # q_1 - q_2 is the same in both: which of the two is faster is decided by p alone.
    logp = jnp.log(jnp.array([p, p, 1 - 2 * p]))
    target_logp = jnp.log(jnp.array([0.5, 0.2, 0.3]))
    forward = log_ratio_velocity(forward_kl_velocity(logp, target_logp), 0, 1)
    reverse = log_ratio_velocity(reverse_kl_velocity(logp, target_logp), 0, 1)
    assert forward > 0 and reverse > 0
    assert bool(reverse > forward) is holds
    assert bool(theorem_6_5_holds(jnp.asarray(p), jnp.asarray(0.5), jnp.asarray(0.2))) is holds
