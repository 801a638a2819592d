"""Where each objective leads: its minimiser on a bandit, found by descending, against the theory.

The loss is the population's: every group that the data could hold, weighted by its probability.
The characters at the end are the lecture's claims, each at a setting where it truly shows.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from objectives import (
    AWR,
    DPO,
    IPO,
    KTO,
    REINFORCE,
    RWR,
    SFT,
    BestOfN,
    KLPenalty,
    Objective,
    PrefFT,
    Responses,
    forward_kl,
    leave_one_out,
    optimal_policy,
    reverse_kl,
)
from tests.objectives.enumeration import K, World, bandit, loss_of_each_group

pytestmark = pytest.mark.usefixtures("x64")
arrived = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-8)

Gradient = Callable[[jax.Array], jax.Array]

REFERENCE = np.array([0.35, 0.05, 0.3, 0.1, 0.2])
DATA = np.array([0.1, 0.3, 0.15, 0.25, 0.2])
REWARD = np.array([0.2, 1.0, -0.3, 0.6, 0.0])
BETA = 0.5


def descent(gradient: Gradient, rate: float = 1.0) -> Callable[..., np.ndarray]:
    """Gradient descent in float64, as one program: ``(start, steps) -> end``."""
    program = jax.jit(
        lambda z, steps: jax.lax.fori_loop(0, steps, lambda _, z: z - rate * gradient(z), z),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    return lambda start, steps=4000: np.asarray(program(jnp.asarray(start, float), steps))


def softmax(z: np.ndarray) -> np.ndarray:
    return np.asarray(jax.nn.softmax(jnp.asarray(z), axis=-1)).reshape(-1)


def groups(world: World, p: np.ndarray) -> np.ndarray:
    """The probability of each group when responses are drawn from p, independently."""
    return p[world.response].prod(axis=-1)


def as_drawn(world: World, reward: Any, p: np.ndarray = DATA, **fields: Any) -> Responses:
    logp = jnp.asarray(np.log(p)[world.response][..., None])
    reference = jnp.asarray(np.log(REFERENCE)[world.response][..., None])
    return world.responses(
        reward, **{"advantage": world.zeros(), "old_logp": logp, "ref_logp": reference} | fields
    )


def population(
    objective: Objective, world: World, responses: Responses, probability: Any
) -> Gradient:
    """Gradient of the expected loss on groups that exist whatever the policy is: offline data."""
    probability = jnp.asarray(probability)

    def loss(z: jax.Array) -> jax.Array:
        logp = world.logp(z)
        exists = objective(logp, responses).weight.reshape(len(probability), -1).sum(axis=-1) > 0
        total = probability @ loss_of_each_group(objective, logp, responses)
        return total / (probability @ exists)

    return jax.grad(loss)


def minimiser(
    objective: Objective,
    world: World,
    responses: Responses,
    probability: Any,
    rate: float = 1.0,
    steps: int = 4000,
) -> np.ndarray:
    program = descent(population(objective, world, responses, probability), rate)
    return softmax(program(np.zeros((1, K)), steps))


# Offline.


def test_sft_becomes_its_data():
    world = bandit()
    found = minimiser(SFT(), world, as_drawn(world, REWARD), groups(world, DATA))
    arrived(found, DATA)


def tilted(p: np.ndarray, reward: np.ndarray, beta: float) -> np.ndarray:
    weight = p * np.exp(reward / beta)
    return weight / weight.sum()


def test_rwr_on_samples_of_the_reference_becomes_the_optimum_of_regularised_rl():
    world = bandit()
    found = minimiser(RWR(BETA), world, as_drawn(world, REWARD), groups(world, REFERENCE))
    arrived(found, tilted(REFERENCE, REWARD, BETA))
    arrived(found, jnp.exp(optimal_policy(jnp.log(REFERENCE), jnp.asarray(REWARD), BETA)))


def test_a_cap_on_the_weight_is_a_cap_on_the_reward():
    world, cap = bandit(), 2.0
    found = minimiser(RWR(BETA, cap), world, as_drawn(world, REWARD), groups(world, REFERENCE))
    arrived(found, tilted(REFERENCE, np.minimum(REWARD, BETA * np.log(cap)), BETA))


def test_awr_does_not_care_about_the_baseline():
    world = bandit()
    advantage = world.each(REWARD - REFERENCE @ REWARD)[..., None]
    responses = as_drawn(world, REWARD, advantage=advantage)
    found = minimiser(AWR(BETA), world, responses, groups(world, REFERENCE))
    arrived(found, tilted(REFERENCE, REWARD, BETA))


def winners(p: np.ndarray) -> np.ndarray:
    """The distribution of the better of two independent draws."""
    order = np.argsort(REWARD)
    below = np.cumsum(p[order])
    best = np.empty(K)
    best[order] = below**2 - (below - p[order]) ** 2
    return best


def test_best_of_n_becomes_the_distribution_of_the_best_of_two():
    world = bandit(2)
    found = minimiser(BestOfN(), world, as_drawn(world, REWARD), groups(world, DATA))
    arrived(found, winners(DATA))


def test_pref_ft_leaves_out_the_pairs_that_tie():
    world = bandit(2)
    found = minimiser(PrefFT(), world, as_drawn(world, REWARD), groups(world, DATA), steps=40_000)
    without_ties = winners(DATA) - DATA**2
    arrived(found, without_ties / without_ties.sum(), atol=1e-4)  # the worst fades like 1/steps


def beats(reward: np.ndarray) -> np.ndarray:
    """P(a beats b) of Bradley and Terry."""
    return 1 / (1 + np.exp(reward[None, :] - reward[:, None]))


def labelled(world: World) -> tuple[Responses, np.ndarray]:
    """Every ordered pair with the first labelled better, and the probability of that label."""
    first, second = world.response.T
    responses = as_drawn(world, REWARD)
    responses = Responses(
        mask=responses.mask,
        reward=jnp.asarray(np.tile([1.0, 0.0], (len(first), 1))),
        ref_logp=responses.ref_logp,
        old_logp=responses.old_logp,
    )
    return responses, groups(world, DATA) * beats(REWARD)[first, second]


def test_dpo_on_noisy_labels_becomes_the_optimum_of_regularised_rl():
    # Whatever distribution the pairs came from, as long as it leaves nothing out.
    world = bandit(2)
    responses, probability = labelled(world)
    found = minimiser(DPO(BETA), world, responses, probability, rate=20.0)
    arrived(found, tilted(REFERENCE, REWARD, BETA))


def test_robust_dpo_sees_through_labels_that_are_flipped():
    # e of all labels are turned round; only the robust loss still finds the optimum.
    world, e = bandit(2), 0.2
    responses, _ = labelled(world)
    first, second = world.response.T
    noisy = (1 - e) * beats(REWARD) + e * beats(REWARD).T
    probability = groups(world, DATA) * noisy[first, second]
    robust = DPO(BETA, label_smoothing=e, robust=True)
    found = minimiser(robust, world, responses, probability, rate=20.0)
    arrived(found, tilted(REFERENCE, REWARD, BETA))
    plain = minimiser(DPO(BETA), world, responses, probability, rate=20.0)
    assert abs(plain - tilted(REFERENCE, REWARD, BETA)).max() > 0.05


def test_ipo_moves_each_response_by_how_often_it_wins():
    # log pi/pi_ref = (1/tau) E_b P(a beats b) + constant, for b from the data: bounded, even where
    # every label agrees.
    world, tau = bandit(2), 0.4
    responses, probability = labelled(world)
    found = minimiser(IPO(tau), world, responses, probability, rate=0.5)
    arrived(found, tilted(REFERENCE, beats(REWARD) @ DATA, tau))
    certain = (REWARD[:, None] > REWARD[None, :]) + 0.5 * np.eye(K)
    first, second = world.response.T
    found = minimiser(IPO(tau), world, responses, groups(world, DATA) * certain[first, second])
    arrived(found, tilted(REFERENCE, certain @ DATA, tau))


def test_dpo_on_certain_labels_never_stops_and_ipo_does():
    world = bandit(2)
    responses, _ = labelled(world)
    first, second = world.response.T
    probability = groups(world, DATA) * (REWARD[first] > REWARD[second])
    half_way, later = twice(population(DPO(BETA), world, responses, probability), 20.0)
    assert later[REWARD.argmax()] > half_way[REWARD.argmax()] > 0.99
    assert later.min() < half_way.min() / 1.5
    arrived(*twice(population(IPO(1.0), world, responses, probability), 1.0))


def twice(gradient: Gradient, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Where a descent is after 2000 and after 4000 steps."""
    program = descent(gradient, rate)
    half_way = program(np.zeros((1, K)), 2000)
    return softmax(half_way), softmax(program(half_way, 2000))


