"""Policy gradients: raise what did better than expected, lower what did worse.

The responses must come from the policy (or nearly: PPO and GSPO correct for a policy that has moved
a little since). Their values are surrogates: only the gradient means something. With a
baseline about half of the advantages are negative, so these objectives push down as well as up,
and on policy they optimise a reverse KL to the optimum: they seek modes.

Key to the axes: B prompts, N responses per prompt, T token positions.
"""

from typing import ClassVar, Literal

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from objectives.divergences import KL_ESTIMATORS
from objectives.hyperparameters import (
    Normalize,
    Number,
    require,
    require_nonnegative,
    require_one_of,
    require_positive,
)
from objectives.pytrees import pytree
from objectives.responses import PerToken, Responses, Scored, scored
from objectives.supervised import NORMALIZE, per_unit
from objectives.terms import Terms, Weighted


@pytree
class KLPenalty:
    """beta * k(log pi - log pi_ref) per token, added to a policy-gradient loss.

    What the gradient of each estimator is in expectation, on policy: ``"k1"`` none at all (the
    authors' KL term does nothing), ``"k2"`` that of the reverse KL, ``"k3"`` that of
    KL(pi_ref || pi), which is mass-covering. ``tests/objectives`` proves it by enumeration. For
    responses of several tokens these are sums of KLs per position: that the penalty also changes
    which prefixes are reached has no part in them (``kl_in_reward`` has the whole gradient).

    Args:
        beta: loss per nat; 0 or None for no penalty.
        estimator: ``"k1"``, ``"k2"`` or ``"k3"`` of ``objectives.divergences``.

    Source: Schulman 2020; k3 as a loss in Shao et al. 2024, arXiv:2402.03300 (GRPO).
    """

    beta: Number | None = 0.0
    estimator: Literal["k1", "k2", "k3"] = "k2"

    def __post_init__(self) -> None:
        if self.beta is not None:
            require_nonnegative(self, "beta")
        require_one_of(self, "estimator", tuple(KL_ESTIMATORS))

    def __call__(self, batch: Scored) -> PerToken:
        """The penalty of every token, 0 where a token is not scored."""
        if self.beta is None:
            return jnp.zeros_like(batch.logp)
        return self.beta * KL_ESTIMATORS[self.estimator](batch.logp - batch.ref_logp)


def advantage_of(objective: object, batch: Scored) -> Float[Array, "B N T"] | Float[Array, "B N 1"]:
    """The advantage an estimator has filled in.

    Raises:
        ValueError: if none has.
    """
    if batch.advantage is None:
        raise ValueError(
            f"{type(objective).__name__} needs responses.advantage, which is None; fill it with an "
            "estimator of objectives.advantages, such as leave_one_out(reward, valid)[..., None]."
        )
    return batch.advantage


def entropy_bonus(batch: Scored, coefficient: Number) -> PerToken:
    """Bonus c sg(logp) logp: it has the gradient of -c times the entropy, and no value."""
    return coefficient * lax.stop_gradient(batch.logp) * batch.logp


def penalty_metrics(batch: Scored) -> dict[str, Weighted]:
    """The k1 estimate of the KL to the reference, nats per response; negative values are noise."""
    return {"kl_to_reference": Weighted(batch.log_ratio, batch.exists.astype(batch.dtype))}


def clipped(
    advantage: Float[Array, "..."], ratio: Float[Array, "..."], low: Number, high: Number
) -> Float[Array, "..."]:
    """max(-A rho, -A clip(rho, 1 - low, 1 + high)): pessimistic about how far to move."""
    return jnp.maximum(-advantage * ratio, -advantage * jnp.clip(ratio, 1 - low, 1 + high))


@pytree
class REINFORCE:
    """The score-function gradient. *Mode-seeking*.

    Value -A S (sum_t A_t logp_t where the advantage differs by token), plus the penalties.

    Args:
        normalize: how a response counts.
        kl: penalty per token towards the reference.
        entropy: coefficient of the entropy bonus.

    Source: Williams 1992, doi:10.1007/BF00992696.

    Raises:
        ValueError: on a call, if no estimator has filled ``responses.advantage``.

    Differs: the authors' bandit subtracts the sample mean of -log pi as "entropy"; its gradient
    vanishes in expectation. ``entropy`` here has the gradient of the entropy.
    """

    normalize: Normalize = "response"
    kl: KLPenalty = KLPenalty(None)
    entropy: Number = 0.0

    negative_gradient: ClassVar[bool] = True
    mode_seeking: ClassVar[bool] = True
    on_policy: ClassVar[Literal["required", "optional"]] = "required"
    source: ClassVar[str] = "Williams 1992, doi:10.1007/BF00992696"

    def __post_init__(self) -> None:
        require_one_of(self, "normalize", NORMALIZE)
        require_nonnegative(self, "entropy")

    def __call__(self, logp: PerToken, responses: Responses) -> Terms:
        """Surrogate: its gradient is minus the policy gradient."""
        batch = scored(logp, responses)
        surrogate = -advantage_of(self, batch) * batch.logp
        surrogate = surrogate + self.kl(batch) + entropy_bonus(batch, self.entropy)
        value, weight = per_unit(surrogate, batch, self.normalize)
        return Terms(value, weight, penalty_metrics(batch))


