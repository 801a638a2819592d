"""Where not every word can be drawn, log-probabilities are of those that can.

Key to the axes: M hidden states, P scored tokens, V vocabulary, D model.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm.logprobs.primitive import truncating
from objectives import divergences
from tests.llm.logprobs.test_primitive import (
    Problem,
    all_close,
    in_float32,
    ours,
    problem,
    told,
)

RULES = [(5, 1.0), (0, 0.6), (7, 0.8)]
rules = pytest.mark.parametrize(("top_k", "top_p"), RULES)


def kept(z: np.ndarray, target: np.ndarray, top_k: int, top_p: float) -> np.ndarray:
    """Which words can be drawn, one row and one word at a time."""
    found = np.zeros(z.shape, bool)
    for row, logits in enumerate(z):
        order = np.argsort(-logits)[: top_k or None]
        weight = np.exp(logits[order] - logits.max())
        enough = np.searchsorted(np.cumsum(weight), top_p * weight.sum()) + 1
        found[row, order[:enough]] = True
        found[row, target[row]] = True
    return found


def by_hand(at: Problem, temperature: float, top_k: int, top_p: float):
    """Statistics of the whole table with the words that cannot be drawn taken out of it."""

    def table(hidden, matrix):
        return (hidden[at.source] @ matrix.T) / temperature

    def cut(z):
        words = kept(np.asarray(z), np.asarray(at.target), top_k, top_p)
        return lambda z: jax.nn.log_softmax(jnp.where(words, z, -1e30))

    cut_policy, cut_reference = cut(table(*at[:2])), cut(table(*at[2:4]))
    real = jnp.arange(len(at.source)) < at.counts[0]

    def statistics(hidden, matrix):
        z, ref_z = table(hidden, matrix), table(*at[2:4])
        drawn, ref_drawn = cut_policy(z), cut_reference(ref_z)
        whole, ref_whole = jax.nn.log_softmax(z), jax.nn.log_softmax(ref_z)
        rows = jnp.arange(len(at.source))
        found = (
            drawn[rows, at.target],
            divergences.entropy(drawn),
            divergences.forward_kl(whole, ref_whole),
            divergences.reverse_kl(whole, ref_whole),
            ref_drawn[rows, at.target],
        )
        found = [jnp.where(real, x, 0) for x in found]
        return sum(jnp.vdot(g, x) for g, x in zip(at.arriving, found, strict=True)), found

    (_, found), gradients = jax.value_and_grad(statistics, (0, 1), has_aux=True)(*at[:2])
    return found, gradients


def under(top_k: int, top_p: float):
    """The primitive's statistics under a rule, to be told like any others."""
    return lambda at, **options: ours(at, top_k=top_k, top_p=top_p, **options)


@rules
@pytest.mark.parametrize("temperature", [0.7, pytest.param(1.5, marks=pytest.mark.slow)])
def test_statistics_and_gradients_are_those_of_what_is_left(x64, top_k, top_p, temperature):
    at = problem(11)
    want = by_hand(at, temperature, top_k, top_p)
    whole = told(at, temperature)
    assert np.abs(np.asarray(want[0][0]) - whole[0][0]).max() > 0.1  # the rule takes something out
    all_close(told(at, temperature, statistics=under(top_k, top_p)), want, atol=1e-10)


def test_a_rule_that_takes_nothing_out_changes_nothing():
    at = in_float32(problem(12))
    got, want = told(at, statistics=under(0, 1.0)), told(at)
    jax.tree.map(np.testing.assert_array_equal, got, want)
    all_close(told(at, statistics=under(23, 1.0)), want, atol=1e-6)  # as many words as there are


def test_a_target_that_could_no_longer_be_drawn_keeps_a_probability():
    at = in_float32(problem(13))
    z = np.asarray(at.hidden[at.source] @ at.matrix.T)
    least = at._replace(target=jnp.asarray(z.argmin(axis=1), jnp.int32))
    (logp, *_, ref_logp), gradients = told(least, statistics=under(1, 1.0))
    best, worst = z.max(axis=1)[:17], z.min(axis=1)[:17]
    np.testing.assert_allclose(logp[:17], worst - np.logaddexp(best, worst), rtol=1e-4)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((ref_logp, gradients)))


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(0.3, 0, 0.6), (1.0, 0, 1.0), (1.5, 7, 0.8)]
)
def test_between_equals_there_is_exactly_nothing(temperature, top_k, top_p):
    at = in_float32(problem(14))
    at = at._replace(hidden=3 * at.hidden)
    at = at._replace(ref_hidden=at.hidden, ref_matrix=at.matrix)
    (logp, _, forward, reverse, ref_logp), _ = told(at, temperature, statistics=under(top_k, top_p))
    assert not np.any(forward) and not np.any(reverse)
    np.testing.assert_allclose(logp, ref_logp, rtol=1e-6)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(rule, message):
    with pytest.raises(ValueError, match=message):
        ours(in_float32(problem()), **rule)


def test_a_vocabulary_spread_over_devices_cannot_be_truncated():
    assert truncating(5, 1.0, slices=1) == (1.0, 5, 1.0)
    assert truncating(0, 1.0, slices=2) is None
    with pytest.raises(ValueError, match=r"--mesh\.tensor 1"):
        truncating(5, 1.0, slices=2)
