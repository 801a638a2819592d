"""Policies small enough to visit everything they can say, and expectations over all of it.

An expectation is a sum over all groups of responses, each weighted by its probability. What a
sampled gradient estimates is therefore computed without sampling.
"""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from objectives import Objective, Responses

K = 5
VOCABULARY, STOP = 3, 0


class World(NamedTuple):
    """All groups of N responses of a policy.

    Key to the axes: B groups, N responses per group, T token positions.
    """

    row: np.ndarray  # [B, N, T] which row of the logits each token is drawn from
    token: np.ndarray  # [B, N, T]
    mask: np.ndarray  # [B, N, T]
    response: np.ndarray  # [B, N] the number of the response among all that there are

    def logp(self, logits: Any) -> jax.Array:
        """Token log-probabilities [B, N, T]; 0 where there is no token."""
        return token_logp(self, jnp.asarray(logits))

    def probability(self, logits: Any) -> jax.Array:
        """Of each group [B]."""
        return group_probability(self, jnp.asarray(logits))

    def responses(self, reward: Any, advantage: Any, **fields: Any) -> Responses:
        """The batch of all groups; ``reward`` is given per response there is."""
        fields = {"ref_logp": self.zeros(), "old_logp": self.zeros()} | fields
        return Responses(
            mask=jnp.asarray(self.mask),
            reward=jnp.asarray(self.each(reward)),
            advantage=jnp.asarray(advantage),
            **fields,
        )

    def each(self, reward: Any) -> np.ndarray:
        """The reward of every response of every group [B, N]."""
        return np.asarray(reward)[self.response]

    def zeros(self) -> jax.Array:
        return jnp.asarray(np.zeros(self.mask.shape))

    def everyone(self) -> jax.Array:
        """``valid``, for estimators: every response exists [B, N]."""
        return jnp.asarray(np.ones(self.response.shape, bool))


@jax.jit
def token_logp(world: World, logits: jax.Array) -> jax.Array:
    logp = jax.nn.log_softmax(logits, axis=-1)
    return jnp.where(world.mask, logp[world.row, world.token], 0)


@jax.jit
def group_probability(world: World, logits: jax.Array) -> jax.Array:
    return jnp.exp(token_logp(world, logits).sum(axis=(1, 2)))


def bandit(responses: int = 1) -> World:
    """All groups of actions out of K; the logits are [1, K]."""
    token = np.array(list(itertools.product(range(K), repeat=responses)))
    return World(np.zeros_like(token)[..., None], token[..., None], token[..., None] >= 0, token)


def sentences(responses: int = 1) -> World:
    """All groups of sentences of at most two tokens, of which one ends a sentence at once.

    The logits are [1 + VOCABULARY, VOCABULARY]: a row for the first token, and one after each.
    """
    said = [(STOP, STOP)]
    said += list(itertools.product([t for t in range(VOCABULARY) if t != STOP], range(VOCABULARY)))
    token = np.array(said)
    row = np.stack([np.zeros_like(token[:, 0]), 1 + token[:, 0]], axis=-1)
    mask = np.stack([np.ones(len(said), bool), token[:, 0] != STOP], axis=-1)
    response = np.array(list(itertools.product(range(len(said)), repeat=responses)))
    return World(row[response], token[response], mask[response], response)


def loss_of_each_group(objective: Objective, logp: jax.Array, responses: Responses) -> jax.Array:
    """What the loss would be if the batch were that group alone [B]; 0 where it has no unit."""
    terms = objective(logp, responses)
    value = terms.value.reshape(len(terms.value), -1)
    weight = terms.weight.reshape(value.shape)
    return (value * weight).sum(axis=-1) / jnp.maximum(weight.sum(axis=-1), 1e-300)


@functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
def gradient_under(
    probability: jax.Array,
    objective: Objective,
    world: World,
    logits: jax.Array,
    responses: Responses,
) -> jax.Array:
    """Of the loss of each group, weighted by how probable the group is."""

    def surrogate(logits: jax.Array) -> jax.Array:
        return probability @ loss_of_each_group(objective, world.logp(logits), responses)

    return jax.grad(surrogate)(logits)


def expected_gradient(
    objective: Objective, world: World, logits: Any, responses: Responses, drawn_from: Any = None
) -> np.ndarray:
    """The mean, over all groups that could be drawn, of the gradient of the sampled loss.

    Args:
        objective: what each group is the data of.
        world: the groups.
        logits: of the policy, in which the gradient is taken.
        responses: the groups as a batch.
        drawn_from: logits of the distribution that draws the groups; the policy's when None.
    """
    probability = world.probability(logits if drawn_from is None else drawn_from)
    return np.asarray(gradient_under(probability, objective, world, jnp.asarray(logits), responses))


@jax.jit
def gradient_of_expectation(world: World, logits: jax.Array, of: jax.Array) -> jax.Array:
    """Of the expectation of a number per response, in the logits; exact. Groups of one."""
    return jax.grad(lambda logits: world.probability(logits) @ of)(logits)
