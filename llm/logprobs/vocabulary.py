"""What a block of logits says about its tokens, also when nobody holds the whole vocabulary.

Log-probability, entropy and the two KL divergences are sums over a vocabulary that may be spread
over devices. Each device computes them as if its slice were everything, and the slices are joined
by the chain rule: the entropy of *which slice*, plus the entropy *within* it, and the same for a
KL. So devices exchange a few numbers per token, once, and the loop over chunks needs none of them
to wait. Two logits of the same token are compared only after the largest of each has been taken
off, which leaves no small difference of large numbers.

Key to the axes: C tokens of a chunk, V words of a slice of the vocabulary, P scored tokens.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

VOCABULARY = "tensor"
"""Axis of the mesh that the vocabulary is spread over."""

Block = Float[Array, "C V"]
PerToken = Float[Array, "C"]


class TokenStatistics(NamedTuple):
    """What one scored token is worth, in nats, float32; 0 beyond ``count``.

    Attributes:
        logp: log pi(target).
        entropy: of the distribution the target was drawn from.
        forward_kl: KL(reference || policy) of that distribution. *Mass-covering* if minimised.
        reverse_kl: KL(policy || reference). *Mode-seeking* if minimised.
        ref_logp: the reference's log-probability of the target.
    """

    logp: Float[Array, "P"]
    entropy: Float[Array, "P"] | None = None
    forward_kl: Float[Array, "P"] | None = None
    reverse_kl: Float[Array, "P"] | None = None
    ref_logp: Float[Array, "P"] | None = None


class Normalisers(NamedTuple):
    """Log of the sum of exponentials of every token's logits: turns logits to log-probabilities.

    Attributes:
        lse: the policy's.
        ref_lse: the reference's.
    """

    lse: Float[Array, "P"]
    ref_lse: Float[Array, "P"] | None = None


def wide(x: Array) -> jnp.dtype:
    """The dtype sums are kept in: float32, or float64 where the input is."""
    return jnp.promote_types(x.dtype, jnp.float32)


def product(
    x: Float[Array, "_ _"], y: Float[Array, "_ _"], over: tuple[int, int]
) -> Float[Array, "_ _"]:
    """Matrix product over one axis of each, summed in float32 at least."""
    axes = (((over[0],), (over[1],)), ((), ()))
    return lax.dot_general(x, y, axes, preferred_element_type=wide(x))


def logits(
    hidden: Float[Array, "C D"],
    matrix: Float[Array, "V D"],
    scale: Float[Array, ""],
    softcap: float | None,
) -> tuple[Block, Block | Float[Array, ""]]:
    """softcap(hidden @ matrix.T) * scale, and its derivative in the matrix product.

    Args:
        hidden: states of a chunk.
        matrix: this slice of the output matrix.
        scale: one over the temperature.
        softcap: c of softcap(x) = c tanh(x / c); None for the identity.
    """
    z = product(hidden, matrix, (1, 1))
    if softcap is None:
        return z * scale, scale
    bounded = jnp.tanh(z / softcap)
    return bounded * (softcap * scale), (1 - bounded**2) * scale


class Relative(NamedTuple):
    """Logits of a chunk relative to the largest, their exponentials, and the sum of those."""

    z: Block
    weight: Block
    total: PerToken
    top: PerToken

    @property
    def norm(self) -> PerToken:
        """Log of the sum of exponentials of the relative logits."""
        return jnp.log(self.total)

    def mean(self, values: Block) -> PerToken:
        """Expectation under the softmax of the logits."""
        return jnp.sum(self.weight * values, axis=1) / self.total

    def logp(self, word: Int[Array, "C"]) -> PerToken:
        """Log-probability of each token's word; -inf for a word outside the slice."""
        inside = (word >= 0) & (word < self.z.shape[1])
        column = jnp.where(inside, word, 0)[:, None]
        z = jnp.take_along_axis(self.z, column, axis=1)[:, 0]
        return jnp.where(inside, z - self.norm, -jnp.inf)


def relative(logits: Block) -> Relative:
    """Logits prepared for sums that neither overflow nor cancel."""
    top = jnp.max(logits, axis=1)
    z = logits - top[:, None]
    weight = jnp.exp(z)
    return Relative(z, weight, jnp.sum(weight, axis=1), top)


