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
    (R, S), (K, J) = query.shape[:2], key.shape[1:3]
    block = scored(query, key, mask, scale, softcap)
    weight = jax.nn.softmax(block.score, axis=-1).astype(value.dtype).reshape(R, K, -1, J)
    return beside(jnp.einsum("rkqj,rkjc->rkqc", weight, value), S)


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

    A row goes a block of queries at a time, each against the keys up to its own end, so half of the
    scores of a long row are never computed. The backward pass makes those of a block again instead
    of keeping them, so that memory grows with S and not with its square. It takes for granted that
    nothing depends on a query that sees nothing.
    """
    if softcap is None and _fused(query, key):
        return attend(query, key, value, mask, scale=scale, softcap=softcap)
    return in_blocks(query, key, value, mask, scale, softcap)


def blocks(length: int) -> list[tuple[int, int]]:
    """First query of each block, and the query after its last."""
    size = max(QUERIES, -(-length // MOST_BLOCKS))
    return [(start, min(start + size, length)) for start in range(0, length, size)]


class Block(NamedTuple):
    """What a block of queries makes of the keys up to its end.

    Attributes:
        rows: its queries; those that share a key head stand below each other.
        score: of every key, capped and masked.
        slope: of the cap at that score; None without a cap.
    """

    rows: Float[Array, "R K Q C"]
    score: Float[Array, "R K G S J"]
    slope: Float[Array, "R K G S J"] | None


def scored(
    query: Float[Array, "R S H C"],
    key: Float[Array, "R K J C"],
    mask: Bool[Array, "R S J"],
    scale: float,
    softcap: float | None,
) -> Block:
    """The scores of a block."""
    (R, S, H), (K, J) = query.shape[:3], key.shape[1:3]
    rows = below(query, K)
    float32 = jnp.promote_types(query.dtype, jnp.float32)
    score = jnp.einsum("rkqc,rkjc->rkqj", rows, key, preferred_element_type=float32) * scale
    score, slope = score.reshape(R, K, H // K, S, J), None
    if softcap is not None:
        bent = jnp.tanh(score / softcap)
        score, slope = softcap * bent, 1 - bent * bent
    return Block(rows, jnp.where(mask[:, None, None], score, jnp.finfo(float32).min), slope)


def below(x: Float[Array, "R S H C"], heads: int) -> Float[Array, "R K Q C"]:
    """Queries that share a key head, below each other.

    So attention is two plain matrix products per key head: on a CPU, faster than
    ``jax.nn.dot_product_attention``.
    """
    R, S, H, C = x.shape
    return x.reshape(R, S, heads, H // heads, C).transpose(0, 2, 3, 1, 4).reshape(R, heads, -1, C)


def beside(x: Float[Array, "R K Q C"], length: int) -> Float[Array, "R S H C"]:
    """The way back from ``below``."""
    R, K, _, C = x.shape
    return x.reshape(R, K, -1, length, C).transpose(0, 3, 1, 2, 4).reshape(R, length, -1, C)


def in_blocks_forward(
    query: Float[Array, "R S H C"],
    key: Float[Array, "R K S C"],
    value: Float[Array, "R K S C"],
    mask: Bool[Array, "R S S"],
    scale: float,
    softcap: float | None,
) -> Any:
    """What every query sees, and what the backward pass needs to make the weights again."""
    (R, K), float32 = key.shape[:2], jnp.promote_types(query.dtype, jnp.float32)
    means, tops, totals = [], [], []
    for start, end in blocks(query.shape[1]):
        block = scored(
            query[:, start:end], key[:, :, :end], mask[:, start:end, :end], scale, softcap
        )
        top = jnp.max(block.score, axis=-1, keepdims=True)
        share = jnp.exp(block.score - top)
        total = jnp.sum(share, axis=-1, keepdims=True)
        share = share.astype(value.dtype).reshape(R, K, -1, end)
        mean = jnp.einsum(
            "rkqj,rkjc->rkqc", share, value[:, :, :end], preferred_element_type=float32
        )
        mean = (mean / total.reshape(R, K, -1, 1)).astype(value.dtype)
        means.append(beside(mean, end - start))
        tops.append(top)
        totals.append(total)
    mean = jnp.concatenate(means, axis=1)
    return mean, (query, key, value, mask, mean, tops, totals)


def in_blocks_backward(scale: float, softcap: float | None, kept: Any, arriving: Array) -> Any:
    """Cotangents of queries, keys and values, and none of the mask.

    With P the weights, dP = dO V^T and dS = P (dP - rowsum(dO O)): the sum over a row of P dP is
    that of dO O, which is as short as a head is wide. Source: Dao et al. 2022, arXiv:2205.14135,
    appendix B.2.
    """
    query, key, value, mask, mean, tops, totals = kept
    (R, K, S), float32 = key.shape[:3], jnp.promote_types(query.dtype, jnp.float32)
    dkey, dvalue = jnp.zeros(key.shape, float32), jnp.zeros(value.shape, float32)
    dquery = []
    for (start, end), top, total in zip(blocks(S), tops, totals, strict=True):
        block = scored(
            query[:, start:end], key[:, :, :end], mask[:, start:end, :end], scale, softcap
        )
        weight = jnp.exp(block.score - top) / total
        dmean = below(arriving[:, start:end], K)
        dweight = jnp.einsum(
            "rkqc,rkjc->rkqj", dmean, value[:, :, :end], preferred_element_type=float32
        )
        held = below(mean[:, start:end], K).astype(float32)
        through = jnp.sum(dmean.astype(float32) * held, axis=-1).reshape(total.shape)
        dscore = weight * (dweight.reshape(weight.shape) - through) * scale
        if block.slope is not None:
            dscore = dscore * block.slope
        dscore = dscore.astype(query.dtype).reshape(R, K, -1, end)
        flat = weight.astype(value.dtype).reshape(R, K, -1, end)
        dquery.append(beside(jnp.einsum("rkqj,rkjc->rkqc", dscore, key[:, :, :end]), end - start))
        from_keys = partial(jnp.einsum, "rkqj,rkqc->rkjc", preferred_element_type=float32)
        ahead = ((0, 0), (0, 0), (0, S - end), (0, 0))
        dkey += jnp.pad(from_keys(dscore, block.rows), ahead)
        dvalue += jnp.pad(from_keys(flat, dmean), ahead)
    given = jnp.concatenate(dquery, axis=1), dkey.astype(key.dtype), dvalue.astype(value.dtype)
    return (*given, None)


# With a backward pass of its own, also because whoever decides what a layer keeps (a checkpoint
# around it) decides that for every step inside too, and would keep the scores.
in_blocks = jax.custom_vjp(lambda *given: in_blocks_forward(*given)[0], nondiff_argnums=(4, 5))
in_blocks.defvjp(in_blocks_forward, in_blocks_backward)


def _fused(query: Float[Array, "R S H C"], key: Float[Array, "R K J C"]) -> bool:
    """Whether cuDNN's fused attention takes these; it never builds the [S, J] scores.

    Its backward pass needs even lengths; over a cache, whose queries are few, it gains nothing.
    """
    S, C = query.shape[1], query.shape[3]
    half = query.dtype in (jnp.bfloat16, jnp.float16)
    fits = key.shape[2] == S and S % 2 == 0 and C % 8 == 0 and C <= 128
    return jax.default_backend() == "gpu" and half and fits