def test_kto_moves_mass_from_the_undesirable_to_the_desirable_at_every_step():
    world = bandit()
    responses = as_drawn(world, REWARD)
    objective = KTO(beta=BETA, threshold=0.3, reference_point=0.0)
    gradient = jax.jit(population(objective, world, responses, groups(world, DATA)))
    z, desirable = jnp.log(REFERENCE)[None, :], REWARD > 0.3
    mass = [softmax(z)[desirable].sum()]
    for _ in range(30):
        z = z - 5.0 * gradient(z)
        mass.append(softmax(z)[desirable].sum())
    assert (np.diff(mass) > 0).all()
    assert mass[0] < 0.2
    assert mass[-1] > 0.9


# On policy.


def on_policy(objective: Objective, size: int = 1) -> Gradient:
    """Gradient of what is minimised when the policy draws its own groups."""
    world = bandit(size)

    def gradient(z: jax.Array) -> jax.Array:
        logp = jax.lax.stop_gradient(world.logp(z))
        probability = jnp.exp(logp.sum(axis=(1, 2)))
        advantage = jnp.asarray(world.each(REWARD))
        if size > 1:
            advantage = leave_one_out(advantage, world.everyone())
        responses = as_drawn(world, REWARD, advantage=advantage[..., None], old_logp=logp)

        def loss(z: jax.Array) -> jax.Array:
            return probability @ loss_of_each_group(objective, world.logp(z), responses)

        return jax.grad(loss)(z)

    return gradient