@pytree
class PPO:
    """Proximal policy optimisation: reuse a batch while the policy is near. *Mode-seeking*.

    Value per token max(-A rho, -A clip(rho, 1 - clip_low, 1 + clip_high)), rho = exp(logp -
    old_logp).

    Args:
        clip_low: how far a ratio may fall below 1 and still be pushed down.
        clip_high: how far it may rise above 1 and still be pushed up ("clip-higher" when larger).
        dual_clip: c; where A < 0 the value is at most -c A, so that a token the old policy almost
            never drew cannot explode.
        normalize: ``"token"`` every token counts once (DAPO); ``"length"`` each token weighs 1/L
            (GRPO as published); ``"response"`` tokens summed; ``("constant", c)`` tokens summed and
            divided by c (Dr. GRPO).
        kl: penalty per token towards the reference.
        entropy: coefficient of the entropy bonus.

    Raises:
        ValueError: on a call, if no estimator has filled ``responses.advantage``.

    Source: Schulman et al. 2017, arXiv:1707.06347, eq. 7; dual clip Ye et al. 2020,
    arXiv:1912.09729; clip-higher Yu et al. 2025, arXiv:2503.14476 (DAPO).
    """

    clip_low: Number = 0.2
    clip_high: Number = 0.2
    dual_clip: Number | None = None
    normalize: Normalize | tuple[Literal["constant"], float | int] = "token"
    kl: KLPenalty = KLPenalty()
    entropy: Number = 0.0

    negative_gradient: ClassVar[bool] = True
    mode_seeking: ClassVar[bool] = True
    on_policy: ClassVar[Literal["required", "optional"]] = "required"
    source: ClassVar[str] = "Schulman et al. 2017, arXiv:1707.06347"

    def __post_init__(self) -> None:
        require_nonnegative(self, "clip_low", "clip_high", "entropy")
        if self.dual_clip is not None:
            require(self.dual_clip > 1, self, "dual_clip", "greater than 1, or None")
        if isinstance(self.normalize, tuple):
            known = len(self.normalize) == 2 and self.normalize[0] == "constant"
            require(
                known and self.normalize[1] > 0, self, "normalize", '("constant", c) with c > 0'
            )
        else:
            require_one_of(self, "normalize", NORMALIZE)

    def __call__(self, logp: PerToken, responses: Responses) -> Terms:
        """Surrogate: its gradient is minus the clipped policy gradient."""
        batch = scored(logp, responses)
        advantage = advantage_of(self, batch)
        ratio = jnp.exp(batch.logp - batch.old_logp)
        surrogate = clipped(advantage, ratio, self.clip_low, self.clip_high)
        if self.dual_clip is not None:
            bounded = jnp.minimum(surrogate, -self.dual_clip * advantage)
            surrogate = jnp.where(advantage < 0, bounded, surrogate)
        counts = batch.mask.astype(batch.dtype)
        surrogate = surrogate + self.kl(batch) + entropy_bonus(batch, self.entropy)
        surrogate = jnp.where(batch.mask, surrogate, 0)
        if isinstance(self.normalize, tuple):
            value, weight = per_unit(surrogate / self.normalize[1], batch, "response")
        elif self.normalize == "length":
            value, weight = surrogate, counts / batch.length[..., None]
        else:
            value, weight = per_unit(surrogate, batch, self.normalize)
        outside = (ratio < 1 - self.clip_low) | (ratio > 1 + self.clip_high)
        metrics = penalty_metrics(batch) | {
            "ratio": Weighted(ratio, counts),
            "clip_fraction": Weighted(outside.astype(batch.dtype), counts),
        }
        return Terms(value, weight, metrics)


@pytree
class GSPO:
    """Group sequence policy optimisation: PPO with one ratio per response. *Mode-seeking*.

    As ``PPO`` with rho = exp((S - S_old) / L), the geometric mean of the token ratios; an advantage
    per token enters by its mean over the response.

    Args:
        clip_low: how far the ratio may fall below 1.
        clip_high: how far it may rise above 1.
        kl: penalty towards the reference, averaged over the response's tokens.

    Raises:
        ValueError: on a call, if no estimator has filled ``responses.advantage``.

    Source: Zheng et al. 2025, arXiv:2507.18071, eq. 5.
    """

    clip_low: Number = 3e-4
    clip_high: Number = 4e-4
    kl: KLPenalty = KLPenalty()

    negative_gradient: ClassVar[bool] = True
    mode_seeking: ClassVar[bool] = True
    on_policy: ClassVar[Literal["required", "optional"]] = "required"
    source: ClassVar[str] = "Zheng et al. 2025, arXiv:2507.18071"

    def __post_init__(self) -> None:
        require_positive(self, "clip_low", "clip_high")

    def __call__(self, logp: PerToken, responses: Responses) -> Terms:
        """Surrogate: its gradient is minus the clipped policy gradient."""
        batch = scored(logp, responses)
        advantage = advantage_of(self, batch)
        if advantage.shape == batch.mask.shape:
            response_advantage = jnp.sum(advantage, axis=-1) / batch.length
        else:
            response_advantage = advantage[..., 0]
        ratio = jnp.exp((batch.S - batch.S_old) / batch.length)
        value = clipped(response_advantage, ratio, self.clip_low, self.clip_high)
        value = value + jnp.sum(self.kl(batch), axis=-1) / batch.length
        weight = batch.exists.astype(batch.dtype)
        outside = (ratio < 1 - self.clip_low) | (ratio > 1 + self.clip_high)
        metrics = penalty_metrics(batch) | {
            "ratio": Weighted(ratio, weight),
            "clip_fraction": Weighted(outside.astype(batch.dtype), weight),
        }
        return Terms(value, weight, metrics)
