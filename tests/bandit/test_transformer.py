"""The token transformer: one distribution, whether it is sampled, scored or written out by hand.

Key to the axes: B prompts, N responses per prompt, T tokens, K bins.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from bandit import PROBLEMS, R1, Problem, TokenTransformer, prepare, transformer
from bandit.policies import draw, token_logp
from tests.bandit.samples import p_value
from tests.bandit.watching import compiled


def world(bins: int, tokens: int) -> Problem:
    p = jnp.ones(bins) / bins
    return Problem(ref_logp=jnp.log(p), reward=jnp.arange(bins) / bins, tokens=tokens)


def opinionated(policy: TokenTransformer, problem: Problem, seed: int = 0) -> dict:
    """Parameters of no training, far enough from 0 that every part of the network matters."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda key: policy.fresh(key, problem), jax.random.key(0))
    return jax.tree.map(lambda leaf: jnp.float32(rng.normal(0, 0.7, leaf.shape)), shapes)


def every_sequence(bins: int, tokens: int) -> np.ndarray:
    return np.array(list(itertools.product(range(bins), repeat=tokens)))


SMALL = TokenTransformer(layers=2, heads=2, width=8)
WORLD = world(bins=5, tokens=4)
PARAMS = opinionated(SMALL, WORLD)
logits_of = compiled(SMALL.logits)


def test_the_network_is_the_papers_nano_gpt():
    shapes = jax.eval_shape(
        lambda key: TokenTransformer().fresh(key, PROBLEMS["R1-tokens"]), jax.random.key(0)
    )
    counted = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes["blocks"]))
    D = 48
    block = 4 * D + (D + 1) * 3 * D + (D + 1) * D + (D + 1) * 4 * D + (4 * D + 1) * D
    assert counted == 3 * block
    assert shapes["tokens"].shape == (100, D) and shapes["head"].shape == (D, 100)
    assert shapes["positions"].shape == (10, D)


def test_the_network_begins_at_the_scales_of_mingpt(key):
    params = compiled(lambda key: TokenTransformer().fresh(key, PROBLEMS["R1-tokens"]))(key)
    blocks, thin = params["blocks"], 0.02 / np.sqrt(6)
    for weight, std in [
        *((params[name], 0.02) for name in ("tokens", "positions", "head")),
        *((blocks[name]["weight"], 0.02) for name in ("qkv", "mlp_in")),
        *((blocks[name]["weight"], thin) for name in ("attention_out", "mlp_out")),
    ]:
        assert np.std(weight) == pytest.approx(std, rel=4 / np.sqrt(weight.size))


