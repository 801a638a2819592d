"""Expected gradients, against calculus, against an enumeration by hand, and against sampling."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bandit import R1, Problem, Tabular, bump, simulate, simulate_exactly
from bandit.exact import enumerate_groups, expected_loss, expected_velocity
from bandit.policies import draw
from bandit.theory import forward_kl_velocity, reverse_kl_velocity
from objectives import IPO, KTO, RECIPES, RWR, SFT, Recipe, Responses
from objectives.recipes import OFFLINE, UNCAPPED

pytestmark = pytest.mark.usefixtures("x64")

K = 6
VELOCITY = jax.jit(expected_velocity)


def one_of_each() -> set[str]:
    """A recipe of every objective, the first there is."""
    first: dict[type, str] = {}
    for name, recipe in RECIPES.items():
        first.setdefault(type(recipe.objective), name)
    return set(first.values())


@pytest.fixture
def problem() -> Problem:
    """A reference that is no symmetry's, and a peak where it is thin."""
    logits = jnp.asarray(np.random.default_rng(0).normal(size=K))
    reward = jnp.asarray(bump(peak=4, width=2, bins=K), jnp.float64)
    return Problem(ref_logp=jax.nn.log_softmax(logits), reward=reward)


@pytest.fixture
def logits() -> jax.Array:
    """Of a policy that is not its reference."""
    return jnp.asarray(np.random.default_rng(1).normal(size=K))


def test_supervised_learning_on_the_reference_is_the_velocity_of_forward_kl(problem, logits):
    found = VELOCITY(Recipe(SFT(), OFFLINE), problem, logits)
    expected = forward_kl_velocity(jax.nn.log_softmax(logits), problem.ref_logp)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-14)


def test_reward_weighted_imitation_heads_where_forward_kl_to_the_optimum_does(problem, logits):
    beta = 0.3
    found = VELOCITY(Recipe(RWR(beta=beta, max_weight=UNCAPPED), OFFLINE), problem, logits)
    optimum = problem.optimum(beta)
    expected = forward_kl_velocity(jax.nn.log_softmax(logits), optimum)
    # The weights add up to more than one: that is how much faster it goes there.
    scale = jnp.sum(jnp.exp(problem.ref_logp + problem.reward / beta))
    np.testing.assert_allclose(found, scale * expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("advantage", ["leave_one_out", "batch_mean", "running_mean"])
def test_a_policy_gradient_with_a_penalty_is_the_velocity_of_reverse_kl(problem, logits, advantage):
    beta = 0.3
    recipe = replace(RECIPES["rloo"], advantage=advantage, kl_in_reward=beta)
    found = VELOCITY(recipe, problem, logits)
    target = problem.optimum(beta)
    expected = beta * reverse_kl_velocity(jax.nn.log_softmax(logits), target)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-14)


