"""What a block of logits says about its tokens, also when nobody holds the whole vocabulary.

Log-probability, entropy and the two KL divergences are sums over a vocabulary that may be spread
over devices. Each device computes them as if its slice were everything, and the slices are joined
by the chain rule: the entropy of *which slice*, plus the entropy *within* it, and the same for a
KL. So devices exchange a few numbers per token, once, and the loop over chunks needs none of them
to wait. Two logits of the same token are compared only after the largest of each has been taken
off, which leaves no small difference of large numbers.

A sampler may draw from fewer words than there are. What is trained is what is sampled: the words
that a rule excludes have no probability here either, and the others share what is left.

Key to the axes: C tokens of a chunk, V words of a slice of the vocabulary, P scored tokens.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from llm.sampler.draws import Rule, truncated

VOCABULARY = "tensor"
"""Axis of the mesh that the vocabulary is spread over."""

Block = Float[Array, "C V"]
PerToken = Float[Array, "C"]


class TokenStatistics(NamedTuple):
    """What one scored token is worth, in nats, float32; 0 beyond ``count``.

    Attributes:
        logp: log pi(target).
        entropy: of the distribution the target was drawn from.
        forward_kl: KL(reference || policy) of that distribution before any truncation, after which
            it could be infinite. *Mass-covering* if minimised.
        reverse_kl: KL(policy || reference), likewise. *Mode-seeking* if minimised.
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
        drawn_lse: the policy's over the words that can be drawn, where not all can.
    """

    lse: Float[Array, "P"]
    ref_lse: Float[Array, "P"] | None = None
    drawn_lse: Float[Array, "P"] | None = None


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

    def among(self, words: Bool[Array, "C V"]) -> "Relative":
        """The same logits where only some words can be drawn."""
        weight = jnp.where(words, self.weight, 0)
        return self._replace(weight=weight, total=jnp.sum(weight, axis=1))

    def drawable(self, target: Int[Array, "C"], rule: Rule) -> Bool[Array, "C V"]:
        """The words that a rule keeps, and the target: it was drawn when the logits were others."""
        kept = truncated(self.weight.astype(jnp.float32), rule) > 0
        return kept | (target[:, None] == jnp.arange(self.z.shape[1])[None, :])


def relative(logits: Block) -> Relative:
    """Logits prepared for sums that neither overflow nor cancel."""
    top = jnp.max(logits, axis=1)
    z = logits - top[:, None]
    weight = jnp.exp(z)
    return Relative(z, weight, jnp.sum(weight, axis=1), top)


def within_slice(
    logits: Block,
    ref_logits: Block | None,
    word: Int[Array, "C"],
    *,
    entropy: bool,
    rule: Rule | None = None,
) -> tuple[TokenStatistics, Normalisers]:
    """Statistics of a chunk as if this slice of the vocabulary were all of it.

    Args:
        logits: the policy's.
        ref_logits: the reference's, or None.
        word: the target, counted from the first word of the slice.
        entropy: whether it is asked for.
        rule: which words can be drawn; None for all.
    """
    p = relative(logits)
    drawn = p if rule is None else p.among(p.drawable(word, rule))
    found = TokenStatistics(drawn.logp(word))
    if entropy:
        found = found._replace(entropy=drawn.norm - drawn.mean(drawn.z))
    normalisers = Normalisers(p.norm + p.top)
    if rule is not None:
        normalisers = normalisers._replace(drawn_lse=drawn.norm + p.top)
    if ref_logits is None:
        return found, normalisers
    q = relative(ref_logits)
    # Equal logits are at no distance, though their sums may have been added up in another order.
    equal = jnp.all(p.z == q.z, axis=1)
    q = q._replace(total=jnp.where(equal, p.total, q.total))
    ref_drawn = q
    if rule is not None:
        ref_drawn = q.among(q.drawable(word, rule))
        ref_drawn = ref_drawn._replace(total=jnp.where(equal, drawn.total, ref_drawn.total))
    found = found._replace(
        forward_kl=q.mean(q.z - p.z) - q.norm + p.norm,
        reverse_kl=p.mean(p.z - q.z) - p.norm + q.norm,
        ref_logp=ref_drawn.logp(word),
    )
    return found, normalisers._replace(ref_lse=q.norm + q.top)


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


class Drawn(NamedTuple):
    """The distribution the targets were drawn from, as the gradient needs it.

    Attributes:
        logp: log-probabilities; for a word that cannot be drawn a number that is finite.
        p: probabilities.
    """

    logp: Block
    p: Block


def drawn_from(
    logits: Block, word: Int[Array, "C"], lse: Float[Array, "C"], rule: Rule | None
) -> Drawn:
    """The distribution over a slice, given the normaliser of the words that can be drawn."""
    logp = logits - lse[:, None]
    p = jnp.exp(logp)
    if rule is not None:
        p = jnp.where(relative(logits).drawable(word, rule), p, 0)
    return Drawn(logp, p)


def logit_cotangent(
    drawn: Drawn,
    logp: Block,
    ref_logp: Block | None,
    word: Int[Array, "C"],
    found: TokenStatistics,
    arriving: TokenStatistics,
) -> Block:
    """Gradient of the statistics in the logits, each weighted by what arrives for it.

    With p the policy, q the reference, H the entropy and R the reverse KL:
    d logp = 1[target] - p, dH = -p (log p + H), d forward_kl = p - q, and
    d reverse_kl = p (log p - log q - R). Each holds slice by slice. In the first two, p is what is
    left of the policy after truncation; which words that leaves is a constant.

    Args:
        drawn: the distribution the targets were drawn from, over the slice.
        logp: log-probabilities over the slice, normalised over the whole vocabulary.
        ref_logp: the reference's; only if a gradient of a KL arrives.
        word: the target, counted from the first word of the slice.
        found: the statistics themselves.
        arriving: a weight per token, None for a statistic that nobody differentiates.
    """
    dz = jnp.zeros_like(logp)
    if arriving.logp is not None:
        hit = word[:, None] == jnp.arange(logp.shape[1])[None, :]
        dz = dz + arriving.logp[:, None] * (hit - drawn.p)
    if arriving.entropy is not None and found.entropy is not None:
        excess = drawn.logp + found.entropy[:, None]
        dz = dz - arriving.entropy[:, None] * drawn.p * excess
    if arriving.forward_kl is not None and ref_logp is not None:
        dz = dz + arriving.forward_kl[:, None] * (jnp.exp(logp) - jnp.exp(ref_logp))
    if arriving.reverse_kl is not None and found.reverse_kl is not None and ref_logp is not None:
        excess = logp - ref_logp - found.reverse_kl[:, None]
        dz = dz + arriving.reverse_kl[:, None] * jnp.exp(logp) * excess
    return dz
