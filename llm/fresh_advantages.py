"""From rewards to advantages, over a whole collection at once.

A penalty for leaving the reference comes off the reward first. Then an estimator compares responses
with each other, or, with a critic, generalised advantage estimation compares every token with what
was expected of it. A critic begins by expecting 0, so for it rewards are measured from the mean of
the first collection, which the reference itself has written. Three things are carried from one
collection to the next: the running mean of all rewards, the scale for a critic, and the strength of
the penalty, which a controller may steer.

Key to the axes: B prompts, N responses of each, T response positions.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Float64

from llm.rollouts import Rollout
from llm.sampler.sizes import bucket
from llm.settings import CriticSettings, KLSettings
from objectives.advantages import (
    ADVANTAGES,
    RunningMean,
    gae,
    group_zscore,
    kl_in_reward,
    kl_in_token_reward,
    running_mean,
    whiten,
)
from objectives.recipes import Recipe

SHORTEST = 64
"""Token places an array of a collection has at least."""

TIED = 1e-6
"""Deviation of rewards that are all the same, but for rounding."""

MOST = 0.2
"""Largest relative error of the KL that its controller reacts to."""


@dataclass(frozen=True)
class Carried:
    """What one collection leaves to the next.

    Attributes:
        total: sum of all rewards so far.
        number: how many there were.
        kl_coefficient: beta of the KL penalty in the reward, reward per nat.
        centre: where rewards for a critic are measured from.
        unit: what they are measured in; 0 before the first collection.
    """

    total: float
    number: float
    kl_coefficient: float
    centre: float = 0.0
    unit: float = 0.0

    def record(self) -> dict[str, float]:
        """As plain JSON."""
        return asdict(self)

    def measured_by(self, reward: Float64[np.ndarray, " R"]) -> "Carried":
        """With a scale on which these rewards have mean 0 and deviation 1, unless there is one.

        Source: Ziegler et al. 2019, arXiv:1909.08593, who normalise a reward model so under the
            reference.
        Differs: the reference's responses are those of the first collection.
        """
        if self.unit or not reward.size:
            return self
        spread = float(reward.std())
        return replace(self, centre=float(reward.mean()), unit=spread if spread > TIED else 1.0)


def advise(
    rollouts: Sequence[Rollout],
    recipe: Recipe,
    critic: CriticSettings | None,
    kl: KLSettings,
    carried: Carried,
    policy: Sequence[Float32[np.ndarray, "_"]] | None = None,
) -> tuple[list[Rollout], Carried]:
    """Give a collection its advantages.

    Args:
        rollouts: with rewards, and with what policy, reference and critic say of them.
        recipe: which estimator, which penalty.
        critic: how a critic's values are used; None without one.
        kl: how the penalty is steered.
        carried: from the collection before.
        policy: log-probabilities that a penalty compares with the reference's, of every token,
            nats; those it was drawn with when None. Read as the reference's were, so that a policy
            that is the reference is at no distance from it: of rounding errors, where every reward
            is the same, whitening would make advantages of full size.

    Returns:
        The collection as it is trained on: rewards with the penalty taken off, advantages, and
        returns for a critic; and what is carried on.
    """
    scaled = critic is not None and critic.normalize
    if scaled:
        own = [rollout.worth for rollout in rollouts if rollout.source != "dataset"]
        carried = carried.measured_by(np.concatenate([*own, np.zeros(0)]))
        rollouts = [rescaled(rollout, carried) for rollout in rollouts]
    cells = Cells.of(rollouts)
    beta = carried.kl_coefficient
    old = cells.spread("old_logp") if policy is None else cells.places(policy)
    ref = cells.spread("ref_logp") if "ref_logp" in rollouts[0].known else old
    reward = kl_in_reward(cells.reward, old, ref, cells.mask, beta)
    columns: dict[str, Array] = {}
    total, number = carried.total, carried.number
    if critic is not None:
        earned = kl_in_token_reward(cells.reward, old, ref, cells.mask, beta)
        advantage, returns = gae(
            earned, cells.spread("old_value"), cells.mask, critic.gamma, critic.lambda_
        )
        if critic.whiten:
            advantage = whiten(advantage, cells.mask)
        columns = {"advantage": advantage, "returns": returns}
    elif recipe.advantage == "running_mean":
        before = RunningMean(jnp.float32(total), jnp.float32(number))
        advantage, after = running_mean(reward, cells.valid, before)
        total, number = float(after.total), float(after.number)
        columns["advantage"] = cells.each_token(advantage)
    elif recipe.advantage == "group_zscore":
        floor = float(recipe.std_floor)
        columns["advantage"] = cells.each_token(group_zscore(reward, cells.valid, floor))
    elif recipe.advantage is not None:
        columns["advantage"] = cells.each_token(ADVANTAGES[recipe.advantage](reward, cells.valid))
    flat = {name: cells.flat(values) for name, values in columns.items()}
    shaped = np.asarray(reward, np.float64)
    after = [
        replace(
            rollout,
            # Where nothing is taken off, nothing is rounded either.
            trained=shaped[b, : len(rollout.reward)] if beta else rollout.trained,
            known={**rollout.known, **{name: values[b] for name, values in flat.items()}},
        )
        for b, rollout in enumerate(rollouts)
    ]
    drift, responses = drifted(cells, old - ref)
    beta = steered(beta, drift, responses, kl)
    return after, replace(carried, total=total, number=number, kl_coefficient=beta)


def rescaled(rollout: Rollout, scale: Carried) -> Rollout:
    """A rollout whose rewards, as they are trained on, are measured on a scale."""
    return replace(rollout, trained=(rollout.worth - scale.centre) / (scale.unit or 1.0))


def drifted(cells: "Cells", log_ratio: Float[Array, "B N T"]) -> tuple[float, int]:
    """How far the policy is from the reference, in nats per response, by what it wrote itself.

    Returns:
        The mean over its responses, and how many there are: what others wrote says nothing of it.
    """
    own = jnp.array([rollout.source == "policy" for rollout in cells.rollouts])
    responses = int(jnp.sum(cells.valid & own[:, None]))
    total = jnp.sum(jnp.where(cells.mask & own[:, None, None], log_ratio, 0))
    return float(total) / max(responses, 1), responses


def steered(beta: float, drift: float, responses: int, kl: KLSettings) -> float:
    """The next strength of the penalty.

    Args:
        beta: as it is.
        drift: KL to the reference, nats per response.
        responses: how many that was measured on.
        kl: where to steer, and how fast.

    Source: Ziegler et al. 2019, arXiv:1909.08593, section 2.2.
    """
    if kl.target is None:
        return beta
    error = float(np.clip(drift / kl.target - 1, -MOST, MOST))
    # However many responses a collection has, a penalty never turns into a bonus.
    return beta * (1 + error * min(responses / kl.horizon, 1.0))


@dataclass(frozen=True, eq=False)
class Cells:
    """A collection of uneven groups of uneven responses as arrays with gaps.

    Attributes:
        rollouts: the collection.
        reward: 0 where a group has no such response.
        valid: which responses exist.
        mask: which tokens do.
    """

    rollouts: Sequence[Rollout]
    reward: Float[Array, "B N"]
    valid: Bool[Array, "B N"]
    mask: Bool[Array, "B N T"]

    @classmethod
    def of(cls, rollouts: Sequence[Rollout]) -> "Cells":
        """Lay a collection out."""
        many = max(len(rollout.reward) for rollout in rollouts)
        longest = max(length for rollout in rollouts for length in rollout.lengths)
        # Few sizes, because every one is compiled for.
        most = bucket(longest, SHORTEST)
        reward = np.zeros((len(rollouts), many), np.float32)
        mask = np.zeros((len(rollouts), many, most), bool)
        for b, rollout in enumerate(rollouts):
            reward[b, : len(rollout.reward)] = rollout.worth
            for n, length in enumerate(rollout.lengths):
                mask[b, n, :length] = True
        return cls(rollouts, jnp.asarray(reward), jnp.asarray(mask.any(axis=2)), jnp.asarray(mask))

    def spread(self, name: str) -> Float[Array, "B N T"]:
        """What is known of every token, in its place; 0 in the gaps."""
        return self.places([rollout.known[name] for rollout in self.rollouts])

    def places(self, numbers: Sequence[Float32[np.ndarray, "_"]]) -> Float[Array, "B N T"]:
        """Numbers per token of each group in their places; 0 in the gaps."""
        values = np.zeros(self.mask.shape, np.float32)
        values[np.asarray(self.mask)] = np.concatenate(numbers)
        return jnp.asarray(values)

    def each_token(self, values: Float[Array, "B N"]) -> Float[Array, "B N T"]:
        """The number of a response at each of its tokens."""
        return jnp.where(self.mask, values[..., None], 0)

    def flat(self, values: Float[Array, "B N T"]) -> list[Float32[np.ndarray, "_"]]:
        """Numbers per token of each group, one response after the other."""
        flat = np.asarray(values, np.float32)[np.asarray(self.mask)]
        ends = np.cumsum([sum(rollout.lengths) for rollout in self.rollouts])[:-1]
        return np.split(flat, ends)


def as_known(rollouts: Sequence[Rollout]) -> dict[str, list[Any]]:
    """What a batch is told of every token, by the names it has for it."""
    return {name: [rollout.known[name] for rollout in rollouts] for name in rollouts[0].known}
