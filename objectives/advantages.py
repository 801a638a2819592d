"""Advantages: how much better a response did than it was expected to.

Subtracting a baseline leaves the expected policy gradient alone and takes noise away, but it also
makes some advantages negative: this is how on-policy RL gets its negative gradient. Estimators look
at the whole batch at once, before it is cut into micro-batches.

Key to the axes: B prompts, N responses per prompt, T token positions.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from objectives.hyperparameters import Number

PerResponse = Float[Array, "B N"]
Exists = Bool[Array, "B N"]


def masked_mean(
    x: Float[Array, "..."], where: Bool[Array, "..."], axis: int | None = None
) -> Float[Array, "..."]:
    """Mean over the True places, kept as an axis of size 1; 0 where there are none."""
    total = jnp.sum(jnp.where(where, x, 0), axis=axis, keepdims=True)
    return total / jnp.maximum(jnp.sum(where, axis=axis, keepdims=True), 1)


def batch_mean(reward: PerResponse, valid: Exists) -> PerResponse:
    """Reward minus its mean over the batch.

    Args:
        reward: higher is better; anything where ``valid`` is False.
        valid: which responses exist.

    Returns:
        In units of the reward, 0 where a response does not exist.
    """
    return jnp.where(valid, reward - masked_mean(reward, valid), 0)


class RunningMean(NamedTuple):
    """What ``running_mean`` remembers: the sum and the number of all rewards so far."""

    total: Float[Array, ""]
    number: Float[Array, ""]


def running_mean(
    reward: PerResponse, valid: Exists, state: RunningMean | None = None
) -> tuple[PerResponse, RunningMean]:
    """Reward minus the mean of all rewards so far, this batch included.

    Args:
        reward: higher is better.
        valid: which responses exist.
        state: what the previous call returned; None at the start.

    Returns:
        The advantage in units of the reward, and the state to hand to the next call.

    Source: the moving-average baseline of Tajwar et al. 2024, arXiv:2404.14367.
    """
    kept = jnp.where(valid, reward, 0)
    total, count = jnp.sum(kept), jnp.sum(valid).astype(kept.dtype)
    if state is not None:
        total, count = total + state.total, count + state.number
    advantage = jnp.where(valid, reward - total / jnp.maximum(count, 1), 0)
    return advantage, RunningMean(total, count)


def group_mean(reward: PerResponse, valid: Exists) -> PerResponse:
    """Reward minus its mean over the response's own group; in units of the reward."""
    return jnp.where(valid, reward - masked_mean(reward, valid, axis=-1), 0)


def group_zscore(reward: PerResponse, valid: Exists, floor: Number = 0.0) -> PerResponse:
    """(r - mean r) / (std r + 1e-6) over the response's own group, population std; no unit.

    Args:
        reward: higher is better.
        valid: which responses exist.
        floor: least standard deviation, in units of the reward. Once a policy has converged the
            rewards of a group are nearly equal, and dividing by their vanishing spread turns noise
            into full-size gradients; 0.05 prevents the collapse.

    Source: Shao et al. 2024, arXiv:2402.03300 (GRPO).
    """
    centred = group_mean(reward, valid)
    std = jnp.sqrt(masked_mean(centred**2, valid, axis=-1))
    return centred / (jnp.maximum(std, floor) + 1e-6)


def leave_one_out(reward: PerResponse, valid: Exists) -> PerResponse:
    """Reward minus the mean of the others of its group; 0 if alone. In units of the reward.

    The baseline does not depend on the response itself, so the gradient stays exactly unbiased.

    Source: Kool et al. 2019; Ahmadian et al. 2024, arXiv:2402.14740 (RLOO).
    """
    count = jnp.sum(valid, axis=-1, keepdims=True)
    return group_mean(reward, valid) * count / jnp.maximum(count - 1, 1)


def whiten(x: Float[Array, "..."], mask: Bool[Array, "..."]) -> Float[Array, "..."]:
    """(x - mean) / (std + 1e-8) over the scored places of the whole array; 0 elsewhere.

    Population standard deviation: one scored place gives 0, not the NaN of a sample estimate.

    Args:
        x: anything where ``mask`` is False.
        mask: the places that count.
    """
    centred = jnp.where(mask, x - masked_mean(x, mask), 0)
    std = jnp.sqrt(masked_mean(centred**2, mask))
    return centred / (std + 1e-8)