def layer_norm(x: np.ndarray, norm: dict) -> np.ndarray:
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * norm["scale"] + norm["bias"]


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def logits_by_hand(params: dict, sequence: np.ndarray, heads: int) -> np.ndarray:
    """Next-token logits after each token of one sequence, in float64, position by position."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    x = p["tokens"][sequence] + p["positions"][: len(sequence)]
    for layer in range(len(p["blocks"]["qkv"]["bias"])):
        block = jax.tree.map(lambda leaf, layer=layer: leaf[layer], p["blocks"])
        normed = layer_norm(x, block["attention_norm"])
        projected = normed @ block["qkv"]["weight"] + block["qkv"]["bias"]
        attended = np.zeros_like(x)
        per_head = np.split(np.arange(x.shape[1]), heads)
        for t, channels in itertools.product(range(len(sequence)), per_head):
            q, k, v = (part[:, channels] for part in np.split(projected, 3, axis=-1))
            weight = scipy.special.softmax(k[: t + 1] @ q[t] / np.sqrt(len(channels)))
            attended[t, channels] = weight @ v[: t + 1]
        x = x + attended @ block["attention_out"]["weight"] + block["attention_out"]["bias"]
        hidden = layer_norm(x, block["mlp_norm"]) @ block["mlp_in"]["weight"]
        hidden = gelu(hidden + block["mlp_in"]["bias"])
        x = x + hidden @ block["mlp_out"]["weight"] + block["mlp_out"]["bias"]
    return layer_norm(x, p["norm"]) @ p["head"]


def test_the_logits_are_those_of_a_pre_norm_transformer_written_out_by_hand():
    rng = np.random.default_rng(1)
    prompts, tokens = rng.integers(0, 5, 3), rng.integers(0, 5, (3, 2, 4))
    found = logits_of(PARAMS, jnp.asarray(prompts), jnp.asarray(tokens))
    for b, n in np.ndindex(3, 2):
        context = np.append(prompts[b], tokens[b, n, :-1])
        expected = logits_by_hand(PARAMS, context, heads=2)
        np.testing.assert_allclose(found[b, n], expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("position", range(4))
def test_a_token_changes_the_logits_after_it_and_none_before(position):
    tokens = np.random.default_rng(2).integers(0, 5, (1, 1, 4))
    changed = tokens.copy()
    changed[..., position] = (changed[..., position] + 2) % 5
    before = logits_of(PARAMS, jnp.array([3]), jnp.asarray(tokens))[0, 0]
    after = logits_of(PARAMS, jnp.array([3]), jnp.asarray(changed))[0, 0]
    same = (np.asarray(before) == np.asarray(after)).all(axis=-1)
    np.testing.assert_array_equal(same, np.arange(4) <= position)


def test_no_gradient_flows_from_a_logit_to_a_later_position():
    def first_logits(positions):
        params = PARAMS | {"positions": positions}
        return SMALL.logits(params, jnp.array([3]), jnp.ones((1, 1, 4), int))[0, 0, :, 0]

    slope = compiled(jax.jacrev(first_logits))(PARAMS["positions"])
    reads = np.abs(slope).sum(axis=-1) > 0
    np.testing.assert_array_equal(reads, np.tril(np.ones((4, 5), bool)))


def test_the_prompt_reaches_every_logit():
    tokens = jnp.ones((2, 1, 4), int)
    one, other = np.asarray(logits_of(PARAMS, jnp.array([0, 4]), tokens))[:, 0]
    assert (one != other).any(axis=-1).all()


@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_the_probabilities_of_all_sequences_add_up_to_1(temperature):
    policy, problem = TokenTransformer(layers=1, heads=1, width=4), world(bins=3, tokens=2)
    params = opinionated(policy, problem)
    sequences = jnp.asarray(np.broadcast_to(every_sequence(3, 2), (3, 9, 2)))
    read = compiled(lambda *given: token_logp(policy, params, *given, temperature))
    logp = read(jnp.arange(3), sequences)
    np.testing.assert_allclose(np.exp(logp.sum(axis=-1)).sum(axis=-1), 1, rtol=1e-5)


def test_sequences_are_drawn_with_the_probability_they_are_scored_at(key):
    policy, problem, count = TokenTransformer(layers=1, heads=1, width=4), world(3, 3), 20_000
    params, temperature = opinionated(policy, problem), 1.7
    sequences = every_sequence(3, 3)

    def look(key):
        prompts = jnp.array([0, 2])
        tokens = policy.sample(params, prompts, key, count, temperature)
        every = jnp.broadcast_to(jnp.asarray(sequences), (2, *sequences.shape))
        return tokens, token_logp(policy, params, prompts, every, temperature)

    tokens, logp = map(np.asarray, compiled(look)(key))
    assert tokens.shape == (2, count, 3)
    for row in range(2):
        seen = np.bincount(tokens[row] @ [9, 3, 1], minlength=27)
        assert p_value(seen, np.exp(np.float64(logp[row]).sum(axis=-1))) > 1e-3


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_what_the_cache_samples_the_full_forward_pass_would_have_drawn(key, temperature):
    # The same uniform numbers, asked of logits that see the whole sequence at once.
    count = 500

    def look(key):
        prompts = jnp.arange(5)
        tokens = SMALL.sample(PARAMS, prompts, key, count, temperature)
        logits = SMALL.logits(PARAMS, prompts, tokens).reshape(5 * count, 4, 5)
        keys = jax.random.split(key, 4)
        redrawn = [draw(keys[t], logits[:, t] / temperature, 1)[:, 0] for t in range(4)]
        return tokens, jnp.stack(redrawn, axis=-1).reshape(5, count, 4)

    tokens, redrawn = map(np.asarray, compiled(look)(key))
    # Two orders of summation may fall on two sides of a boundary, once in a million draws.
    assert np.mean(tokens == redrawn) > 1 - 1e-3
    assert len(np.unique(tokens[0], axis=0)) > 5


def test_at_temperature_0_every_sample_is_the_greedy_one(key):
    tokens = compiled(lambda key: SMALL.sample(PARAMS, jnp.arange(5), key, 3, 1e-4))(key)
    best = np.argmax(logits_of(PARAMS, jnp.arange(5), tokens), axis=-1)
    np.testing.assert_array_equal(tokens, best)


def test_dropout_needs_a_key_and_a_rate(key):
    prompts, tokens = jnp.arange(2), jnp.ones((2, 1, 4), int)
    quiet = TokenTransformer(layers=2, heads=2, width=8, dropout=0.0)
    plain = np.asarray(logits_of(PARAMS, prompts, tokens))
    np.testing.assert_array_equal(plain, logits_of(PARAMS, prompts, tokens))
    np.testing.assert_allclose(plain, compiled(quiet.logits)(PARAMS, prompts, tokens, key), 1e-5)
    noisy = [logits_of(PARAMS, prompts, tokens, jax.random.key(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(noisy[0], noisy[1])
    assert (np.asarray(noisy[0]) != plain).any() and (noisy[0] != noisy[2]).any()


def test_dropout_hits_the_embeddings_and_every_branch_at_its_rate_and_keeps_the_mean(
    key, monkeypatch
):
    x = jnp.ones((200, 100))
    dropped = np.asarray(transformer.drop(key, x, 0.1))
    assert np.mean(dropped == 0) == pytest.approx(0.1, abs=0.01)
    np.testing.assert_allclose(dropped[dropped != 0], 1 / 0.9, rtol=1e-6)
    calls, drop = [], transformer.drop
    monkeypatch.setattr(transformer, "drop", lambda *given: calls.append(given) or drop(*given))
    prompts, tokens = jnp.arange(2), jnp.ones((2, 1, 4), int)
    jax.eval_shape(lambda key: SMALL.logits(PARAMS, prompts, tokens, key), key)
    assert len(calls) == 1 + 2 * SMALL.layers
    assert {rate for _, _, rate in calls} == {0.1}


@pytest.mark.parametrize("layers", [1, 4])
def test_any_number_of_layers_can_be_scored_trained_and_sampled(layers, key):
    policy = TokenTransformer(layers=layers, heads=1, width=4)

    def look(key):
        params = policy.fresh(key, WORLD)
        tokens = policy.sample(params, jnp.arange(2), key, 3, 1.0)
        return policy.logits(params, jnp.arange(2), tokens, key)

    assert jax.eval_shape(look, key).shape == (2, 3, 4, 5)


def test_prompts_are_uniform_over_the_bins(key):
    policy = TokenTransformer(evaluation_prompts=7)
    prompts = policy.prompts(key, 50_000)
    assert p_value(np.bincount(prompts, minlength=100), np.ones(100)) > 0.01
    assert policy.held_out(key, prompts).shape == (7,)


def test_a_problem_of_another_number_of_bins_is_refused_because_prompts_have_100(key):
    with pytest.raises(ValueError, match="5 bins, but a TokenTransformer's prompts"):
        SMALL.init(key, WORLD, jnp.arange(2))


@pytest.mark.parametrize("layers", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_the_fitted_network_imitates_the_reference_at_every_position(layers):
    policy, problem = TokenTransformer(layers=layers), PROBLEMS["R1-tokens"]

    def look(key):
        start = prepare(problem, policy, key, 10)
        tokens = policy.sample(start.params, start.held_out, key, 1, 1.0)
        return jax.nn.log_softmax(policy.logits(start.params, start.held_out, tokens))

    logp = np.asarray(compiled(look)(jax.random.key(0)), np.float64)[:, 0]
    divergence = (np.exp(logp) * (logp - np.asarray(R1.ref_logp))).sum(axis=-1)
    assert divergence.mean() < 0.01
    earned = (np.exp(logp) @ np.asarray(R1.reward)).mean()
    assert earned == pytest.approx(0.039, abs=0.005)


def test_no_key_is_used_twice_in_preparing_or_in_a_training_step(key):
    policy = TokenTransformer(layers=1, heads=1, width=4, fit_steps=2)

    def look(key):
        start_key, sample_key, dropout_key = jax.random.split(key, 3)
        start = prepare(PROBLEMS["R1-tokens"], policy, start_key, 3)
        tokens = policy.sample(start.params, start.prompts, sample_key, 2, 1.0)
        return policy.logits(start.params, start.prompts, tokens, dropout_key)

    with jax.debug_key_reuse(True):
        jax.jit(look).lower(key)
