"""The critic's share of a step: values move towards the returns, but not far at a time.

PPO's critic learns by regression on the returns of generalised advantage estimation. As the
policy's ratio is clipped, so is the value's move away from what it was when the responses were
written; of the clipped and the plain error the larger counts. The loss is one number per token and
joins the policy's, unit by unit, so micro-batches still add up exactly.

Key to the axes: B prompts, N responses, T response tokens.
"""

from dataclasses import replace

import jax.numpy as jnp
from jaxtyping import Array, Float

from llm.data.packing import Batch
from llm.settings import CriticSettings
from objectives.hyperparameters import Number
from objectives.responses import PerToken
from objectives.terms import Terms, Weighted


def value_loss(
    value: PerToken,
    old_value: PerToken,
    returns: PerToken,
    clip: Number,
) -> PerToken:
    """max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2) / 2, per token.

    Args:
        value: of the critic, in units of the reward; the only argument to take a gradient from.
        old_value: what it was when the responses were written.
        returns: what it is to come to.
        clip: c, in units of the reward.

    Returns:
        In units of the reward squared.

    Source: Ziegler et al. 2019, arXiv:1909.08593, and its code; c = 0.2 as in the paper's.
    """
    near = jnp.clip(value, old_value - clip, old_value + clip)
    return 0.5 * jnp.maximum((value - returns) ** 2, (near - returns) ** 2)


def with_value_loss(
    terms: Terms,
    value: PerToken,
    batch: Batch,
    counted: Float[Array, "B N T"],
    settings: CriticSettings,
) -> Terms:
    """An objective's terms with the critic's loss on every token.

    Args:
        terms: of the objective, one per token.
        value: of the critic, with its gradient.
        batch: with ``old_value`` and ``returns``.
        counted: 1 for a token that is scored, else 0.
        settings: coefficient and clip are read here.

    Returns:
        The terms, and with them plain means over tokens. From ``value``, ``return``,
        ``value_error`` = (V - R)^2 and ``return_square`` follows how much of the returns' variance
        the critic explains: 1 - (value_error - (value - return)^2) / (return_square - return^2).

    Raises:
        ValueError: if the objective's unit is not the token, or the batch lacks what a critic
            learns from.
    """
    if batch.old_value is None or batch.returns is None:
        raise ValueError(
            "the batch has no old_value or no returns, from which a critic learns; estimate them "
            "with objectives.advantages.gae when the responses are written."
        )
    if terms.value.shape != counted.shape:
        raise ValueError(
            f"the objective's terms have the shape {terms.value.shape}, and a critic's loss is one "
            f"number per token, {counted.shape}; give a critic to an objective whose unit is the "
            'token, such as PPO(normalize="token").'
        )
    old_value, returns = jnp.asarray(batch.old_value), jnp.asarray(batch.returns)
    loss = jnp.where(counted > 0, value_loss(value, old_value, returns, settings.clip), 0)
    metrics = {
        "value_loss": loss,
        "value": value,
        "return": returns,
        "value_error": (value - returns) ** 2,
        "return_square": returns**2,
    }
    return replace(
        terms,
        value=terms.value + settings.coefficient * loss,
        metrics=terms.metrics | {name: Weighted(x, counted) for name, x in metrics.items()},
    )