def gae(
    token_reward: Float[Array, "*batch T"],
    values: Float[Array, "*batch T"],
    mask: Bool[Array, "*batch T"],
    gamma: Number = 1.0,
    lambda_: Number = 0.95,
) -> tuple[Float[Array, "*batch T"], Float[Array, "*batch T"]]:
    """Generalised advantage estimation over the scored tokens, in order; gaps are skipped.

    A_t = delta_t + gamma lambda A_next with delta_t = r_t + gamma V_next - V_t, where "next" is the
    next scored token and the value after the last is 0.

    Args:
        token_reward: reward earned at each token.
        values: a critic's estimate of the return from each token on.
        mask: which tokens are scored.
        gamma: discount per scored token.
        lambda_: 0 trusts the critic (low variance), 1 the rewards (no bias).

    Returns:
        The advantages and the returns (advantage + value), both 0 where a token is not scored.

    Source: Schulman et al. 2016, arXiv:1506.02438, eq. 16.
    """

    def step(later, now):
        next_advantage, next_value = later
        reward, value, seen = now
        delta = reward + gamma * next_value - value
        advantage = delta + gamma * lambda_ * next_advantage
        carry = (jnp.where(seen, advantage, next_advantage), jnp.where(seen, value, next_value))
        return carry, jnp.where(seen, advantage, 0)

    reward, value = jnp.where(mask, token_reward, 0), jnp.where(mask, values, 0)
    dtype = jnp.result_type(reward, value)
    over_time = tuple(
        jnp.moveaxis(x, -1, 0) for x in (reward.astype(dtype), value.astype(dtype), mask)
    )
    start = jnp.zeros(mask.shape[:-1], dtype)
    _, advantage = jax.lax.scan(step, (start, start), over_time, reverse=True)
    advantage = jnp.moveaxis(advantage, 0, -1)
    return advantage, jnp.where(mask, advantage + value, 0)


def kl_per_token(
    old_logp: Float[Array, "B N T"], ref_logp: Float[Array, "B N T"], mask: Bool[Array, "B N T"]
) -> Float[Array, "B N T"]:
    """old_logp - ref_logp where scored, 0 elsewhere: the k1 estimate that reward shaping uses."""
    return jnp.where(mask, old_logp - ref_logp, 0)


def kl_in_reward(
    reward: PerResponse,
    old_logp: Float[Array, "B N T"],
    ref_logp: Float[Array, "B N T"],
    mask: Bool[Array, "B N T"],
    beta: Number,
) -> PerResponse:
    """Reward with the KL penalty taken off: r - beta * sum_t (old_logp - ref_logp).

    Args:
        reward: higher is better.
        old_logp: log-probability under the distribution that drew the tokens, nats.
        ref_logp: log-probability under the reference, nats.
        mask: which tokens are scored.
        beta: reward per nat.

    Source: Ahmadian et al. 2024, arXiv:2402.14740 (RLOO).
    """
    return reward - beta * jnp.sum(kl_per_token(old_logp, ref_logp, mask), axis=-1)


def kl_in_token_reward(
    reward: PerResponse,
    old_logp: Float[Array, "B N T"],
    ref_logp: Float[Array, "B N T"],
    mask: Bool[Array, "B N T"],
    beta: Number,
) -> Float[Array, "B N T"]:
    """-beta (old_logp - ref_logp) at every scored token, plus the reward at the last: PPO's input.

    Args:
        reward: of the whole response, a real number (never rounded to an integer).
        old_logp: log-probability under the distribution that drew the tokens, nats.
        ref_logp: log-probability under the reference, nats.
        mask: which tokens are scored.
        beta: reward per nat.

    Source: Ouyang et al. 2022, arXiv:2203.02155; Ziegler et al. 2019, arXiv:1909.08593.
    """
    tokens_left = jnp.cumsum(mask[..., ::-1], axis=-1)[..., ::-1]
    last = mask & (tokens_left == 1)
    penalty = beta * kl_per_token(old_logp, ref_logp, mask)
    return jnp.where(last, reward[..., None], 0) - penalty


ADVANTAGES = {
    "batch_mean": batch_mean,
    "group_mean": group_mean,
    "group_zscore": group_zscore,
    "leave_one_out": leave_one_out,
    "running_mean": running_mean,
}
"""Estimators that need nothing but rewards, by the name a recipe gives them."""
