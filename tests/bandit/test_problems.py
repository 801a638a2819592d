"""The environments are the paper's, to every digit a lecture would quote."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from bandit import PROBLEMS, R1, R2, Problem, bump, squashed_cauchy
from bandit.simulate import response_reward
from objectives import reverse_kl
from tests.bandit.watching import compiled

BINS = np.arange(100)
REFERENCE = np.exp(np.asarray(R1.ref_logp, np.float64))


earned = compiled(response_reward)


def near(bin_: int) -> np.ndarray:
    """The bins within 10 of one."""
    return np.abs(BINS - bin_) <= 10


@pytest.mark.parametrize(("location", "scale", "bins"), [(-0.7, 0.4, 100), (0, 1, 10), (2, 3, 7)])
def test_a_reference_is_the_squashed_cauchy_integrated_over_each_bin(location, scale, bins):
    edges = np.arctanh(np.linspace(-1, 1, bins + 1)[1:-1])
    below = scipy.stats.cauchy(loc=location, scale=scale).cdf(edges)
    expected = np.diff(np.concatenate([[0.0], below, [1.0]]))
    found = np.exp(np.asarray(squashed_cauchy(bins, location, scale), np.float64))
    np.testing.assert_allclose(found, expected, rtol=2e-6)
    np.testing.assert_allclose(found.sum(), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("bin_", "probability"),
    [(0, 0.0781), (99, 0.0422), (20, 0.0243), (50, 0.0038), (70, 0.0021), (80, 0.0019)],
)
def test_a_bin_has_the_probability_the_paper_gives_it(bin_, probability):
    assert REFERENCE[bin_] == pytest.approx(probability, abs=5e-5)


def test_the_reference_has_a_mode_inside_a_spike_at_each_end_and_its_least_mass_near_80():
    inside = REFERENCE[1:-1]
    assert np.argmax(inside) + 1 in (15, 16, 17)
    assert inside.max() == pytest.approx(0.0268, abs=5e-5)
    assert REFERENCE[0] > inside.max() and REFERENCE[99] > inside.max()
    assert abs(int(np.argmin(REFERENCE)) - 80) <= 2


def test_the_reference_is_thin_around_bin_70_and_thick_around_bin_20():
    assert REFERENCE[near(70)].sum() == pytest.approx(0.046, abs=5e-4)
    assert REFERENCE[near(20)].sum() == pytest.approx(0.454, abs=5e-4)


def test_the_reference_has_4_117_nats_of_entropy():
    assert -np.sum(REFERENCE * np.log(REFERENCE)) == pytest.approx(4.117, abs=5e-4)


@pytest.mark.parametrize(
    ("name", "peak", "width"),
    [
        *(("R1", 70, 10), ("R2", 20, 10), ("R1-width20", 70, 20), ("R1-width30", 70, 30)),
        *(("R1-tokens", 70, 10), ("R2-tokens", 20, 10)),
    ],
)
def test_a_reward_is_1_at_its_peak_and_falls_off_over_its_width(name, peak, width):
    reward = np.asarray(PROBLEMS[name].reward, np.float64)
    assert reward[peak] == 1 == reward.max()
    np.testing.assert_allclose(reward, np.exp(-(((BINS - peak) / width) ** 2)), rtol=1e-6)
    assert reward[peak + width // 2] == pytest.approx(np.exp(-0.25))


@pytest.mark.parametrize(
    ("name", "reward"),
    [("R1", 0.0390), ("R2", 0.3772), ("R1-width20", 0.0955), ("R1-width30", 0.1876)],
)
def test_the_reference_earns_what_the_paper_starts_from(name, reward):
    problem = PROBLEMS[name]
    assert np.sum(REFERENCE * np.asarray(problem.reward)) == pytest.approx(reward, abs=5e-5)


@pytest.mark.parametrize(("problem", "reward"), [(R1, 0.3135), (R2, 0.9401)])
def test_the_best_of_ten_samples_of_the_reference_earns_this_much(problem, reward):
    order = np.argsort(problem.reward)
    below = np.concatenate([[0.0], np.cumsum(REFERENCE[order])]) ** 10
    best = np.sum(np.diff(below) * np.asarray(problem.reward)[order])
    assert best == pytest.approx(reward, abs=5e-5)


@pytest.mark.parametrize(
    ("problem", "beta", "reward", "divergence"),
    [
        *((R1, 1.0, 0.077, 0.021), (R1, 0.5, 0.152, 0.138)),
        *((R1, 0.1, 0.941, 3.79), (R1, 0.05, 0.974, 4.24)),
        *((R2, 1.0, 0.524, 0.074), (R2, 0.5, 0.661, 0.278)),
        *((R2, 0.1, 0.947, 1.44), (R2, 0.05, 0.974, 1.82)),
    ],
)
def test_the_optimum_earns_this_much_this_far_from_the_reference(problem, beta, reward, divergence):
    logp = problem.optimum(beta)
    assert jnp.sum(jnp.exp(logp) * problem.reward) == pytest.approx(reward, abs=5.1e-4)
    last_digit = 5.1e-4 if divergence < 1 else 5.1e-3
    assert reverse_kl(logp, problem.ref_logp) == pytest.approx(divergence, abs=last_digit)


def test_the_optimum_goes_from_the_reference_to_the_best_bin_as_beta_falls():
    np.testing.assert_allclose(np.exp(R1.optimum(1e6)), REFERENCE, rtol=1e-5)
    assert np.argmax(R1.optimum(1e-4)) == 70
    assert np.exp(R1.optimum(1e-4))[70] == pytest.approx(1, abs=1e-6)


def test_a_response_of_nine_tokens_after_a_prompt_earns_the_mean_of_ten_bins():
    problem = PROBLEMS["R1-tokens"]
    tokens = np.random.default_rng(0).integers(0, 100, (4, 3, 9))
    prompts = np.array([70, 0, 65, 99])
    r = np.asarray(problem.reward, np.float64)
    expected = (r[tokens].sum(axis=-1) + r[prompts][:, None]) / 10
    found = earned(problem, jnp.asarray(prompts), jnp.asarray(tokens))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(("name", "start"), [("R1-tokens", 0.0529), ("R2-tokens", 0.3572)])
def test_the_10_token_reward_runs_from_the_reference_to_a_ceiling_of_918_that_is_attained(
    name, start
):
    problem = PROBLEMS[name]
    reward = np.asarray(problem.reward, np.float64)
    always_the_best = jnp.full((100, 1, 9), int(reward.argmax()))
    attained = earned(problem, jnp.arange(100), always_the_best)
    np.testing.assert_allclose(attained[:, 0], (9 * reward.max() + reward) / 10, rtol=1e-6)
    assert np.mean(attained) == pytest.approx(0.918, abs=5e-4)
    of_the_reference = (9 * np.sum(REFERENCE * reward) + reward.mean()) / 10
    assert of_the_reference == pytest.approx(start, abs=5e-5)


def test_the_one_token_problems_do_not_pay_for_the_prompt():
    prompts, actions = jnp.array([70]), jnp.array([[[70], [20]]])
    np.testing.assert_allclose(earned(R1, prompts, actions), [[1, np.exp(-25)]], rtol=1e-6)
    np.testing.assert_allclose(earned(R2, prompts, actions), [[np.exp(-25), 1]], rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": R1.reward.at[3].set(jnp.nan)}, r"not finite in bins \[3\]"),
        ({"reward": R1.reward.at[7].set(jnp.inf)}, r"not finite in bins \[7\]"),
        ({"ref_logp": R1.ref_logp + 0.1}, "sums to probability 1.1"),
        ({"ref_logp": jnp.exp(R1.ref_logp)}, "log_softmax"),
        ({"ref_logp": R1.ref_logp.at[0].set(jnp.nan)}, "sums to probability nan"),
    ],
    ids=["nan reward", "infinite reward", "unnormalised", "not logs", "nan"],
)
def test_a_bad_problem_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(R1, **changes)


@pytest.mark.parametrize(
    ("ref_logp", "reward"), [((100,), (99,)), ((1, 100), (1, 100)), ((), ())], ids=str
)
def test_a_problem_of_the_wrong_shapes_is_refused(ref_logp, reward):
    # Put together from its leaves, because in a test the annotations would speak first.
    leaves = [np.zeros(ref_logp), np.zeros(reward)]
    problem = jax.tree.unflatten(jax.tree.structure(R1), leaves)
    with pytest.raises(
        ValueError, match=re.escape(f"{reward}") + r" and ref_logp .* must be \[K\]"
    ):
        problem.__post_init__()


def test_a_reference_may_leave_bins_out():
    ref_logp = jnp.log(jnp.array([0.5, 0.0, 0.5]))
    problem = Problem(ref_logp=ref_logp, reward=jnp.array([0.0, 1.0, 0.5]))
    np.testing.assert_array_equal(np.exp(problem.optimum(0.1))[1], 0)


def test_numbers_of_a_problem_are_data_and_its_counts_are_structure():
    assert len(jax.tree.leaves(R1)) == 2
    assert (
        jax.tree.structure(R1)
        == jax.tree.structure(R2)
        == jax.tree.structure(dataclasses.replace(R1, reward=bump(5, 3)))
    )
    assert jax.tree.structure(R1) != jax.tree.structure(PROBLEMS["R1-tokens"])
