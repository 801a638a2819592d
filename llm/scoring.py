"""From a packed batch to what an objective sees: log-probabilities as [B, N, T].

A row of tokens holds whole groups, each prompt once with its responses branching off it. One pass
of the decoder gives a hidden state per position; the log-prob primitive reads only those that
predict a scored token; one scatter puts each number in its place. After that a language model is a
bandit with long actions, and the objectives do not know the difference.

Key to the axes: R rows, S positions, B prompts, N responses, T response tokens, P scored tokens.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from llm.data.packing import Batch
from llm.logprobs import token_logprobs
from llm.model import ActorCritic, Decoder, RewardModel
from llm.sampler.draws import Rule
from objectives.responses import PerToken, Responses

UNTOUCHED = Rule()
"""Draws from the distribution that the model itself gives."""


class Scores(NamedTuple):
    """What one pass over a batch says about every scored token; 0 where nothing is scored.

    Attributes:
        logp: log pi(y_t | x, y_<t), nats, of the distribution that a rule draws from.
        ref_logp: the reference's, nats; None where no reference model was given.
        entropy: of the policy's next-token distribution, nats; None if not asked for.
        forward_kl: KL(pi_ref || pi) of the next-token distributions, exact, nats; None without a
            reference model.
        reverse_kl: KL(pi || pi_ref), likewise.
        value: the critic's value of the state the token is written in, in units of the reward; None
            without a critic.
    """

    logp: PerToken
    ref_logp: PerToken | None = None
    entropy: PerToken | None = None
    forward_kl: PerToken | None = None
    reverse_kl: PerToken | None = None
    value: PerToken | None = None


def score(
    model: Decoder | ActorCritic,
    batch: Batch,
    *,
    rule: Rule = UNTOUCHED,
    reference: Decoder | None = None,
    entropy: bool = False,
    mesh: jax.sharding.Mesh | None = None,
) -> Scores:
    """Score every response of a batch.

    The distributions are those the sampler draws from, so that what is trained is what is sampled.
    After temperature, that is, and for log-probabilities and entropy after truncation too, each
    model's by its own logits; the divergences are those of the tempered distributions, since of
    truncated ones they may be infinite.

    Args:
        model: the policy, and its critic where it has one; the only thing a gradient flows to.
        batch: packed groups.
        rule: how tokens are drawn from logits; those of the model itself by default.
        reference: a frozen model to compare with, token by token and exactly; the decoder itself
            stands for its own base, without LoRA adapters.
        entropy: whether to compute the entropy too.
        mesh: the devices the model is spread over.

    Returns:
        Float32 numbers in nats; values in units of the reward.

    Raises:
        ValueError: if the rule is greedy, which no gradient passes, or truncates a vocabulary that
            is spread over devices.
    """
    shape = batch.mask.shape
    decoder = model.decoder if isinstance(model, ActorCritic) else model
    hidden = flat_hidden(decoder, batch)
    softcap = decoder.architecture.logits_softcap
    against = None
    if reference is not None:
        against = jax.lax.stop_gradient(
            (flat_hidden(reference, batch, adapters=False), reference.output_matrix)
        )
    found = token_logprobs(
        hidden,
        decoder.output_matrix,
        *arrays(batch.source, batch.target, batch.count),
        temperature=rule.temperature,
        top_k=rule.top_k,
        top_p=rule.top_p,
        softcap=softcap,
        reference=against,
        entropy=entropy,
        mesh=mesh,
    )

    def placed(values: Float[Array, "P"] | None) -> PerToken | None:
        return None if values is None else scatter(values, batch, shape)

    value = values_at(model, hidden, batch) if isinstance(model, ActorCritic) else None
    return Scores(
        scatter(found.logp, batch, shape),
        placed(found.ref_logp),
        placed(found.entropy),
        placed(found.forward_kl),
        placed(found.reverse_kl),
        placed(value),
    )


def values_at(model: ActorCritic, hidden: Float[Array, "M D"], batch: Batch) -> Float[Array, " P"]:
    """The critic's value of the state that each scored token is written in."""
    source, count = arrays(batch.source, batch.count)
    shards = count.shape[0]
    # Sources are counted from the start of their shard.
    everywhere = model.value(hidden).reshape(shards, -1)
    return jnp.take_along_axis(everywhere, source.reshape(shards, -1), axis=1).reshape(-1)


def flat_hidden(decoder: Decoder, batch: Batch, adapters: bool = True) -> Float[Array, "M D"]:
    """Hidden states of all positions, rows one after the other."""
    hidden = decoder(*layout(batch), adapters=adapters)
    return hidden.reshape(-1, hidden.shape[-1])


def layout(batch: Batch) -> list[Array]:
    """What a decoder reads: tokens, positions, segments, branches."""
    return arrays(batch.tokens, batch.positions, batch.segments, batch.branches)


def arrays(*values: Array | np.ndarray) -> list[Array]:
    """JAX arrays of what may be NumPy's; under jit they are already, and this costs nothing."""
    return [jnp.asarray(value) for value in values]


def scatter(values: Float[Array, "P"], batch: Batch, shape: tuple[int, ...]) -> PerToken:
    """Put the number of every scored token in its place; padding points outside and is dropped."""
    size = shape[0] * shape[1] * shape[2]
    return jnp.zeros(size, values.dtype).at[batch.slot].set(values, mode="drop").reshape(shape)


def as_responses(batch: Batch, ref_logp: PerToken | None) -> Responses:
    """The constants of a batch as an objective wants them.

    Args:
        batch: packed groups. Where it does not say which distribution drew its tokens, the
            reference is taken to have.
        ref_logp: the reference's log-probabilities, nats; zeros stand in where there is none, for
            objectives that do not read them.
    """
    mask, reward, valid = arrays(batch.mask, batch.reward, batch.valid)
    ref = jnp.zeros(mask.shape, jnp.float32) if ref_logp is None else ref_logp
    old = ref if batch.old_logp is None else jnp.asarray(batch.old_logp)
    advantage = None if batch.advantage is None else jnp.asarray(batch.advantage)
    return Responses(mask, reward, ref, old, advantage, valid)


def score_rewards(model: RewardModel, batch: Batch) -> tuple[PerToken, Responses]:
    """A reward model's scores in the place of log-probabilities: one "token" per response.

    Under an objective of differences, such as ``CPO(beta=1, reg=0)``, this is Bradley-Terry:
    -log sigmoid(score_w - score_l).

    Args:
        model: the reward model.
        batch: packed groups.

    Returns:
        Scores as [B, N, 1], and the batch as the objective wants it, with a reference of 0.
    """
    last, mask, reward, valid = arrays(batch.last, batch.mask, batch.reward, batch.valid)
    scores = model(*layout(batch), at=last.reshape(-1)).reshape(reward.shape)[..., None]
    zero = jnp.zeros_like(scores)
    exists = valid & jnp.any(mask, axis=-1)
    return scores, Responses(exists[..., None], reward, zero, zero, valid=valid)
