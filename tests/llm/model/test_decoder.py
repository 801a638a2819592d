"""The decoder: packing, branching, padding, caching, remat and precision change nothing."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from llm.model import Decoder, RewardModel, abstract_decoder, parameters, with_parameters
from llm.model.attention import empty_cache
from tests.llm.model.decoders import ARCHITECTURES, filled, quickly_compiled, rows, run, tokens


@pytest.fixture(scope="module", params=ARCHITECTURES)
def decoder(request: pytest.FixtureRequest) -> Decoder:
    return filled(ARCHITECTURES[request.param])


def alone(decoder: Decoder, *pieces: np.ndarray) -> np.ndarray:
    """Hidden states of the pieces as one plain sequence, which is one row of 24."""
    sequence = np.concatenate(pieces)
    return np.asarray(run(decoder, *rows(24, (sequence, 0, 1, 0))))[0, : len(sequence)]


def close(actual: Any, expected: Any) -> None:
    np.testing.assert_allclose(actual, expected, atol=1e-5, rtol=1e-5)


def test_a_packed_row_is_its_examples_one_by_one(decoder: Decoder):
    first, second = tokens(9, 1), tokens(11, 2)
    packed = np.asarray(run(decoder, *rows(24, (first, 0, 1, 0), (second, 0, 2, 0))))[0]
    close(packed[:9], alone(decoder, first))
    close(packed[9:20], alone(decoder, second))


def test_responses_that_share_a_prompt_are_as_if_each_were_alone(decoder: Decoder):
    prompt, one, two = tokens(8, 1), tokens(6, 2), tokens(7, 3)
    shared = rows(24, (prompt, 0, 1, 0), (one, 8, 1, 1), (two, 8, 1, 2))
    hidden = np.asarray(run(decoder, *shared))[0]
    close(hidden[:14], alone(decoder, prompt, one))
    close(hidden[14:21], alone(decoder, prompt, two)[8:])


def test_padding_on_the_left_is_padding_on_the_right(decoder: Decoder):
    sequence = tokens(15)
    right = rows(24, (sequence, 0, 1, 0))
    left = tuple(jnp.roll(column, 9, axis=1) for column in right)
    close(np.asarray(run(decoder, *left))[0, 9:], alone(decoder, sequence))


def test_what_is_in_the_padding_reaches_nothing(decoder: Decoder):
    sequence = tokens(15)
    row = list(rows(24, (sequence, 0, 1, 0)))
    row[0] = row[0].at[:, 15:].set(7)
    row[1] = row[1].at[:, 15:].set(3)
    hidden = np.asarray(run(decoder, *row))
    assert np.isfinite(hidden).all()
    np.testing.assert_array_equal(hidden[0, :15], alone(decoder, sequence))


def test_no_token_sees_a_later_one(decoder: Decoder):
    before, after = tokens(20, 1), tokens(20, 1)
    after[12:] = (after[12:] + 1) % 31
    first, second = alone(decoder, before), alone(decoder, after)
    np.testing.assert_array_equal(first[:12], second[:12])
    assert np.abs(first[12:] - second[12:]).max(axis=1).min() > 1e-3


def test_a_token_beyond_every_window_is_not_seen():
    decoder = filled(ARCHITECTURES["mistral"])
    before, after = tokens(20, 1), tokens(20, 1)
    after[0] = (after[0] + 1) % 31
    changed = np.abs(alone(decoder, before) - alone(decoder, after)).max(axis=1) > 0
    # Three layers that each reach back 4 tokens beyond themselves.
    np.testing.assert_array_equal(changed, np.arange(20) <= 12)


@quickly_compiled
def decode(decoder: Decoder, tokens: jax.Array, positions: jax.Array, cache: Any) -> Any:
    return decoder.decode(tokens, positions, cache)


@pytest.mark.parametrize("side", ["left", "right"])
def test_decoding_with_a_cache_is_the_forward_pass(decoder: Decoder, side: str):
    short, long = tokens(16, 1), tokens(20, 2)
    expected = [alone(decoder, short), alone(decoder, long)]
    # Prompts of 8 and 12 tokens, padded to 12, and then the next 8 tokens one by one.
    ids = np.zeros((2, 12), np.int32)
    positions = np.full((2, 12), -1, np.int32)
    at = slice(4, 12) if side == "left" else slice(0, 8)
    ids[0, at], positions[0, at] = short[:8], np.arange(8)
    ids[1], positions[1] = long[:12], np.arange(12)
    cache = empty_cache(decoder.architecture, 2, 20)
    hidden, cache = decode(decoder, jnp.asarray(ids), jnp.asarray(positions), cache)
    close(hidden[0, at], expected[0][:8])
    close(hidden[1], expected[1][:12])
    for step in range(8):
        ids = jnp.asarray([[short[8 + step]], [long[12 + step]]])
        positions = jnp.asarray([[8 + step], [12 + step]], jnp.int32)
        hidden, cache = decode(decoder, ids, positions, cache)
        close(hidden[:, 0], [expected[0][8 + step], expected[1][12 + step]])
    assert int(cache.length) == 20


def test_more_tokens_than_the_cache_holds_are_refused():
    decoder = filled(ARCHITECTURES["llama3"])
    row = jnp.zeros((1, 5), jnp.int32)
    with pytest.raises(ValueError, match="cache has 4 slots and 5 tokens"):
        decoder.decode(row, row, empty_cache(decoder.architecture, 1, 4))


def loss_and_gradient(decoder: Decoder) -> tuple[float, dict[str, np.ndarray]]:
    row = rows(24, (tokens(9, 1), 0, 1, 0), (tokens(11, 2), 0, 2, 0))

    def loss(values: dict[str, jax.Array]) -> jax.Array:
        return jnp.sum(jnp.sin(with_parameters(decoder, values)(*row)[0, :20]))

    value, gradient = quickly_compiled(jax.value_and_grad(loss))(parameters(decoder))
    return float(value), {path: np.asarray(leaf) for path, leaf in gradient.items()}


@pytest.mark.slow
def test_remat_and_unrolling_change_neither_value_nor_gradient():
    architecture = ARCHITECTURES["gemma2"]
    value, gradient = loss_and_gradient(filled(architecture))
    assert all(leaf.any() for leaf in gradient.values()), "a parameter is not used"
    for settings in ({"remat": "dots"}, {"remat": "full", "unroll": 3}):
        other_value, other_gradient = loss_and_gradient(filled(architecture, **settings))
        close(other_value, value)
        for path, leaf in gradient.items():
            close(other_gradient[path], leaf)


def test_full_remat_keeps_less_for_the_backward_pass():
    architecture = dataclasses.replace(ARCHITECTURES["llama3"], layers=8, windows=(0,) * 8)
    row = rows(64, (tokens(64), 0, 1, 0))

    def kept(remat: str) -> int:
        decoder = abstract_decoder(architecture, remat=remat)

        def loss(values: dict[str, jax.Array]) -> jax.Array:
            return jnp.sum(with_parameters(decoder, values)(*row))

        return sum(
            leaf.size
            for leaf in jax.tree.leaves(
                jax.eval_shape(lambda values: jax.vjp(loss, values)[1], parameters(decoder))
            )
        )

    assert kept("full") < kept("dots") < kept("none")


@pytest.mark.parametrize("name", ["gpt_neox", "gemma2"])
def test_arithmetic_in_bfloat16_is_close_to_float32(name: str):
    decoder = filled(ARCHITECTURES[name])
    half = filled(ARCHITECTURES[name], dtype=jnp.bfloat16)
    row = rows(24, (tokens(20), 0, 1, 0))
    hidden, expected = run(half, *row), run(decoder, *row)
    assert hidden.dtype == jnp.bfloat16
    error = np.abs(np.asarray(hidden, np.float32) - np.asarray(expected))[0, :20]
    assert 0 < error.mean() < 0.02 * np.abs(np.asarray(expected)).mean() + 0.01
    assert half.logits(hidden).dtype == jnp.float32


def test_logits_are_capped_where_the_family_caps_them():
    decoder = filled(ARCHITECTURES["gemma2"])
    hidden = 100 * jnp.ones((1, 1, 16))
    assert 2.9 < float(jnp.abs(decoder.logits(hidden)).max()) <= 3.0


def test_the_output_matrix_is_the_embedding_where_they_are_tied():
    tied, untied = filled(ARCHITECTURES["gemma2"]), filled(ARCHITECTURES["qwen3"])
    assert "head/matrix" not in parameters(tied)
    np.testing.assert_array_equal(tied.output_matrix, parameters(tied)["embedding/matrix"])
    np.testing.assert_array_equal(untied.output_matrix, parameters(untied)["head/matrix"])


def test_layers_are_stacked_under_blocks_and_nothing_else_is(decoder: Decoder):
    shapes = {path: leaf.shape for path, leaf in parameters(decoder).items()}
    assert all(shape[0] == 3 for path, shape in shapes.items() if path.startswith("blocks/"))
    a = decoder.architecture
    assert shapes["blocks/attention/query/kernel"] == (3, 16, a.heads, a.head_width)
    assert shapes["blocks/attention/output/kernel"] == (3, a.heads, a.head_width, 16)
    assert shapes["embedding/matrix"] == (31, 16)


def test_an_abstract_decoder_holds_no_memory():
    huge = dataclasses.replace(
        ARCHITECTURES["llama3"], width=8192, mlp_width=32768, layers=80, windows=(0,) * 80
    )
    sizes = [leaf.size for leaf in parameters(abstract_decoder(huge)).values()]
    assert sum(sizes) > 6e10


def test_fresh_weights_predict_almost_uniformly_and_differ_by_seed():
    architecture = ARCHITECTURES["llama3"]

    @quickly_compiled
    def fresh(key: jax.Array) -> dict[str, jax.Array]:
        return parameters(Decoder(architecture, rngs=nnx.Rngs(key)))

    values, others = fresh(jax.random.key(0)), fresh(jax.random.key(1))
    decoder = with_parameters(abstract_decoder(architecture), values)
    logits = decoder.logits(run(decoder, *rows(24, (tokens(20), 0, 1, 0))))[0, :20]
    entropy = -jnp.sum(jax.nn.softmax(logits) * jax.nn.log_softmax(logits), axis=-1)
    assert float(entropy.min()) > 0.99 * np.log(31)
    assert not np.array_equal(values["embedding/matrix"], others["embedding/matrix"])
    # Projections that add to the residual stream start smaller by the root of 2 layers.
    output = np.std(values["blocks/mlp/down/kernel"])
    np.testing.assert_allclose(output, 0.02 / 6**0.5, rtol=0.1)


def test_replacing_a_parameter_leaves_the_original_alone():
    decoder = filled(ARCHITECTURES["llama3"])
    before = np.asarray(parameters(decoder)["norm/scale"])
    changed = with_parameters(decoder, {"norm/scale": jnp.zeros(16)})
    assert not np.asarray(parameters(changed)["norm/scale"]).any()
    np.testing.assert_array_equal(parameters(decoder)["norm/scale"], before)
    with pytest.raises(ValueError, match="norm/shift is not a parameter"):
        with_parameters(decoder, {"norm/shift": jnp.zeros(16)})
    with pytest.raises(ValueError, match=r"norm/scale has shape \(15,\); this model's has \(16,\)"):
        with_parameters(decoder, {"norm/scale": jnp.zeros(15)})


def test_a_reward_model_starts_at_zero_and_reads_the_hidden_state():
    model = RewardModel(filled(ARCHITECTURES["llama3"]))
    row = rows(24, (tokens(9, 1), 0, 1, 0), (tokens(11, 2), 0, 2, 0))
    at, direction = jnp.asarray([8, 19]), jnp.arange(16.0)
    turned = with_parameters(model, {"head/kernel": direction})
    fresh, scores = quickly_compiled(lambda *models: [m(*row, at=at) for m in models])(
        model, turned
    )
    np.testing.assert_array_equal(fresh, np.zeros(2, np.float32))
    close(scores, np.asarray(run(model.decoder, *row))[0, [8, 19]] @ np.asarray(direction))
