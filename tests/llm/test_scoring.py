"""A packed batch becomes [B, N, T] without losing, inventing or moving a number."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm.data.examples import Group
from llm.data.packing import Place, Shape, pack
from llm.model import RewardModel, parameters, with_parameters
from llm.scoring import as_responses, scatter, score, score_rewards
from tests.llm.tiny_runs import (
    as_jax,
    dense_logp,
    hidden_of,
    loud,
    make_decoder,
    make_groups,
    unpacked,
)

GROUPS = make_groups((3, 5, 20), (9, 1, 9), (1, 12, 2), rewards=(0.7, 0.3))


@pytest.fixture(scope="module")
def decoder():
    made = make_decoder()
    return with_parameters(made, loud(parameters(made)))


@pytest.fixture(scope="module")
def logp(decoder):
    return np.asarray(jax.jit(dense_logp)(decoder, unpacked(GROUPS)))


def packed(order=(0, 1, 2), groups=GROUPS, rows=2, length=64, share_prompt=True):
    """All groups in the first row as they come, the last in the second."""
    shape = Shape(rows, length, 64, len(order), 2, 20)
    first, *rest = order
    start = len(groups[first].prompt) * (1 if share_prompt else 2) + groups[first].scored
    places = [Place(first, 0, 0), Place(rest[0], 0, start), *(Place(r, 1, 7) for r in rest[1:])]
    return as_jax(pack(groups, [places], shape, share_prompt=share_prompt))


@pytest.fixture(scope="module")
def scores(decoder):
    run = jax.jit(score)
    return lambda batch: np.asarray(run(decoder, batch).logp)


@pytest.mark.parametrize("share_prompt", [True, False])
def test_every_response_token_gets_the_log_probability_of_dense_logits(scores, logp, share_prompt):
    batch = packed(share_prompt=share_prompt)
    table = unpacked(GROUPS)
    np.testing.assert_array_equal(batch.mask, table["mask"])
    expected = np.where(table["mask"], logp, 0)
    np.testing.assert_allclose(scores(batch), expected, rtol=1e-4, atol=1e-5)


def test_the_order_of_the_groups_changes_their_place_and_nothing_else(scores):
    there, here = scores(packed((2, 0, 1))), scores(packed((0, 1, 2)))
    np.testing.assert_allclose(there, here[[2, 0, 1]], rtol=1e-5, atol=1e-5)


def test_more_padding_changes_nothing(scores):
    np.testing.assert_allclose(
        scores(packed(rows=4, length=128)), scores(packed()), rtol=1e-5, atol=1e-5
    )


def test_what_lies_in_the_padding_is_never_seen(scores):
    batch = packed()
    garbage = jnp.where(batch.segments == 0, 77, batch.tokens)
    np.testing.assert_array_equal(scores(replace(batch, tokens=garbage)), scores(batch))


def test_a_response_of_padding_tokens_is_scored_like_any_other(scores):
    plain = GROUPS[0]
    zeros = tuple(np.zeros_like(y) for y in plain.responses)
    groups = [Group(plain.prompt, zeros, plain.rewards, "zeros"), *GROUPS[1:]]
    found = scores(packed(groups=groups))
    assert (found[0, 0, :5] < 0).all() and (found[0, 1, :20] < 0).all()


def test_padding_is_dropped_by_the_scatter():
    batch = packed()
    real = np.asarray(batch.slot) < batch.mask.size
    values = jnp.where(jnp.asarray(real), 2.0, jnp.nan)
    found = np.asarray(scatter(values, batch, batch.mask.shape))
    np.testing.assert_array_equal(found, np.where(batch.mask, 2.0, 0.0))


def test_rewards_stay_the_fractions_they_are():
    responses = as_responses(packed(), None)
    np.testing.assert_array_equal(responses.reward, np.array([[0.7, 0.3]] * 3, np.float32))
    assert not responses.ref_logp.any()


def test_a_reward_model_reads_the_last_token_of_each_response(decoder):
    model = RewardModel(decoder)
    model.head.kernel.set_value(jnp.arange(16.0))
    batch = packed()
    found, responses = jax.jit(score_rewards)(model, batch)
    assert found.shape == (3, 2, 1) and responses.mask.all()
    table = unpacked(GROUPS)
    hidden = jax.jit(hidden_of)(decoder, table)
    last = np.asarray(hidden)[np.arange(6), table["last"]] @ np.arange(16.0)
    np.testing.assert_allclose(np.asarray(found).reshape(-1), last, rtol=1e-4, atol=1e-4)