def within_slice(
    logits: Block, ref_logits: Block | None, word: Int[Array, "C"], *, entropy: bool
) -> tuple[TokenStatistics, Normalisers]:
    """Statistics of a chunk as if this slice of the vocabulary were all of it.

    Args:
        logits: the policy's.
        ref_logits: the reference's, or None.
        word: the target, counted from the first word of the slice.
        entropy: whether it is asked for.
    """
    p = relative(logits)
    found = TokenStatistics(p.logp(word))
    if entropy:
        found = found._replace(entropy=p.norm - p.mean(p.z))
    if ref_logits is None:
        return found, Normalisers(p.norm + p.top)
    q = relative(ref_logits)
    found = found._replace(
        forward_kl=q.mean(q.z - p.z) - q.norm + p.norm,
        reverse_kl=p.mean(p.z - q.z) - p.norm + q.norm,
        ref_logp=q.logp(word),
    )
    return found, Normalisers(p.norm + p.top, q.norm + q.top)


def across_slices(
    found: TokenStatistics, normalisers: Normalisers
) -> tuple[TokenStatistics, Normalisers]:
    """Join what each device found within its slice; call it where the axis ``tensor`` is mapped.

    With w the probability of a slice, the entropy is sum w (entropy within - log w), and
    KL(p || q) is sum w_p (KL within + log w_p - log w_q).
    """
    lse, log_w = joined(normalisers.lse)
    ref_lse, log_v = None, log_w
    if normalisers.ref_lse is not None:
        ref_lse, log_v = joined(normalisers.ref_lse)

    def chained(within: Array | None, log_weight: Array, between: Array) -> Array | None:
        return (
            None
            if within is None
            else lax.psum(jnp.exp(log_weight) * (within + between), VOCABULARY)
        )

    whole = TokenStatistics(
        logp=lax.pmax(found.logp + log_w, VOCABULARY),
        entropy=chained(found.entropy, log_w, -log_w),
        forward_kl=chained(found.forward_kl, log_v, log_v - log_w),
        reverse_kl=chained(found.reverse_kl, log_w, log_w - log_v),
        ref_logp=None if found.ref_logp is None else lax.pmax(found.ref_logp + log_v, VOCABULARY),
    )
    return whole, Normalisers(lse, ref_lse)


def joined(lse: Float[Array, "P"]) -> tuple[Float[Array, "P"], Float[Array, "P"]]:
    """The normaliser of the whole vocabulary, and the log-probability of this slice of it."""
    top = lax.pmax(lse, VOCABULARY)
    whole = top + jnp.log(lax.psum(jnp.exp(lse - top), VOCABULARY))
    return whole, lse - whole


def logit_cotangent(
    logp: Block,
    ref_logp: Block | None,
    word: Int[Array, "C"],
    found: TokenStatistics,
    arriving: TokenStatistics,
) -> Block:
    """Gradient of the statistics in the logits, each weighted by what arrives for it.

    With p the policy, q the reference, H the entropy and R the reverse KL:
    d logp = 1[target] - p, dH = -p (log p + H), d forward_kl = p - q, and
    d reverse_kl = p (log p - log q - R). Each holds slice by slice.

    Args:
        logp: log-probabilities over the slice, normalised over the whole vocabulary.
        ref_logp: the reference's; only if a gradient of a KL arrives.
        word: the target, counted from the first word of the slice.
        found: the statistics themselves.
        arriving: a weight per token, None for a statistic that nobody differentiates.
    """
    p = jnp.exp(logp)
    dz = jnp.zeros_like(logp)
    if arriving.logp is not None:
        hit = word[:, None] == jnp.arange(logp.shape[1])[None, :]
        dz = dz + arriving.logp[:, None] * (hit - p)
    if arriving.entropy is not None and found.entropy is not None:
        dz = dz - arriving.entropy[:, None] * p * (logp + found.entropy[:, None])
    if arriving.forward_kl is not None and ref_logp is not None:
        dz = dz + arriving.forward_kl[:, None] * (p - jnp.exp(ref_logp))
    if arriving.reverse_kl is not None and found.reverse_kl is not None and ref_logp is not None:
        excess = logp - ref_logp - found.reverse_kl[:, None]
        dz = dz + arriving.reverse_kl[:, None] * p * excess
    return dz
