"""One token from its logits: which are allowed, which it is, and how likely it was.

A uniform random number is looked up in the running sum of the probabilities, which takes one random
number where the usual way, the largest of all logits after noise, takes one for each token of the
vocabulary. To make the running sum short, a block of neighbouring tokens is drawn first, then a
token of the block. What is reported is the log-probability under the distribution that was drawn
from, after temperature and truncation, not that of the model.

Key to the axes: R rows, V vocabulary, W weights that are drawn from.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

BLOCK = 128
"""Vocabulary entries summed before the first of two draws; a running sum of all costs ten times."""


class Rule(NamedTuple):
    """From logits to the distribution that is drawn from.

    Attributes:
        temperature: divides the logits; 0 takes the likeliest token.
        top_k: draw among the k likeliest; 0 for all.
        top_p: draw among the likeliest that together reach this probability, after ``top_k``.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0


def draw(
    logits: Float[Array, "R V"], uniform: Float[Array, "R 2"], rule: Rule
) -> tuple[Int[Array, " R"], Float[Array, " R"]]:
    """One token per row, by inverting the distribution function in two stages.

    First a block of neighbouring tokens is drawn by its weight, then a token within it.

    Args:
        logits: of the model.
        uniform: two random numbers in [0, 1) per row, one per stage.
        rule: what to make of the logits.

    Returns:
        Tokens, and their log-probabilities under the distribution they were drawn from, nats.
    """
    R, V = logits.shape
    if rule.temperature == 0:
        likeliest = jnp.argmax(logits, axis=1)
        # Zero where the logits are sound, and NaN where they are not.
        return likeliest, 0 * jnp.max(logits, axis=1)
    scaled = (logits - jnp.max(logits, axis=1, keepdims=True)) / rule.temperature
    weights = truncated(jnp.exp(scaled), rule)
    blocks = jnp.pad(weights, ((0, 0), (0, -V % BLOCK))).reshape(R, -1, BLOCK)
    mass = jnp.sum(blocks, axis=2)
    block = invert(mass, uniform[:, 0])
    within = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    token = block * BLOCK + invert(within, uniform[:, 1])
    exponent = jnp.take_along_axis(scaled, token[:, None], axis=1)[:, 0]
    return token, exponent - jnp.log(jnp.sum(mass, axis=1))


def logp_of(logits: Float[Array, "R V"], token: Int[Array, " R"]) -> Float[Array, " R"]:
    """Log-probabilities of tokens under the model itself, nats."""
    chosen = jnp.take_along_axis(logits, token[:, None], axis=1)[:, 0]
    return chosen - jax.nn.logsumexp(logits, axis=1)


def invert(weights: Float[Array, "R W"], uniform: Float[Array, " R"]) -> Int[Array, " R"]:
    """The first index at which the running sum of the weights passes a share of the total.

    An index without weight is never returned, even where the rounding of the running sum, which
    is done in parallel and need not be monotone, would lead there.
    """
    reached = jnp.where(weights > 0, jnp.cumsum(weights, axis=1), 0)
    wanted = uniform * jnp.max(reached, axis=1)
    return jnp.argmax(reached > wanted[:, None], axis=1)


def truncated(weights: Float[Array, "R V"], rule: Rule) -> Float[Array, "R V"]:
    """Weights with 0 for the tokens that ``top_k`` and ``top_p`` exclude; of equals, none is."""
    among = weights
    if 0 < rule.top_k < weights.shape[1]:
        among, _ = jax.lax.top_k(weights, rule.top_k)
        weights = jnp.where(weights >= among[:, -1:], weights, 0)
    if rule.top_p < 1:
        weights = jnp.where(weights >= nucleus(among, rule.top_p)[:, None], weights, 0)
    return weights


def nucleus(weights: Float[Array, "R W"], share: float) -> Float[Array, " R"]:
    """The largest weight such that it and all above it hold a share of the total.

    Bisection instead of a sort, which for a large vocabulary takes longer than the model. The bits
    of a float that is not negative, read as an integer, are in the order of the floats, so 30
    halvings between 0 and 1 find the weight exactly.

    Args:
        weights: in [0, 1].
        share: in (0, 1).
    """
    wanted = share * jnp.sum(weights, axis=1)

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) // 2
        threshold = jax.lax.bitcast_convert_type(middle, jnp.float32)
        held = jnp.sum(jnp.where(weights >= threshold[:, None], weights, 0), axis=1)
        enough = held >= wanted
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    above = jnp.full(weights.shape[0], np.float32(1).view(np.int32) + 1, jnp.int32)
    low, _ = jax.lax.fori_loop(0, 30, halve, (jnp.zeros_like(above), above))
    return jax.lax.bitcast_convert_type(low, jnp.float32)
