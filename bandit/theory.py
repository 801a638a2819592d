"""What calculus says each rule does to the bins, as functions a test and a figure both call.

For a softmax policy p with logits z, one step of gradient descent moves the log-ratio of two bins
by exactly the difference of their logit velocities: log(p_1/p_2) = z_1 - z_2. So statements about
"which bin gains on which" are statements about velocities, and hold for any step size, not just a
small one.

Key to the axes: K bins.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from objectives import reverse_kl
from objectives.hyperparameters import Number

LogProbs = Float[Array, "*batch K"]
Index = int | Int[Array, ""]


def forward_kl_velocity(logp: LogProbs, target_logp: LogProbs) -> LogProbs:
    """-d/dz KL(q || p) = q - p: each logit moves by what its bin lacks. *Mass-covering*.

    Args:
        logp: log p, the policy.
        target_logp: log q, the target.

    Returns:
        Velocity of every logit under unit learning rate.
    """
    return jnp.exp(target_logp) - jnp.exp(logp)


def reverse_kl_velocity(logp: LogProbs, target_logp: LogProbs) -> LogProbs:
    """-d/dz KL(p || q) = -p (log p - log q - KL): only mass moves mass. *Mode-seeking*.

    Args:
        logp: log p, the policy.
        target_logp: log q, the target.

    Returns:
        Velocity of every logit under unit learning rate.
    """
    divergence = reverse_kl(logp, target_logp)[..., None]
    return -jnp.exp(logp) * (logp - target_logp - divergence)


def bin_velocity(logp: LogProbs, logit_velocity: LogProbs) -> LogProbs:
    """dp/dt = p (v - sum p v): how fast probability itself moves when logits move at v.

    Args:
        logp: log p, the policy.
        logit_velocity: v, of every logit.

    Returns:
        Velocities that add up to 0: mass is moved, not made.
    """
    p = jnp.exp(logp)
    return p * (logit_velocity - jnp.sum(p * logit_velocity, axis=-1, keepdims=True))


def log_ratio_velocity(logit_velocity: LogProbs, i: Index, j: Index) -> Float[Array, " *batch"]:
    """d/dt log(p_i / p_j) = v_i - v_j; times the step size, exactly one step's change."""
    return logit_velocity[..., i] - logit_velocity[..., j]


class PairEffect(NamedTuple):
    """What the negative gradient adds to one step on a pair, per unit of step size, to first order.

    Attributes:
        margin: to log pi(y_w) - log pi(y_l), nats.
        chosen: to log pi(y_w), nats.
        rejected: to log pi(y_l), nats.
        gradients_oppose: whether grad log pi(y_w) . grad log pi(y_l) <= 0, the lemma's condition.
    """

    margin: Float[Array, " *batch"]
    chosen: Float[Array, " *batch"]
    rejected: Float[Array, " *batch"]
    gradients_oppose: Bool[Array, " *batch"]


def lemma_6_2(logp: LogProbs, winner: Index, loser: Index, c2: Number = 1.0) -> PairEffect:
    """What -c2 grad log pi(y_l) adds to the update c1 grad log pi(y_w), for a softmax policy.

    With g_y = e_y - p: the margin gains c2 (|g_l|^2 - g_w . g_l) = c2 (1 + p_w - p_l), which is
    positive whatever p is. The winner gains -c2 g_w . g_l = c2 (p_w + p_l - |p|^2): only if the
    gradients oppose each other, that is while |p|^2 <= p_w + p_l. The loser always falls.

    So the lemma's first claim needs no condition here, and its second needs the one it states: on a
    policy concentrated on a *third* response, pushing the loser down pushes the winner down as
    well, and the mass of both goes to the third.

    Args:
        logp: log p, the policy.
        winner: index of y_w.
        loser: index of y_l.
        c2: strength of the negative gradient.

    Source: Lemma 6.2 of Tajwar et al. 2024, arXiv:2404.14367; the closed form is derived here.
    """
    p = jnp.exp(logp)
    concentration = jnp.sum(p**2, axis=-1)
    p_w, p_l = p[..., winner], p[..., loser]
    inner = concentration - p_w - p_l
    return PairEffect(
        margin=c2 * (1 + p_w - p_l),
        chosen=-c2 * inner,
        rejected=-c2 * (1 - 2 * p_l + concentration),
        gradients_oppose=inner <= 0,
    )


def logarithmic_mean(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """(a - b) / log(a / b), between the geometric and the arithmetic mean; a where a = b."""
    a, b = jnp.asarray(a), jnp.asarray(b)
    equal = a == b
    return jnp.where(equal, a, (a - b) / jnp.where(equal, 1, jnp.log(a) - jnp.log(b)))


def theorem_6_5_holds(
    p: Float[Array, "..."], q_1: Float[Array, "..."], q_2: Float[Array, "..."]
) -> Bool[Array, "..."]:
    """When reverse KL parts two equally likely bins faster than forward KL does.

    For p_1 = p_2 = p and q_1 > q_2 the logits part at q_1 - q_2 under forward KL and at p
    log(q_1/q_2) under reverse KL, whatever the other bins are. So reverse KL is faster **iff** p
    exceeds the logarithmic mean of q_1 and q_2: it commits among bins the policy already likes more
    than the target does, and is the slower of the two among bins the policy has yet to discover.

    Args:
        p: probability of either bin under the policy.
        q_1: target probability of the better bin.
        q_2: target probability of the worse bin, below q_1.

    Source: Theorem 6.5 of Tajwar et al. 2024, arXiv:2404.14367, its case p_1 = p_2; the exact
    condition for softmax logits is derived here.
    """
    return p > logarithmic_mean(q_1, q_2)
