"""What a token may look at, and how it looks: positions, masks, attention, and the cache.

A row of a batch holds several examples side by side (segments), and an example is one prompt with
several responses behind it (branches): the prompt is read once and every response continues from
it as if it were alone, because its positions restart where the prompt ends and it sees no other
branch. All of that is one boolean per pair of positions, computed once per call. While a response
is being written, keys and values of the tokens so far are kept in a ``Cache`` so that each step
computes only the token it adds.

Key to the axes: R rows, S positions of a row, J positions that are looked at, H query heads, K key
heads, G = H / K query heads per key head, C head width, L layers.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from llm.model.architecture import Architecture

Rotation = tuple[Float[Array, "R S half"], Float[Array, "R S half"]]


class Cache(NamedTuple):
    """Keys and values of the tokens so far.

    Attributes:
        keys: of every layer, already rotated: one stack, or an array for each layer, in which the
            slots are the last axis.
        values: of every layer, likewise.
        positions: of the token in each slot; -1 where the slot is empty or holds padding.
        length: how many slots have been written, the same for every row.
    """

    keys: Float[Array, "L R K J C"] | tuple[Float[Array, "R K C J"], ...]
    values: Float[Array, "L R K J C"] | tuple[Float[Array, "R K C J"], ...]
    positions: Int[Array, "R J"]
    length: Int[Array, ""]


def empty_cache(
    architecture: Architecture,
    rows: int,
    capacity: int,
    dtype: jax.typing.DTypeLike = jnp.float32,
    *,
    apart: bool = False,
) -> Cache:
    """Room for ``capacity`` tokens in each of ``rows`` rows.

    Args:
        architecture: of the decoder that will fill it.
        rows: R.
        capacity: J, in tokens, padding included; writing more overwrites the last slots.
        dtype: of the keys and values.
        apart: whether each layer has arrays of its own. A layer of a stack has to be copied out of
            it before it can be multiplied with, which on a CPU takes longer than the product; but
            a loop over the layers needs the stack. Slots stand side by side in memory then, so
            that a product over narrow heads is as fast as one over wide ones.
    """
    a = architecture
    shape = (rows, a.kv_heads, capacity, a.head_width)
    turned = (*shape[:2], a.head_width, capacity)

    def zeros() -> Array | tuple[Array, ...]:
        if apart:
            return tuple(jnp.zeros(turned, dtype) for _ in range(a.layers))
        return jnp.zeros((a.layers, *shape), dtype)

    return Cache(
        keys=zeros(),
        values=zeros(),
        positions=jnp.full((rows, capacity), -1, jnp.int32),
        length=jnp.zeros((), jnp.int32),
    )


def frequencies(architecture: Architecture) -> np.ndarray:
    """Radians per position of each rotated pair, in float32; the scaling is applied."""
    width, scaling = architecture.rotary_width, architecture.rope_scaling
    frequency = architecture.rope_theta ** (-np.arange(0, width, 2, dtype=np.float64) / width)
    if scaling is not None and scaling.kind == "linear":
        frequency = frequency / scaling.factor
    if scaling is not None and scaling.kind == "llama3":
        turns = scaling.original_positions * frequency / (2 * np.pi)
        slow, fast = scaling.low_frequency_factor, scaling.high_frequency_factor
        keep = np.clip((turns - slow) / (fast - slow), 0, 1)
        frequency = keep * frequency + (1 - keep) * frequency / scaling.factor
    return frequency.astype(np.float32)


def rotation(architecture: Architecture, positions: Int[Array, "R S"]) -> Rotation | None:
    """Cosine and sine of every rotated pair's angle; None for a model with learned positions.

    Source: Su et al. 2021, arXiv:2104.09864, eq. 34.
    """
    if architecture.learned_positions:
        return None
    angle = positions.astype(jnp.float32)[..., None] * frequencies(architecture)[None, None]
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x: Float[Array, "R S H C"], by: Rotation | None) -> Float[Array, "R S H C"]:
    """Turn each head's pairs by their angles, in float32; the pair of i is i plus half the turn.

    Args:
        x: queries or keys.
        by: from ``rotation``; None leaves ``x`` as it is.
    """
    if by is None:
        return x
    cos, sin = (part[:, :, None, :] for part in by)
    half = cos.shape[-1]
    first, second, rest = jnp.split(x, (half, 2 * half), axis=-1)
    turned = (first * cos - second * sin, second * cos + first * sin)
    return jnp.concatenate([part.astype(x.dtype) for part in (*turned, rest)], axis=-1)


def visible(segments: Int[Array, "R S"], branches: Int[Array, "R S"]) -> Bool[Array, "R S S"]:
    """Which position (last axis) each position (middle axis) of a packed row may attend to.

    Args:
        segments: the example each position belongs to, from 1; 0 is padding, which sees nothing
            and is seen by nothing.
        branches: the response each position belongs to, from 1; 0 is the prompt, which every
            branch of its segment sees.
    """
    length = segments.shape[1]
    before = jnp.tril(jnp.ones((length, length), bool))[None]
    example = (segments[:, :, None] == segments[:, None, :]) & (segments != 0)[:, None, :]
    branch = (branches[:, None, :] == 0) | (branches[:, None, :] == branches[:, :, None])
    return before & example & branch


def within(
    window: int | Int[Array, ""], here: Int[Array, "R S"], there: Int[Array, "R J"]
) -> Bool[Array, "R S J"]:
    """Which positions are less than ``window`` tokens back; all of them if it is 0."""
    return (window == 0) | (here[:, :, None] - there[:, None, :] < window)


QUERIES, MOST_BLOCKS = 256, 16
"""Queries in a block of a long row, unless that makes more blocks than a program should hold."""


def attend(
    query: Float[Array, "R S H C"],
    key: Float[Array, "R K J C"],
    value: Float[Array, "R K J C"],
    mask: Bool[Array, "R S J"],
    *,
    scale: float,
    softcap: float | None,
) -> Float[Array, "R S H C"]:
    """Average the values of what each query sees, weighted by the softmax of its scores.

    A query that sees nothing, which only padding does, gets the mean of all values, or where the
    fused kernel works its own value.

    Args:
        query: already rotated.
        key: already rotated.
        value: what is averaged.
        mask: True where the query may look.
        scale: multiplies the scores.
        softcap: c of c tanh(s / c), or None.
    """
    if softcap is None and _fused(query, key):
        key, value = jnp.swapaxes(key, 1, 2), jnp.swapaxes(value, 1, 2)
        # cuDNN's softmax of a row without any entry is NaN, and so would be every gradient.
        mask = mask | jnp.eye(mask.shape[1], dtype=bool)[None]
        return jax.nn.dot_product_attention(
            query, key, value, mask=mask[:, None], scale=scale, implementation="cudnn"
        )
    (R, S, H, C), (K, J) = query.shape, key.shape[1:3]
    # The queries that share a key head stand below each other, so that attention is two plain
    # matrix products per key head: on a CPU, faster than jax.nn.dot_product_attention.
    rows = query.reshape(R, S, K, H // K, C).transpose(0, 2, 3, 1, 4).reshape(R, K, -1, C)
    float32 = jnp.promote_types(query.dtype, jnp.float32)
    score = jnp.einsum("rkqc,rkjc->rkqj", rows, key, preferred_element_type=float32) * scale
    if softcap is not None:
        score = softcap * jnp.tanh(score / softcap)
    score = score.reshape(R, K, H // K, S, J)
    score = jnp.where(mask[:, None, None], score, jnp.finfo(float32).min)
    weight = jax.nn.softmax(score, axis=-1).astype(value.dtype).reshape(R, K, -1, J)
    mean = jnp.einsum("rkqj,rkjc->rkqc", weight, value)
    return mean.reshape(R, K, H // K, S, C).transpose(0, 3, 1, 2, 4).reshape(R, S, H, C)


def attend_back(
    query: Float[Array, "R S H C"],
    key: Float[Array, "R K S C"],
    value: Float[Array, "R K S C"],
    mask: Bool[Array, "R S S"],
    *,
    scale: float,
    softcap: float | None,
) -> Float[Array, "R S H C"]:
    """``attend`` for a row that looks at itself, where no query may look ahead.

    A long row goes a block of queries at a time, each against the keys up to its own end. So half
    of the scores are never computed; and the backward pass makes those of a block again instead of
    keeping them all, so that memory grows with S and not with its square.
    """
    S = query.shape[1]
    if block_size(S) >= S or (softcap is None and _fused(query, key)):
        return attend(query, key, value, mask, scale=scale, softcap=softcap)
    return in_blocks(query, key, value, mask, scale, softcap)


def block_size(length: int) -> int:
    """Queries in a block of a row of so many positions."""
    return max(QUERIES, -(-length // MOST_BLOCKS))


def block_by_block(
    query: Float[Array, "R S H C"],
    key: Float[Array, "R K S C"],
    value: Float[Array, "R K S C"],
    mask: Bool[Array, "R S S"],
    scale: float,
    softcap: float | None,
) -> Float[Array, "R S H C"]:
    """``attend_back`` for a row of several blocks."""
    block = jax.checkpoint(partial(attend, scale=scale, softcap=softcap))
    S = query.shape[1]
    size = block_size(S)
    ends = [min(start + size, S) for start in range(0, S, size)]
    found = [
        block(query[:, start:end], key[:, :, :end], value[:, :, :end], mask[:, start:end, :end])
        for start, end in zip(range(0, S, size), ends, strict=True)
    ]
    return jnp.concatenate(found, axis=1)


# With a backward pass of its own, because whoever decides what a layer keeps (a checkpoint around
# it) decides that for every step inside too, and would keep the scores.
in_blocks = jax.custom_vjp(block_by_block, nondiff_argnums=(4, 5))


def in_blocks_backward(scale: float, softcap: float | None, given: Any, arriving: Array) -> Any:
    """Cotangents of queries, keys and values, and none of the mask, from what went in alone."""
    query, key, value, mask = given

    def again(query: Array, key: Array, value: Array) -> Array:
        return block_by_block(query, key, value, mask, scale, softcap)

    return (*jax.vjp(again, query, key, value)[1](arriving), None)


in_blocks.defvjp(lambda *given: (block_by_block(*given), given[:4]), in_blocks_backward)


def _fused(query: Float[Array, "R S H C"], key: Float[Array, "R K J C"]) -> bool:
    """Whether cuDNN's fused attention takes these; it never builds the [S, J] scores.

    Its backward pass needs even lengths; over a cache, whose queries are few, it gains nothing.
    """
    S, C = query.shape[1], query.shape[3]
    half = query.dtype in (jnp.bfloat16, jnp.float16)
    fits = key.shape[2] == S and S % 2 == 0 and C % 8 == 0 and C <= 128
    return jax.default_backend() == "gpu" and half and fits