def policy_after(gradient: Gradient, start: np.ndarray) -> np.ndarray:
    return softmax(descent(gradient, rate=2.0)(np.log(start)[None, :]))


def test_reinforce_with_k2_becomes_the_optimum_of_regularised_rl():
    objective = REINFORCE(kl=KLPenalty(BETA, "k2"))
    found = policy_after(on_policy(objective, 2), REFERENCE)
    arrived(found, tilted(REFERENCE, REWARD, BETA))


def test_reinforce_with_k1_becomes_the_argmax_as_if_there_were_no_penalty():
    free, penalised = (
        policy_after(on_policy(REINFORCE(kl=penalty)), REFERENCE)
        for penalty in (KLPenalty(None), KLPenalty(BETA, "k1"))
    )
    arrived(free, penalised)
    assert free[REWARD.argmax()] > 0.999


def test_reinforce_with_k3_is_regularised_towards_another_optimum():
    # r p - beta KL(pi_ref || p): p = beta ref / (constant - r), with all its mass accounted for.
    objective = REINFORCE(kl=KLPenalty(BETA, "k3"))
    found = policy_after(on_policy(objective), REFERENCE)
    constant = REWARD + BETA * REFERENCE / found
    arrived(constant, constant[0], atol=1e-6)
    assert abs(found - tilted(REFERENCE, REWARD, BETA)).max() > 0.02


def test_reinforce_with_an_entropy_bonus_becomes_the_softmax_of_the_reward():
    found = policy_after(on_policy(REINFORCE(entropy=BETA)), np.ones(K))
    arrived(found, tilted(np.ones(K), REWARD, BETA))


# Characters. A policy with one hump, and a target with two.

BINS = jnp.arange(31.0)
NEAR, FAR = 8.0, 22.0


