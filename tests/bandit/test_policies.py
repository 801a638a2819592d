"""Policies say one thing however they are asked, and start where the paper starts them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from bandit import PROBLEMS, R1, R2, ContextualMLP, Problem, Tabular, prepare
from bandit.policies import draw, token_logp
from tests.bandit.samples import p_value
from tests.bandit.watching import compiled


def test_draws_follow_the_categorical(key):
    count = 200_000
    drawn = compiled(lambda key: draw(key, R1.ref_logp, count))(key)
    drawn = np.bincount(drawn, minlength=100)
    expected = np.exp(np.asarray(R1.ref_logp, np.float64))
    assert p_value(drawn, expected) > 0.01


def test_draws_from_many_categoricals_follow_each(key):
    logits = 2 * np.random.default_rng(0).normal(size=(3, 4, 7))
    count = 20_000
    drawn = np.asarray(compiled(lambda key: draw(key, jnp.float32(logits), count))(key))
    p = scipy.special.softmax(logits, axis=-1)
    assert drawn.shape == (3, 4, count)
    for row in np.ndindex(3, 4):
        seen = np.bincount(drawn[row], minlength=7)
        assert p_value(seen, p[row]) > 1e-3


def test_draws_do_not_depend_on_the_scale_of_the_probabilities(key):
    drawn = compiled(lambda key, logits: draw(key, logits, 999))
    np.testing.assert_array_equal(drawn(key, R2.ref_logp + 50), drawn(key, R2.ref_logp))


@pytest.mark.parametrize("uniform", ["least", "greatest", "every boundary"])
@pytest.mark.parametrize(
    "possible",
    [
        pytest.param(np.arange(100) >= 40, id="not the first"),
        pytest.param(np.arange(100) < 60, id="not the last"),
        pytest.param(np.arange(100) % 3 == 1, id="with gaps"),
        pytest.param(np.arange(100) == 57, id="only one"),
    ],
)
def test_an_impossible_bin_is_never_drawn_even_at_the_edges(monkeypatch, uniform, possible):
    logits = jnp.where(possible, R1.ref_logp, -jnp.inf)
    numbers = {
        "least": np.zeros(1, np.float32),
        "greatest": np.nextafter(np.ones(1, np.float32), np.float32(0)),
        "every boundary": np.unique(jnp.cumsum(jax.nn.softmax(logits)).clip(0, 1 - 2**-24)),
    }[uniform]
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape: jnp.asarray(numbers))
    drawn = np.asarray(draw(jax.random.key(0), logits, len(numbers)))
    assert possible[drawn].all()
    first, last = np.flatnonzero(possible)[[0, -1]]
    assert {"least": drawn[0] == first, "greatest": drawn[0] == last}.get(uniform, True)


def test_a_table_starts_at_the_reference_exactly(key):
    start = prepare(R1, Tabular(), key, 3)
    np.testing.assert_array_equal(start.params, np.tile(R1.ref_logp, (3, 1)))
    np.testing.assert_array_equal(start.held_out, start.prompts)


def test_a_context_of_a_table_has_logits_of_its_own():
    params = jnp.float32(np.random.default_rng(0).normal(size=(4, 5)))
    tokens = jnp.zeros((2, 3, 1), int)

    def total(params):
        return token_logp(Tabular(), params, jnp.array([2, 0]), tokens).sum()

    touched = np.abs(compiled(jax.grad(total))(params)).sum(axis=-1) > 0
    np.testing.assert_array_equal(touched, [True, False, True, False])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_log_probability_of_a_token_is_that_of_the_tempered_softmax(temperature):
    params = np.random.default_rng(0).normal(size=(2, 5))
    tokens, prompts = np.array([[[0], [4], [2]], [[1], [1], [3]]]), np.array([1, 0])
    read = compiled(lambda *given: token_logp(Tabular(), *given))
    found = read(jnp.float32(params), jnp.asarray(prompts), jnp.asarray(tokens), temperature)
    logp = scipy.special.log_softmax(params[prompts] / temperature, axis=-1)
    expected = np.take_along_axis(logp, tokens[..., 0], axis=-1)
    np.testing.assert_allclose(found[..., 0], expected, rtol=1e-5)


@pytest.mark.parametrize("policy", [Tabular(), ContextualMLP(fit_steps=20)], ids=["table", "mlp"])
def test_actions_are_sampled_from_the_tempered_softmax(policy, key):
    temperature, count = 2.0, 50_000
    problem = Problem(ref_logp=jnp.log(jnp.array([0.6, 0.3, 0.1])), reward=jnp.zeros(3))

    def look(key):
        prompts = policy.prompts(key, 2)
        params = policy.init(key, problem, prompts)
        tokens = policy.sample(params, prompts, key, count, temperature)
        return tokens, policy.logits(params, prompts, tokens)

    tokens, logits = map(np.asarray, compiled(look)(key))
    assert tokens.shape == (2, count, 1)
    p = scipy.special.softmax(np.float64(logits) / temperature, axis=-1).reshape(2, 3)
    for row in range(2):
        seen = np.bincount(tokens[row, :, 0], minlength=3)
        assert p_value(seen, p[row]) > 1e-3


def test_the_network_has_the_papers_layers():
    policy = ContextualMLP()
    params = jax.eval_shape(
        lambda key: policy.init(key, R1, policy.prompts(key, 5)), jax.random.key(0)
    )
    shapes = [(*layer["weight"].shape, *layer["bias"].shape) for layer in params["layers"]]
    assert shapes == [(100, 50, 50), (50, 256, 256), (256, 256, 256), (256, 100, 100)]
    assert params["norm"]["scale"].shape == params["norm"]["bias"].shape == (50,)


def test_the_network_begins_with_small_xavier_weights(key):
    policy = ContextualMLP(fit_steps=0)
    params = compiled(lambda key: policy.init(key, R1, jnp.zeros((5, 100))))(key)
    for layer in params["layers"]:
        weight = np.asarray(layer["weight"])
        limit = 0.01 * np.sqrt(6 / sum(weight.shape))
        assert 0.98 * limit < np.abs(weight).max() <= limit
        assert abs(weight.mean()) < 4 * limit / np.sqrt(3 * weight.size)
        np.testing.assert_array_equal(layer["bias"], 0)


def test_the_network_is_linear_layers_with_one_layer_norm_and_relus(key):
    policy = ContextualMLP(context_size=6, features=5, hidden=4)
    rng = np.random.default_rng(0)
    shape = jax.eval_shape(lambda: policy.init(key, R1, jnp.zeros((1, 6))))
    p = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), shape)
    contexts = rng.random((3, 6))

    first, *hidden, last = p["layers"]
    x = contexts @ first["weight"] + first["bias"]
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    x = np.maximum(x * p["norm"]["scale"] + p["norm"]["bias"], 0)
    for layer in hidden:
        x = np.maximum(x @ layer["weight"] + layer["bias"], 0)
    expected = x @ last["weight"] + last["bias"]
    params, contexts = jax.tree.map(jnp.float32, (p, contexts))
    found = compiled(policy.forward)(params, contexts)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_the_fitted_network_imitates_the_reference_in_contexts_it_has_not_seen():
    policy = ContextualMLP()

    def look(key):
        start = prepare(R1, policy, key, 10)
        logp = jax.nn.log_softmax(policy.forward(start.params, start.held_out))
        return start.prompts, start.held_out, logp

    trained_on, held_out, logp = map(np.asarray, compiled(look)(jax.random.key(0)))
    assert trained_on.shape == (10, 100) and held_out.shape == (100, 100)
    assert held_out.min() >= 0 and held_out.max() < 1
    assert not (trained_on[:, None] == held_out[None]).all(axis=-1).any()
    logp = np.asarray(logp, np.float64)
    p, ref_logp = np.exp(logp), np.asarray(R1.ref_logp)
    assert (p @ np.asarray(R1.reward)).mean() == pytest.approx(0.039, abs=0.004)
    assert (p @ np.asarray(R2.reward)).mean() == pytest.approx(0.377, abs=0.01)
    assert (p * (logp - ref_logp)).sum(axis=-1).mean() < 0.01


@pytest.mark.parametrize("policy", [Tabular(), ContextualMLP()], ids=["table", "mlp"])
@pytest.mark.parametrize("problem", [PROBLEMS["R1-tokens"]], ids=["R1-tokens"])
def test_a_policy_of_one_token_refuses_a_problem_of_several(policy, problem, key):
    with pytest.raises(ValueError, match="tokens=9 and prompt_earns=True; use a TokenTransformer"):
        prepare(problem, policy, key, 2)


@pytest.mark.parametrize("policy", [Tabular(), ContextualMLP()], ids=["table", "mlp"])
def test_no_key_is_used_twice_in_preparing_a_policy(policy, key):
    with jax.debug_key_reuse(True):
        compiled(lambda key: prepare(R1, policy, key, 3)).lower(key)
