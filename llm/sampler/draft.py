"""Responses while they are being written: begun from prompts, extended, collected.

Writing goes in segments, each one call of a compiled loop, and a ``Draft`` is everything between
two of them: a conversation shows a few tokens at a time, and whoever holds a draft may drop its
finished rows. The prompts are read once, and what they left in the cache is copied for each of
their responses.

Key to the axes: B prompts, N responses of each, R = B N rows, S prompt positions, T new tokens,
D width.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Float32, Int, Int32, Key, UInt32

from llm.model import Decoder
from llm.model.attention import Cache, empty_cache
from llm.sampler.draws import Rule, draw


class Sample(NamedTuple):
    """One response.

    Attributes:
        tokens: with the stop token that ended it, if one did.
        logp: of each token under the distribution it was drawn from, nats; 0 at temperature 0,
            where nothing else could be drawn.
        finished: False if it was cut by the limit.
    """

    tokens: Int32[np.ndarray, " T"]
    logp: Float32[np.ndarray, " T"]
    finished: bool


class Draft(NamedTuple):
    """Responses as far as they are written: what one segment hands to the next.

    Attributes:
        cache: keys and values of the prompts and of what is written.
        hidden: state of every row's last token, which predicts the next.
        key: of every row.
        position: of the next token in its sequence, the prompt included.
        step: tokens written by every row that is not done.
        tokens: 0 where nothing is written.
        logp: of the tokens, nats; 0 where nothing is written.
        length: tokens of each row.
        done: rows that met a stop token.
    """

    cache: Cache
    hidden: Float[Array, "R D"]
    key: Key[Array, " R"]
    position: Int[Array, " R"]
    step: Int[Array, ""]
    tokens: Int[Array, "R T"]
    logp: Float[Array, "R T"]
    length: Int[Array, " R"]
    done: Bool[Array, " R"]


@partial(jax.jit, static_argnames=("graphdef", "responses", "room"))
def begin(
    graphdef: Any,
    weights: Any,
    tokens: Int[Array, "B S"],
    positions: Int[Array, "B S"],
    numbers: UInt32[Array, " B"],
    seed: UInt32[Array, ""],
    *,
    responses: int,
    room: int,
) -> Draft:
    """Read the prompts, and be ready to write responses to each.

    Args:
        graphdef: of the decoder.
        weights: of the decoder.
        tokens: prompts, the last token of each in the last column.
        positions: of the tokens; -1 for padding.
        numbers: what tells the prompts apart in the random keys.
        seed: root of the keys.
        responses: N.
        room: most tokens that will be written.

    Returns:
        Nothing written yet; the N rows of a prompt stand together.
    """
    decoder: Decoder = nnx.merge(graphdef, weights)
    (B, S), N = tokens.shape, responses
    cache = empty_cache(decoder.architecture, B, S, decoder.dtype)
    hidden, cache = decoder.decode(tokens, positions, cache)

    def key(number: Array, response: Array) -> Array:
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), number), response)

    last = jnp.repeat(positions[:, -1], N)
    return Draft(
        cache=copied(cache, N, room),
        hidden=jnp.repeat(hidden[:, -1], N, axis=0),
        key=jax.vmap(key)(jnp.repeat(numbers, N), jnp.tile(jnp.arange(N), B)),
        position=last + 1,
        step=jnp.zeros((), jnp.int32),
        tokens=jnp.zeros((B * N, room), jnp.int32),
        logp=jnp.zeros((B * N, room), jnp.float32),
        length=jnp.zeros(B * N, jnp.int32),
        done=last < 0,
    )


def copied(cache: Cache, times: int, room: int) -> Cache:
    """Every row of a cache several times, with empty slots behind what is there."""

    def longer(values: Array, axis: int, fill: int = 0) -> Array:
        padding = [(0, 0)] * values.ndim
        padding[axis] = (0, room)
        return jnp.pad(values, padding, constant_values=fill)

    return Cache(
        keys=longer(jnp.repeat(cache.keys, times, axis=1), 3),
        values=longer(jnp.repeat(cache.values, times, axis=1), 3),
        positions=longer(jnp.repeat(cache.positions, times, axis=0), 1, -1),
        length=cache.length,
    )


@partial(jax.jit, static_argnames=("graphdef", "rule"), donate_argnames="draft")
def write(
    graphdef: Any,
    weights: Any,
    draft: Draft,
    stop: Int[Array, " stop"],
    until: Int[Array, ""],
    *,
    rule: Rule,
) -> Draft:
    """Write on until every row is done or has as many tokens as it may.

    Args:
        graphdef: of the decoder.
        weights: of the decoder.
        draft: what is written so far; consumed.
        stop: tokens that end a response.
        until: tokens of a response after which to return; at most its room.
        rule: what is drawn from.
    """
    decoder: Decoder = nnx.merge(graphdef, weights)

    def going(draft: Draft) -> Array:
        return (draft.step < until) & ~jnp.all(draft.done)

    def step(draft: Draft) -> Draft:
        def uniform(key: Array) -> Array:
            return jax.random.uniform(jax.random.fold_in(key, draft.step), (2,))

        token, logp = draw(decoder.logits(draft.hidden), jax.vmap(uniform)(draft.key), rule)
        token, logp = jnp.where(draft.done, 0, token), jnp.where(draft.done, 0, logp)
        done = draft.done | jnp.any(token[:, None] == stop[None, :], axis=1)
        # A row that is done adds padding to its cache.
        position = jnp.where(done, -1, draft.position)
        hidden, cache = decoder.decode(token[:, None], position[:, None], draft.cache)
        at = (0, draft.step)
        return Draft(
            cache=cache,
            hidden=hidden[:, 0],
            key=draft.key,
            position=draft.position + 1,
            step=draft.step + 1,
            tokens=jax.lax.dynamic_update_slice(draft.tokens, token[:, None], at),
            logp=jax.lax.dynamic_update_slice(draft.logp, logp[:, None], at),
            length=draft.length + ~draft.done,
            done=done,
        )

    return jax.lax.while_loop(going, step, draft)


def collect(draft: Draft) -> list[Sample]:
    """The responses on the host, one per row of a draft; a padding row's is empty."""
    tokens, logp, length, done = jax.device_get(
        (draft.tokens, draft.logp, draft.length, draft.done)
    )
    if not np.isfinite(logp).all():
        raise ValueError(
            "the model's logits are not finite, so nothing can be drawn from them; its weights "
            "are broken, or its numbers too large for the dtype."
        )
    return [
        Sample(tokens[row, :size].copy(), logp[row, :size].copy(), bool(done[row]))
        for row, size in enumerate(length)
    ]