def test_ipo_is_the_sum_over_pairs_that_a_loop_makes(problem, logits):
    tau, p = 0.1, np.exp(np.asarray(problem.ref_logp))
    recipe = Recipe(IPO(tau=tau), OFFLINE)

    reward, ref_logp = np.asarray(problem.reward), np.asarray(problem.ref_logp)

    def loss(z):
        logp = jax.nn.log_softmax(z)
        total, mass = 0.0, 0.0
        for i in range(K):
            for j in range(K):
                if reward[i] > reward[j]:
                    gap = logp[i] - logp[j] - ref_logp[i] + ref_logp[j]
                    total += 2 * p[i] * p[j] * (gap - 1 / (2 * tau)) ** 2
                    mass += 2 * p[i] * p[j]
        return total / mass

    expected, slope = jax.jit(jax.value_and_grad(loss))(logits)
    everything = enumerate_groups(recipe, problem, problem.ref_logp)
    np.testing.assert_allclose(expected_loss(recipe, logits, everything), expected, rtol=1e-10)
    np.testing.assert_allclose(VELOCITY(recipe, problem, logits), -slope, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", sorted(one_of_each()))
def test_sampled_gradients_of_every_recipe_gather_around_the_expected_one(problem, logits, name):
    recipe, count, repeats = RECIPES[name], 4000, 12
    behaviour = logits if recipe.on_policy else problem.ref_logp
    everything = enumerate_groups(recipe, problem, behaviour)

    def sampled(key):
        rows = draw(key, jnp.log(everything.weight), count)
        groups = jax.tree.map(lambda leaf: leaf[rows], everything)
        alike = replace(groups, weight=jnp.full(count, 1 / count))
        return jax.grad(lambda z: expected_loss(recipe, z, alike))(logits)

    found = np.asarray(jax.jit(jax.vmap(sampled))(jax.random.split(jax.random.key(0), repeats)))
    expected = -np.asarray(VELOCITY(recipe, problem, logits))
    error = found.std(axis=0, ddof=1) / np.sqrt(repeats)
    np.testing.assert_allclose(expected.sum(), 0, atol=1e-12 * np.abs(expected).max())
    assert np.all(np.abs(found.mean(axis=0) - expected) < 6 * error + 1e-9)
    assert np.abs(expected).max() > 1e-4


def test_the_reference_point_of_kto_is_a_mean_over_what_comes(problem, logits):
    recipe = Recipe(KTO(threshold=0.5), OFFLINE)
    ratio = jax.nn.log_softmax(logits) - problem.ref_logp
    mean = float(jnp.sum(jnp.exp(problem.ref_logp) * ratio))
    told = replace(recipe, objective=KTO(threshold=0.5, reference_point=0.1 * max(0.0, mean)))
    found, expected = (VELOCITY(one, problem, logits) for one in (recipe, told))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_run_is_adam_along_the_expected_gradient(problem):
    recipe = RECIPES["online_dpo"].with_reuse(inner_steps=2)
    trace = simulate_exactly(recipe, problem, 6, learning_rate=0.1, record_every=2)
    optimizer, logits = optax.adam(0.1), problem.ref_logp
    state, expected = optimizer.init(logits), [logits]
    for step in range(6):
        if step % 2 == 0:
            behaviour = logits
        velocity = VELOCITY(recipe, problem, logits, behaviour)
        updates, state = optimizer.update(-velocity, state, logits)
        logits = optax.apply_updates(logits, updates)
        expected.append(logits)
    np.testing.assert_array_equal(trace.step, [0, 2, 4, 6])
    np.testing.assert_allclose(
        trace.probability, jax.nn.softmax(jnp.stack(expected[::2])), rtol=1e-10
    )
    assert not trace.samples.any()
    assert trace.chosen_log_ratio[-1] > 0 > trace.rejected_log_ratio[-1]
    assert trace.reward[-1] > trace.reward[0] and abs(trace.reverse_kl[0]) < 1e-12


def test_many_prompts_of_one_context_come_near_it(problem):
    prompts, often = 3000, {"learning_rate": 0.05, "record_every": 20}
    recipe = RECIPES["online_ipo"].with_collection(responses=2, prompts=prompts)
    exact = simulate_exactly(recipe, problem, 40, **often)
    key = jax.random.key(0)
    drawn = simulate(recipe, problem, OneContext(), key, 40, contexts=prompts, **often)
    for name in ("reward", "reverse_kl", "entropy", "distance", "chosen_log_ratio"):
        found, expected = getattr(drawn, name), getattr(exact, name)
        np.testing.assert_allclose(found, expected, rtol=0.05, atol=0.02)


class OneContext(Tabular):
    """A table whose prompts all are the same."""

    def prompts(self, key, count):
        return jnp.zeros(count, jnp.int32)

    def held_out(self, key, trained_on):
        return trained_on[:1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 5, "record_every": 2}, "record_every must divide"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"problem": replace(R1, tokens=9)}, "only responses of one token"),
    ],
)
def test_what_makes_no_sense_is_refused(changes, said):
    settings = {"recipe": RECIPES["dpo"], "problem": R1, "steps": 4} | changes
    with pytest.raises(ValueError, match=said):
        simulate_exactly(**settings)


def test_responses_are_those_that_objectives_see(problem, logits):
    groups = enumerate_groups(RECIPES["grpo"], problem, logits)
    assert isinstance(groups.responses, Responses)
    np.testing.assert_allclose(groups.weight.sum(), 1, rtol=1e-12)
    assert groups.bins.shape == (K * K, 2) and groups.responses.advantage.shape == (K * K, 2, 1)
