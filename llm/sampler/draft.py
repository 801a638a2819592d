"""Responses while they are being written: begun from prompts, extended, thinned out, given room.

Writing goes in segments, each one call of a compiled loop, and a ``Draft`` is everything between
two of them. The prompts are read once, and what they left in the cache is copied for each of their
responses. Between two segments rows that have ended are left behind (``keep``) and the cache gets
longer (``grow``), because both an ended row and an empty slot cost as much as a real one.

Key to the axes: B prompts, N responses of each, R = B N rows, S prompt positions, T new tokens,
D width.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key, UInt32

from llm.mesh import placed
from llm.model import Decoder
from llm.model.attention import Cache, empty_cache
from llm.sampler.draws import Rule, draw, logp_of


class Draft(NamedTuple):
    """Responses as far as they are written: what one segment hands to the next.

    Attributes:
        cache: keys and values of the prompts and of what is written.
        hidden: state of every row's last token, which predicts the next.
        key: of every row.
        position: of the next token in its sequence, the prompt included.
        step: tokens written by every row that is not done.
        tokens: 0 where nothing is written.
        logp: of the tokens as they were drawn, nats; 0 where nothing is written.
        model_logp: of the tokens under the model itself, likewise.
        length: tokens of each row.
        done: rows that ended.
    """

    cache: Cache
    hidden: Float[Array, "R D"]
    key: Key[Array, " R"]
    position: Int[Array, " R"]
    step: Int[Array, ""]
    tokens: Int[Array, "R T"]
    logp: Float[Array, "R T"]
    model_logp: Float[Array, "R T"]
    length: Int[Array, " R"]
    done: Bool[Array, " R"]


OF_A_ROW = ("hidden", "key", "position", "tokens", "logp", "model_logp", "length", "done")
"""What a draft says of each row, besides its cache."""


class Stops(NamedTuple):
    """What ends a segment, and what ends a response in it.

    Attributes:
        tokens: that end a response, and belong to it.
        least: tokens of a response before the first that may end it.
        until: tokens of a response after which to return; at most its room.
    """

    tokens: Int[Array, " stop"]
    least: Int[Array, ""]
    until: Int[Array, ""]


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
        room: tokens of a response that there are slots for.

    Returns:
        Nothing written yet; the N rows of a prompt stand together.
    """
    decoder: Decoder = nnx.merge(graphdef, weights)
    (B, S), N = tokens.shape, responses
    a = decoder.architecture
    cache = empty_cache(a, B, S, decoder.dtype, apart=decoder.unroll == a.layers)
    hidden, cache = decoder.decode(tokens, positions, cache)

    def key(number: Array, response: Array) -> Array:
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), number), response)

    last = jnp.repeat(positions[:, -1], N)
    draft = Draft(
        cache=longer(on_rows(cache, lambda x, axis: jnp.repeat(x, N, axis)), room),
        hidden=jnp.repeat(hidden[:, -1], N, axis=0),
        key=jax.vmap(key)(jnp.repeat(numbers, N), jnp.tile(jnp.arange(N), B)),
        position=last + 1,
        step=jnp.zeros((), jnp.int32),
        tokens=jnp.zeros((B * N, room), jnp.int32),
        logp=jnp.zeros((B * N, room), jnp.float32),
        model_logp=jnp.zeros((B * N, room), jnp.float32),
        length=jnp.zeros(B * N, jnp.int32),
        done=last < 0,
    )
    return spread(draft, decoder)


def spread(draft: Draft, decoder: Decoder) -> Draft:
    """A draft on the devices of its decoder: each has some of the rows, and of the key heads."""
    stacked = not isinstance(draft.cache.keys, tuple)

    def row(x: Array) -> Array:
        return placed(decoder.mesh, x, "rows")

    def slots(x: Array) -> Array:
        return placed(decoder.mesh, x, "stack" if stacked else "slots")

    keys, values = jax.tree.map(slots, (draft.cache.keys, draft.cache.values))
    cache = Cache(keys, values, row(draft.cache.positions), draft.cache.length)
    own = {name: row(getattr(draft, name)) for name in OF_A_ROW}
    return draft._replace(cache=cache, **own)


def on_rows(cache: Cache, change: Any) -> Cache:
    """A cache with every array changed by ``change(array, axis of the rows)``."""
    keys, values = jax.tree.map(lambda x: change(x, x.ndim - 4), (cache.keys, cache.values))
    return Cache(keys, values, change(cache.positions, 0), cache.length)


def longer(cache: Cache, slots: int) -> Cache:
    """A cache with empty slots behind those it has."""

    def pad(x: Array) -> Array:
        # In a stack the slots are the last axis but one, in a layer apart the last.
        widths = [(0, 0)] * x.ndim
        widths[3] = (0, slots)
        return jnp.pad(x, widths)

    keys, values = jax.tree.map(pad, (cache.keys, cache.values))
    positions = jnp.pad(cache.positions, ((0, 0), (0, slots)), constant_values=-1)
    return Cache(keys, values, positions, cache.length)


@partial(jax.jit, static_argnames=("slots",))
def grow(draft: Draft, *, slots: int) -> Draft:
    """A draft with room for so many more tokens."""
    behind = ((0, 0), (0, slots))
    return draft._replace(
        cache=longer(draft.cache, slots),
        tokens=jnp.pad(draft.tokens, behind),
        logp=jnp.pad(draft.logp, behind),
        model_logp=jnp.pad(draft.model_logp, behind),
    )


@jax.jit
def keep(draft: Draft, rows: Int[Array, " kept"]) -> Draft:
    """Some rows of a draft, in the order in which they are named."""
    return draft._replace(
        cache=on_rows(draft.cache, lambda x, axis: jnp.take(x, rows, axis)),
        **{name: getattr(draft, name)[rows] for name in OF_A_ROW},
    )


@partial(jax.jit, static_argnames=("graphdef", "rule"), donate_argnames="draft")
def write(graphdef: Any, weights: Any, draft: Draft, stops: Stops, *, rule: Rule) -> Draft:
    """Write on until every row is done or has as many tokens as it may.

    Args:
        graphdef: of the decoder.
        weights: of the decoder.
        draft: what is written so far; consumed.
        stops: when to stop.
        rule: what is drawn from.
    """
    decoder: Decoder = nnx.merge(graphdef, weights)

    def going(draft: Draft) -> Array:
        return (draft.step < stops.until) & ~jnp.all(draft.done)

    def allowed(logits: Array, step: Array) -> Array:
        # Of the stop tokens only, so that nothing as long as the vocabulary is touched for them.
        ending = jnp.where(step < stops.least, -jnp.inf, logits[:, stops.tokens])
        return logits.at[:, stops.tokens].set(ending)

    def step(draft: Draft) -> Draft:
        def uniform(key: Array) -> Array:
            return jax.random.uniform(jax.random.fold_in(key, draft.step), (2,))

        logits = placed(decoder.mesh, decoder.logits(draft.hidden), "logits")
        token, logp = draw(allowed(logits, draft.step), jax.vmap(uniform)(draft.key), rule)
        # Under the untouched rule the two are one, and the second pass over the logits is saved.
        own = logp if rule == Rule() else logp_of(logits, token)
        token, logp, own = (jnp.where(draft.done, 0, values) for values in (token, logp, own))
        done = draft.done | jnp.any(token[:, None] == stops.tokens[None, :], axis=1)
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
            model_logp=jax.lax.dynamic_update_slice(draft.model_logp, own[:, None], at),
            length=draft.length + ~draft.done,
            done=done,
        )

    return jax.lax.while_loop(going, step, spread(draft, decoder))
