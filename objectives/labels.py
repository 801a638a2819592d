"""From rewards to preferences: which response of a group beats which, and noisy human labels.

Key to the axes: B prompts, N responses per prompt.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from objectives.hyperparameters import Number, PairRule


def first(where: Bool[Array, "*batch N"]) -> Bool[Array, "*batch N"]:
    """Keep only the first True along the last axis: first among equals."""
    return where & (jnp.cumsum(where, axis=-1) == 1)


def best(
    reward: Float[Array, "*batch N"], exists: Bool[Array, "*batch N"]
) -> Bool[Array, "*batch N"]:
    """Mark each group's response of highest reward, the first among equals.

    Args:
        reward: higher is better; anything where the response does not exist.
        exists: which responses are there.

    Returns:
        One True per group, none for a group without responses.
    """
    top = jnp.max(jnp.where(exists, reward, -jnp.inf), axis=-1, keepdims=True)
    return first(exists & (reward == top))


def worst(
    reward: Float[Array, "*batch N"], exists: Bool[Array, "*batch N"]
) -> Bool[Array, "*batch N"]:
    """Mark each group's response of lowest reward, the first among equals (see ``best``)."""
    bottom = jnp.min(jnp.where(exists, reward, jnp.inf), axis=-1, keepdims=True)
    return first(exists & (reward == bottom))


def differs(
    reward: Float[Array, "*batch N"], exists: Bool[Array, "*batch N"]
) -> Bool[Array, " *batch"]:
    """Whether a group holds two different rewards, so that a preference can be read from it."""
    top = jnp.max(jnp.where(exists, reward, -jnp.inf), axis=-1)
    bottom = jnp.min(jnp.where(exists, reward, jnp.inf), axis=-1)
    return top > bottom


def pairs(
    reward: Float[Array, "*batch N"],
    exists: Bool[Array, "*batch N"],
    rule: PairRule = "all",
    threshold: Number = 0.0,
) -> Bool[Array, "*batch N N"]:
    """The preference pairs inside each group.

    ``"all"`` every ordered pair with r_w > r_l + threshold.
    ``"best_vs_worst"`` the group's best against its worst, when r_max > r_min + threshold.

    Args:
        reward: higher is better.
        exists: a response that does not exist is in no pair.
        rule: which pairs to keep.
        threshold: least difference in reward, exclusive, in units of the reward.

    Returns:
        True at ``[..., w, l]`` where response w is preferred to response l.

    Differs:
        The authors' bandit code keeps a tie (the second of the sorted indices wins) when it has no
        threshold; a tie is no preference here.
    """
    wins = reward[..., :, None] > reward[..., None, :] + threshold
    both = exists[..., :, None] & exists[..., None, :]
    if rule == "best_vs_worst":
        both = best(reward, exists)[..., :, None] & worst(reward, exists)[..., None, :]
    return wins & both


def bradley_terry(
    key: PRNGKeyArray,
    reward_a: Float[Array, "..."],
    reward_b: Float[Array, "..."],
    temperature: Number = 1.0,
) -> Bool[Array, "..."]:
    """Draw noisy preferences: P(a beats b) = sigmoid((r_a - r_b) / temperature).

    Args:
        key: consumed.
        reward_a: reward of the first response of each pair.
        reward_b: reward of the second.
        temperature: in units of the reward; towards 0 the labels become exact.

    Returns:
        True where the first response is preferred.

    Source: Bradley and Terry 1952; as used by Christiano et al. 2017, arXiv:1706.03741.
    """
    return jax.random.bernoulli(key, jax.nn.sigmoid((reward_a - reward_b) / temperature))
