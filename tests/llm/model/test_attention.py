"""Who sees whom, by which angle a pair is turned, and what a query makes of what it sees."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from llm.model import attention
from llm.model.attention import (
    attend,
    attend_back,
    empty_cache,
    frequencies,
    rotate,
    rotation,
    visible,
    within,
)
from tests.llm.model.decoders import ARCHITECTURES


def test_a_position_sees_its_prompt_and_its_own_branch_and_nothing_else():
    segments = jnp.asarray([[1, 1, 1, 1, 1, 2, 2, 0]])
    branches = jnp.asarray([[0, 0, 1, 1, 2, 0, 0, 0]])
    expected = [
        "x.......",
        "xx......",
        "xxx.....",
        "xxxx....",
        "xx..x...",
        ".....x..",
        ".....xx.",
        "........",
    ]
    seen = np.asarray(visible(segments, branches))[0]
    assert ["".join(".x"[cell] for cell in row) for row in seen.astype(int)] == expected


def test_a_window_counts_tokens_of_the_sequence_and_zero_is_none():
    here, there = jnp.asarray([[5, 6]]), jnp.asarray([[3, 4, 5]])
    np.testing.assert_array_equal(within(2, here, there)[0], [[0, 1, 1], [0, 0, 1]])
    assert np.asarray(within(0, here, there)).all()


def test_products_of_rotated_vectors_depend_on_the_distance_alone(key: jax.Array):
    architecture = dataclasses.replace(ARCHITECTURES["qwen3"], rope_theta=50.0)
    query, other = jax.random.normal(key, (2, 1, 1, 1, architecture.head_width))
    products = [
        float(
            jnp.sum(
                rotate(query, rotation(architecture, jnp.asarray([[start + 3]])))
                * rotate(other, rotation(architecture, jnp.asarray([[start]])))
            )
        )
        for start in (0, 7, 40)
    ]
    np.testing.assert_allclose(products, products[0], rtol=1e-5)


def test_only_the_rotated_share_of_a_head_is_turned():
    architecture = ARCHITECTURES["gpt_neox"]
    x = jnp.ones((1, 1, 1, 8))
    turned = np.asarray(rotate(x, rotation(architecture, jnp.asarray([[1]]))))[0, 0, 0]
    first = np.cos(1) - np.sin(1), np.cos(0.01) - np.sin(0.01)
    second = np.cos(1) + np.sin(1), np.cos(0.01) + np.sin(0.01)
    np.testing.assert_allclose(turned, [*first, *second, 1, 1, 1, 1], rtol=1e-5)


def test_llama3_scaling_keeps_fast_pairs_and_divides_slow_ones():
    scaled = ARCHITECTURES["llama3"]
    plain = frequencies(dataclasses.replace(scaled, rope_scaling=None))
    share = frequencies(scaled) / plain
    turns = 16 * plain / (2 * np.pi)
    np.testing.assert_allclose(share[turns < 1], 0.25, rtol=1e-6)
    between = share[(turns > 1) & (turns < 4)]
    assert len(between) and ((between > 0.25) & (between < 1)).all()
    fast = dataclasses.replace(scaled.rope_scaling, original_positions=1000)
    kept = frequencies(dataclasses.replace(scaled, rope_scaling=fast))
    np.testing.assert_allclose(kept, plain, rtol=1e-6)


def test_attention_is_the_mean_of_the_values_that_are_seen(key: jax.Array):
    query, value = jax.random.normal(key, (1, 2, 4, 6)), jax.random.normal(key, (1, 2, 3, 6))
    mask = jnp.asarray([[[True, False, True], [False, False, False]]])
    same = jnp.zeros((1, 2, 3, 6))
    found = np.asarray(attend(query, same, value, mask, scale=1.0, softcap=None))[0]
    for head in range(4):
        heard = np.asarray(value)[0, head // 2]
        np.testing.assert_allclose(found[0, head], heard[[0, 2]].mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(found[1, head], heard.mean(axis=0), rtol=1e-5)


def test_attention_agrees_with_the_library(key: jax.Array):
    shapes = ((2, 5, 4, 6), (2, 2, 5, 6), (2, 2, 5, 6))
    query, keys, values = (
        jax.random.normal(jax.random.fold_in(key, index), shape)
        for index, shape in enumerate(shapes)
    )
    mask = visible(jnp.asarray([[1, 1, 2, 2, 2]] * 2), jnp.zeros((2, 5), jnp.int32))
    expected = jax.nn.dot_product_attention(
        query, jnp.swapaxes(keys, 1, 2), jnp.swapaxes(values, 1, 2), mask=mask[:, None], scale=0.7
    )
    found = attend(query, keys, values, mask, scale=0.7, softcap=None)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_softcap_bounds_how_much_a_query_can_prefer():
    query, keys = 100 * jnp.ones((1, 1, 1, 4)), jnp.asarray([[[[1.0] * 4, [-1.0] * 4]]])
    values = jnp.asarray([[[[1.0] * 4, [0.0] * 4]]])
    mask = jnp.ones((1, 1, 2), bool)
    weight = float(attend(query, keys, values, mask, scale=1.0, softcap=0.5)[0, 0, 0, 0])
    np.testing.assert_allclose(weight, 1 / (1 + np.exp(-1.0)), rtol=1e-5)


def test_an_empty_cache_has_a_slot_per_token_and_no_position():
    cache = empty_cache(ARCHITECTURES["llama3"], 2, 7, jnp.bfloat16)
    assert cache.keys.shape == cache.values.shape == (3, 2, 2, 7, 6)
    assert cache.keys.dtype == jnp.bfloat16
    assert (np.asarray(cache.positions) == -1).all() and int(cache.length) == 0


def test_a_long_row_in_blocks_sees_what_it_sees_at_once(key, monkeypatch):
    monkeypatch.setattr("llm.model.attention.QUERIES", 16)
    names = ("query", "key", "value", "mask")
    keys = dict(zip(names, jax.random.split(key, 4), strict=True))
    query = jax.random.normal(keys["query"], (2, 40, 4, 8))
    others = [jax.random.normal(keys[name], (2, 2, 40, 8)) for name in ("key", "value")]
    back = jnp.tril(jnp.ones((40, 40), bool))
    # Every query sees itself, and of what is behind it a part.
    some = jax.random.bernoulli(keys["mask"], 0.5, (2, 40, 40))
    mask = back[None] & (some | jnp.eye(40, dtype=bool)[None])

    def both(function):
        def total(query, key, value):
            return jnp.sum(jnp.sin(function(query, key, value, mask, scale=0.3, softcap=5.0)))

        return jax.value_and_grad(total, (0, 1, 2))(query, *others)

    whole, blocks = both(attend), both(attend_back)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), whole, blocks)


def test_a_long_row_keeps_what_went_in_and_came_out_whoever_decides_what_is_kept(
    monkeypatch,
):
    monkeypatch.setattr("llm.model.attention.QUERIES", 16)
    heads = jax.ShapeDtypeStruct((2, 64, 4, 8), jnp.float32)
    others = jax.ShapeDtypeStruct((2, 4, 64, 8), jnp.float32)
    mask = jax.ShapeDtypeStruct((2, 64, 64), bool)

    def kept(query, key, value, mask):
        look = partial(attend_back, scale=1.0, softcap=None)
        everything = jax.checkpoint(look, policy=jax.checkpoint_policies.everything_saveable)
        return jax.vjp(lambda *qkv: everything(*qkv, mask), query, key, value)[1]

    found = jax.eval_shape(kept, heads, others, others, mask)
    numbers = [leaf for leaf in jax.tree.leaves(found) if leaf.dtype == jnp.float32]
    # Queries, keys, values and what each query saw; its best score, and the sum of its weights.
    assert sum(leaf.size for leaf in numbers) == 4 * 2 * 4 * 64 * 8 + 2 * 2 * 4 * 64


def test_the_fused_kernel_is_never_given_a_query_that_sees_nothing(monkeypatch):
    """Its softmax of nothing is NaN on the GPU, and every gradient of the step with it."""
    given = []

    def fused(query, key, value, *, mask, **options):
        given.append(mask)
        return query

    monkeypatch.setattr(attention, "_fused", lambda query, key: True)
    monkeypatch.setattr(jax.nn, "dot_product_attention", fused)
    segments = jnp.asarray([[1, 1, 1, 2, 0, 0], [0, 0, 1, 1, 1, 1]])
    mask = visible(segments, jnp.zeros_like(segments))
    heads = jnp.zeros((2, 6, 2, 8))
    attend(heads, heads.swapaxes(1, 2), heads.swapaxes(1, 2), mask, scale=1.0, softcap=None)
    [seen] = given
    assert seen.shape == (2, 1, 6, 6) and seen.any(axis=-1).all()
    real = (segments != 0)[:, None, :, None]
    np.testing.assert_array_equal(seen & real, mask[:, None] & real)
