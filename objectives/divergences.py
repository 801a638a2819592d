"""Divergences between categorical distributions, exact, and what their estimators really do.

The direction of a KL decides where mass goes. Forward KL, KL(target || policy), punishes the policy
for missing anything the target has, so it covers mass. Reverse KL, KL(policy || target), punishes
the policy for being where the target is not, so it seeks modes. Everything here is a function of
log-probabilities over the last axis, in nats.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from objectives.hyperparameters import Number

LogProbs = Float[Array, "*batch K"]
Nats = Float[Array, " *batch"]

CEILING = -1e-6
"""Largest log-probability whose complement is taken: log(1 - exp(x)) is -inf at 0."""


def log1mexp(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """log(1 - exp(min(x, -1e-6))), accurate at both ends.

    Args:
        x: a log-probability, in nats; above -1e-6 it is held there and has no gradient.
    """
    x = jnp.minimum(x, CEILING)
    return jnp.where(x < -jnp.log(2.0), jnp.log1p(-jnp.exp(x)), jnp.log(-jnp.expm1(x)))


def expectation(logp: LogProbs, of: Float[Array, "*batch K"]) -> Nats:
    """Sum p * of, where a bin of probability 0 contributes 0 whatever ``of`` holds there."""
    p = jnp.exp(logp)
    return jnp.sum(jnp.where(p > 0, p * jnp.where(p > 0, of, 0), 0), axis=-1)


def entropy(logp: LogProbs) -> Nats:
    """-sum p log p, in nats."""
    return -expectation(logp, logp)


def forward_kl(logp: LogProbs, target_logp: LogProbs) -> Nats:
    """Sum q (log q - log p). *Mass-covering* in the policy p.

    Its gradient in softmax logits is p - q.

    Args:
        logp: log p, the policy, normalised.
        target_logp: log q, the target, normalised.
    """
    return expectation(target_logp, target_logp - logp)


def reverse_kl(logp: LogProbs, target_logp: LogProbs) -> Nats:
    """Sum p (log p - log q). *Mode-seeking* in the policy p.

    Its gradient in softmax logits is p (log p - log q - reverse_kl).

    Args:
        logp: log p, the policy, normalised.
        target_logp: log q, the target, normalised.
    """
    return expectation(logp, logp - target_logp)


def jensen_shannon(logp: LogProbs, target_logp: LogProbs) -> Nats:
    """(KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2: symmetric, at most log 2.

    Args:
        logp: log p, the policy, normalised.
        target_logp: log q, the target, normalised.
    """
    middle = jnp.logaddexp(logp, target_logp) - jnp.log(2.0)
    return (expectation(logp, logp - middle) + expectation(target_logp, target_logp - middle)) / 2


def alpha_divergence(logp: LogProbs, target_logp: LogProbs, alpha: Number) -> Nats:
    """(sum p^alpha q^(1-alpha) - 1) / (alpha (alpha - 1)): one dial from forward to reverse KL.

    alpha = 0 is the forward KL (covering), alpha = 1 the reverse KL (seeking), 1/2 is symmetric.
    Computed as an expectation of expm1 under p or q, so that it does not cancel near 0 and 1.

    Args:
        logp: log p, the policy, normalised.
        target_logp: log q, the target, normalised.
        alpha: any real number; may be traced.

    Source: Amari 1985; Minka 2005, "Divergence measures and message passing".
    """
    alpha = jnp.asarray(alpha, jnp.result_type(logp))
    seeking = alpha > 0.5
    under = jnp.where(seeking, logp, target_logp)
    # Cleaned before the exponential, whose overflow would reach the gradient as 0 times infinity.
    log_ratio = jnp.where(jnp.exp(under) > 0, logp - target_logp, 0)
    limit = (alpha == 0) | (alpha == 1)
    a = jnp.where(limit, 0.5, alpha)
    general = jnp.expm1(jnp.where(seeking, a - 1, a) * log_ratio) / (a * (a - 1))
    return expectation(under, jnp.where(limit, jnp.where(seeking, 1, -1) * log_ratio, general))


def optimal_policy(ref_logp: LogProbs, reward: Float[Array, "*#batch K"], beta: Number) -> LogProbs:
    """Log-probabilities of pi* = pi_ref exp(r / beta), normalised: where KL-regularised RL ends.

    Args:
        ref_logp: log pi_ref.
        reward: of each bin.
        beta: strength of the reverse KL to pi_ref, in units of reward per nat.

    Source: Rafailov et al. 2023, arXiv:2305.18290, eq. 4.
    """
    return jax.nn.log_softmax(ref_logp + reward / beta, axis=-1)


def k1(log_ratio: Float[Array, "..."]) -> Float[Array, "..."]:
    """x: unbiased for the reverse KL as a number; as a loss its expected gradient is exactly zero.

    d/dtheta E_sg[x] = E[grad log pi] = 0: a penalty made of k1 does nothing but add noise.

    Args:
        log_ratio: x = log pi(y) - log pi_ref(y) of samples from pi, in nats.

    Source: Schulman 2020, "Approximating KL divergence".
    """
    return log_ratio


def k2(log_ratio: Float[Array, "..."]) -> Float[Array, "..."]:
    """x^2 / 2: biased as a number; its expected gradient on policy is the reverse KL's."""
    return log_ratio**2 / 2


def k3(log_ratio: Float[Array, "..."]) -> Float[Array, "..."]:
    """exp(-x) - 1 + x: unbiased as a number, never negative, but its expected gradient is p - q.

    On policy that is the gradient of the *forward* KL, KL(pi_ref || pi): a mass-covering pull
    where the name promises a mode-seeking one.
    """
    return jnp.expm1(-log_ratio) + log_ratio


KL_ESTIMATORS: dict[str, Callable[[Float[Array, "..."]], Float[Array, "..."]]] = {
    "k1": k1,
    "k2": k2,
    "k3": k3,
}
