"""The batch every objective sees: B prompts x N responses per prompt x T token positions.

A labelled preference pair is a group of two responses with rewards (1, 0). A bandit action is a
response of one token. Nothing in ``Responses`` carries a gradient; only the policy's own ``logp``,
which is handed to the objective beside it, does.

Key to the axes: B prompts, N responses per prompt, T token positions.
"""

from typing import ClassVar, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from objectives.pytrees import pytree
from objectives.terms import Terms

PerToken = Float[Array, "B N T"]
PerResponse = Float[Array, "B N"]


@pytree
class Responses:
    """A group of responses for each prompt, with everything about them that is constant.

    Attributes:
        mask: True where the position is part of the response and is scored.
        reward: higher is better.
        ref_logp: log pi_ref(y_t | x, y_<t) in nats; anything where ``mask`` is False.
        old_logp: log-probability, in nats, under the distribution that really drew y_t.
        advantage: filled by an estimator of ``objectives.advantages`` where the objective needs
            one; ``[B, N, 1]`` where the estimator is per response.
        valid: False for the padding of ragged groups; None means that every response is real.
    """

    mask: Bool[Array, "B N T"]
    reward: PerResponse
    ref_logp: PerToken
    old_logp: PerToken
    advantage: PerToken | Float[Array, "B N 1"] | None = None
    valid: Bool[Array, "B N"] | None = None

    @property
    def exists(self) -> Bool[Array, "B N"]:
        """A response exists if it is valid and at least one of its tokens is scored."""
        scored = jnp.any(self.mask, axis=-1)
        return scored if self.valid is None else scored & self.valid


class Objective(Protocol):
    """What every objective is: a frozen value that turns log-probabilities into ``Terms``.

    Attributes:
        negative_gradient: whether it pushes the probability of some responses down explicitly.
        mode_seeking: whether it concentrates mass on a mode (True) or covers all of them (False).
        on_policy: whether responses must come from the policy being trained.
        source: where the objective was published.
    """

    negative_gradient: ClassVar[bool]
    mode_seeking: ClassVar[bool]
    on_policy: ClassVar[Literal["required", "optional"]]
    source: ClassVar[str]

    def __call__(self, logp: PerToken, responses: Responses) -> Terms:
        """Per-unit losses of ``responses`` under a policy with token log-probabilities ``logp``."""
        ...


class Scored(NamedTuple):
    """A batch with everything that is not scored set to 0, and the sums objectives are made of.

    ``m`` below is ``mask AND valid``. Values where ``m`` is False have been replaced before any
    arithmetic, so not even a NaN there reaches a value or a gradient.

    Attributes:
        mask: m.
        logp: the policy's token log-probabilities, the only array that carries a gradient.
        ref_logp: the reference's.
        old_logp: those of the distribution that drew the tokens.
        exists: which responses are there at all.
        reward: of each response, in its own precision so that ties stay ties.
        advantage: per token or per response; None if no estimator has filled it.
        length: L, the number of scored tokens, but 1 where there is none: safe to divide by.
        S: sum_t m logp, the response's log-probability in nats.
        S_ref: the same under the reference.
        S_old: the same under the distribution that drew the response.
    """

    mask: Bool[Array, "B N T"]
    logp: PerToken
    ref_logp: PerToken
    old_logp: PerToken
    exists: Bool[Array, "B N"]
    reward: PerResponse
    advantage: PerToken | Float[Array, "B N 1"] | None
    length: PerResponse
    S: PerResponse
    S_ref: PerResponse
    S_old: PerResponse

    @property
    def log_ratio(self) -> PerResponse:
        """D = S - S_ref, in nats: how much likelier than under the reference the response is."""
        return self.S - self.S_ref

    @property
    def dtype(self) -> jnp.dtype:
        """The precision of the results."""
        return self.logp.dtype


def scored(logp: PerToken, responses: Responses) -> Scored:
    """Clean a batch and add up its tokens.

    Args:
        logp: log pi(y_t | x, y_<t) of the policy in nats; anything where a position is not scored.
        responses: the batch; a constant for the gradient, whatever its arrays were made from.

    Returns:
        The batch in the precision of ``logp``, at least float32.

    Raises:
        ValueError: if ``logp`` and the batch differ in shape.
    """
    if jnp.shape(logp) != jnp.shape(responses.mask):
        raise ValueError(
            f"logp has shape {jnp.shape(logp)} but responses.mask has {jnp.shape(responses.mask)}; "
            "both must be [B, N, T]."
        )
    responses = jax.lax.stop_gradient(responses)
    dtype = jnp.promote_types(jnp.result_type(logp), jnp.float32)
    exists = responses.exists
    mask = responses.mask & exists[..., None]

    def tokens(x: Float[Array, "..."]) -> Float[Array, "..."]:
        seen = mask if jnp.shape(x) == mask.shape else exists[..., None]
        return jnp.where(seen, jnp.asarray(x, dtype), 0)

    reward = jnp.asarray(responses.reward)
    reward = reward.astype(jnp.promote_types(reward.dtype, jnp.float32))
    policy, ref, old = tokens(logp), tokens(responses.ref_logp), tokens(responses.old_logp)
    return Scored(
        mask=mask,
        logp=policy,
        ref_logp=ref,
        old_logp=old,
        exists=exists,
        reward=jnp.where(exists, reward, 0),
        advantage=None if responses.advantage is None else tokens(responses.advantage),
        length=jnp.maximum(jnp.sum(mask, axis=-1), 1).astype(dtype),
        S=jnp.sum(policy, axis=-1),
        S_ref=jnp.sum(ref, axis=-1),
        S_old=jnp.sum(old, axis=-1),
    )
