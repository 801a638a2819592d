"""A critic reads the policy's own pass, says 0 at first, and learns token by token."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm.critic import value_loss
from llm.model import ActorCritic, parameters, with_parameters
from llm.settings import CriticSettings
from llm.update import Fixed, Learner
from objectives import PPO, REINFORCE
from objectives.advantages import gae, whiten
from tests.llm.tiny_runs import (
    as_jax,
    hidden_of,
    in_pieces,
    loud,
    make_decoder,
    make_groups,
    make_learner,
    total,
    unpacked,
)

GROUPS = make_groups((3, 5, 39), (7, 1, 12), (4, 6, 22), rewards=(0.7, -0.2))
SETTINGS = CriticSettings(coefficient=0.5, clip=0.2)


@pytest.fixture(scope="module")
def module() -> ActorCritic:
    return ActorCritic(make_decoder())


@pytest.fixture(scope="module")
def learner(module) -> Learner:
    return make_learner(module, critic=SETTINGS)


@pytest.fixture(scope="module")
def values(module):
    return loud(parameters(module))


@pytest.fixture(scope="module")
def known():
    """Numbers per token of every group, as a collection leaves them."""
    random = np.random.default_rng(3)
    names = ("old_logp", "advantage", "old_value", "returns")
    return {
        name: [random.normal(size=g.scored).astype(np.float32) for g in GROUPS] for name in names
    }


def batches(known, max_tokens=256):
    return [as_jax(b) for b in in_pieces(GROUPS, max_tokens).with_known(**known).micro_batches(0)]


def test_the_value_of_a_token_is_read_where_the_token_is_predicted(module, learner, values):
    (batch,) = batches({})
    found = jax.jit(learner.judge)(values, Fixed({}), batch).value
    table = unpacked(GROUPS)
    hidden = jax.jit(hidden_of)(with_parameters(module, values).decoder, table)
    at = hidden[np.arange(6)[:, None], table["at"]]
    expected = at @ values["head/kernel"] + values["head/bias"]
    wanted = np.where(table["mask"], expected.reshape(table["mask"].shape), 0)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    assert np.abs(wanted).max() > 0.1


def test_a_critic_that_has_seen_nothing_expects_nothing(module, learner):
    (batch,) = batches({})
    judged = jax.eval_shape(learner.judge, parameters(module), Fixed({}), batch)
    assert judged.value.shape == batch.mask.shape
    assert not np.any(jax.jit(learner.judge)(parameters(module), Fixed({}), batch).value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1.1, 0.5 * 0.9**2),  # within the clip
        (1.5, 0.5 * 0.8**2),  # beyond it on the way to the return: the clipped error, no gradient
        (0.5, 0.5 * 1.5**2),  # beyond it on the way back: the plain error
    ],
)
def test_a_value_may_not_move_far_at_a_time(value, expected):
    def loss(value):
        one = jnp.ones((1, 1, 1))
        return value_loss(value * one, one, 2 * one, 0.2)[0, 0, 0]

    found, slope = jax.value_and_grad(loss)(value)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(slope, 0 if value == 1.5 else value - 2, atol=1e-6)


def test_pieces_of_a_batch_add_up_to_the_policy_and_the_critic(module, learner, values, known):
    objective = PPO(normalize="length")
    sums = jax.jit(learner.sums)
    cut = [sums(values, Fixed({}), b, objective) for b in batches(known, max_tokens=64)]
    assert len(cut) > 1
    (batch,) = batches(known)
    whole = sums(values, Fixed({}), batch, objective)
    for got, want in zip(*map(jax.tree.leaves, (total(cut), whole)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)

    def apart(values):
        judged = learner.judge(values, Fixed({}), batch)
        policy = replace(learner, module=module.decoder, critic=None)
        inner = {p.removeprefix("decoder/"): v for p, v in values.items() if "decoder/" in p}
        terms = policy.terms(inner, Fixed({}), batch, objective)
        assert judged.value is not None
        old_value, returns = jnp.asarray(batch.old_value), jnp.asarray(batch.returns)
        loss = value_loss(judged.value, old_value, returns, 0.2)
        return jnp.sum((terms.value + 0.5 * loss) * terms.weight)

    wanted = jax.jit(jax.grad(apart))(values)
    for path, gradient in wanted.items():
        np.testing.assert_allclose(whole.gradient[path], gradient, rtol=1e-4, atol=1e-5)
    assert jnp.abs(whole.gradient["head/kernel"]).max() > 1e-3
    mean = {name: value / weight for name, (value, weight) in whole.metrics.items()}
    real = np.asarray(batch.mask)
    np.testing.assert_allclose(mean["return"], np.asarray(batch.returns)[real].mean(), rtol=1e-4)
    assert mean["value_error"] > 0 and mean["value_loss"] > 0


def test_a_critic_beside_an_objective_of_responses_is_refused(learner, values, known):
    (batch,) = batches(known)
    with pytest.raises(ValueError, match="unit is the"):
        jax.eval_shape(learner.sums, values, Fixed({}), batch, REINFORCE())
    with pytest.raises(ValueError, match="no old_value or no returns"):
        jax.eval_shape(learner.sums, values, Fixed({}), replace(batch, returns=None), PPO())


def test_a_critic_and_its_settings_come_together(module):
    with pytest.raises(ValueError, match="ActorCritic and to nothing else"):
        make_learner(module)
    with pytest.raises(ValueError, match="ActorCritic and to nothing else"):
        make_learner(module.decoder, critic=SETTINGS)


def test_fractions_of_a_reward_reach_the_returns_and_one_token_is_whitened_to_nothing():
    mask = jnp.asarray([[[True, False, False]]])
    reward = jnp.asarray([[[0.7, 9.0, 9.0]]])
    advantage, returns = gae(reward, jnp.full((1, 1, 3), 0.25), mask)
    np.testing.assert_allclose(returns, [[[0.7, 0, 0]]], rtol=1e-6)
    np.testing.assert_allclose(advantage, [[[0.45, 0, 0]]], rtol=1e-6)
    np.testing.assert_array_equal(whiten(advantage, mask), jnp.zeros((1, 1, 3)))