def hump(theta: jax.Array) -> jax.Array:
    """Log p of a discretised Gaussian; ``theta`` is its place and the log of its width."""
    return jax.nn.log_softmax(-(((BINS - theta[0]) / jnp.exp(theta[1])) ** 2) / 2)


def two_humps() -> jax.Array:
    return jnp.logaddexp(hump(jnp.array([NEAR, 0.7])), hump(jnp.array([FAR, 0.7]))) - jnp.log(2.0)


def settle(loss: Callable[[jax.Array], jax.Array], *places: float) -> list[np.ndarray]:
    """Where the hump comes to rest from each place, descending a loss of its log-probabilities."""
    # The place lives on the scale of the bins, so it is stepped on that scale.
    scale = np.array([5.0, 1.0])
    program = descent(jax.grad(lambda theta: loss(hump(theta * scale))), rate=0.02)
    return [program([place / 5.0, 1.0], 3000) * scale for place in places]


def mass_near(logp: jax.Array, mode: float) -> float:
    return float(jnp.exp(logp)[abs(BINS - mode) <= 4].sum())


def covers_both(theta: np.ndarray) -> bool:
    logp = hump(jnp.asarray(theta))
    return min(mass_near(logp, NEAR), mass_near(logp, FAR)) > 0.2


def takes_only(theta: np.ndarray, mode: float) -> bool:
    return mass_near(hump(jnp.asarray(theta)), mode) > 0.9


def test_reverse_kl_takes_the_nearer_mode():
    left, right = settle(lambda logp: reverse_kl(logp, two_humps()), 13.0, 17.0)
    assert takes_only(left, NEAR)
    assert takes_only(right, FAR)


def test_forward_kl_covers_both_modes():
    for theta in settle(lambda logp: forward_kl(logp, two_humps()), 13.0, 17.0):
        assert covers_both(theta)
        np.testing.assert_allclose(theta[0], (NEAR + FAR) / 2, atol=0.01)  # the target's mean


def data_on_the_bins(reward: jax.Array) -> Responses:
    """One response per bin, with a reward; the reference is uniform."""
    uniform = jnp.full((len(BINS), 1, 1), -jnp.log(len(BINS)))
    return Responses(
        mask=jnp.ones(uniform.shape, bool),
        reward=reward[:, None],
        ref_logp=uniform,
        old_logp=uniform,
        advantage=reward[:, None, None],
    )


def test_a_policy_gradient_takes_the_nearer_mode():
    # Its regularised optimum is the target with both modes; the policy cannot be both.
    responses = data_on_the_bins(two_humps() + jnp.log(len(BINS)))
    objective = REINFORCE(kl=KLPenalty(1.0, "k2"))

    def loss(logp: jax.Array) -> jax.Array:
        probability = jnp.exp(jax.lax.stop_gradient(logp))
        return probability @ loss_of_each_group(objective, logp[:, None, None], responses)

    left, right = settle(loss, 13.0, 17.0)
    assert takes_only(left, NEAR)
    assert takes_only(right, FAR)
    arrived(settle(lambda logp: reverse_kl(logp, two_humps()), 13.0)[0], left, atol=1e-6)


@pytest.mark.parametrize("objective", [SFT(), RWR(1.0, max_weight=np.inf)], ids=["SFT", "RWR"])
def test_weighted_imitation_covers_both_modes(objective):
    # SFT on samples of the target; RWR on samples of the reference, weighted towards the target.
    responses = data_on_the_bins(two_humps() + jnp.log(len(BINS)))
    drawn = two_humps() if isinstance(objective, SFT) else jnp.full(len(BINS), -jnp.log(len(BINS)))

    def loss(logp: jax.Array) -> jax.Array:
        return jnp.exp(drawn) @ loss_of_each_group(objective, logp[:, None, None], responses)

    (theta,) = settle(loss, 13.0)
    assert covers_both(theta)
    arrived(theta, settle(lambda logp: forward_kl(logp, two_humps()), 13.0)[0], atol=1e-6)
