"""Weighted maximum likelihood: pull mass towards good responses, and never push.

Every objective here is -w log pi(y): some responses are imitated more than others. Minimising it is
a forward KL to the reweighted data, so the policy covers everything the data contains. The last
class is the exception that the paper makes to study the rule: best-of-N with an explicit term
that pushes the other responses down.
"""

from typing import ClassVar, Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from objectives.advantages import group_mean
from objectives.divergences import log1mexp
from objectives.hyperparameters import (
    Normalize,
    Number,
    require_nonnegative,
    require_one_of,
    require_positive,
)
from objectives.labels import best, differs, worst
from objectives.pytrees import pytree
from objectives.responses import PerToken, Responses, Scored, scored
from objectives.terms import Terms, Weighted

NORMALIZE = ("token", "response", "length")


def per_unit(
    token_value: PerToken,
    batch: Scored,
    normalize: Normalize,
    keep: Bool[Array, "B N"] | None = None,
) -> Weighted:
    """Turn a value per token into a value and a weight per unit.

    Args:
        token_value: 0 where a token is not scored.
        batch: the cleaned batch.
        normalize: ``"token"`` the unit is the token; ``"response"`` the response, its tokens
            summed;
            ``"length"`` the response, its tokens averaged.
        keep: responses that count; all that exist when None.
    """
    keep = batch.exists if keep is None else keep
    if normalize == "token":
        return Weighted(token_value, (batch.mask & keep[..., None]).astype(batch.dtype))
    total = jnp.sum(token_value, axis=-1)
    value = total / batch.length if normalize == "length" else total
    return Weighted(value, keep.astype(batch.dtype))


def imitation(
    batch: Scored,
    normalize: Normalize,
    weight: Float[Array, "B N T"] | Float[Array, "B N 1"] | None = None,
    keep: Bool[Array, "B N"] | None = None,
) -> Terms:
    """-w log pi(y) over the responses to keep: what the whole family shares."""
    nll = -batch.logp if weight is None else -weight * batch.logp
    value, counts = per_unit(nll, batch, normalize, keep)
    kept = (batch.exists if keep is None else keep).astype(batch.dtype)
    metrics = {"logp": Weighted(batch.S, kept), "log_ratio": Weighted(batch.log_ratio, kept)}
    return Terms(value, counts, metrics)


@pytree
class SFT:
    """Imitate every response. *Mass-covering*.

    Value -S per response or -logp per token. What "SFT" means everywhere: the mean over scored
    tokens, hence the default.

    Args:
        normalize: how a response counts.

    Source: maximum likelihood; the baseline of Tajwar et al. 2024, arXiv:2404.14367.
    """

    normalize: Normalize = "token"

    negative_gradient: ClassVar[bool] = False
    mode_seeking: ClassVar[bool] = False
    on_policy: ClassVar[Literal["required", "optional"]] = "optional"
    source: ClassVar[str] = "maximum likelihood"

    def __post_init__(self) -> None:
        require_one_of(self, "normalize", NORMALIZE)

    def __call__(self, logp: PerToken, responses: Responses) -> Terms:
        """Negative log-likelihood of every response, in nats."""
        return imitation(scored(logp, responses), self.normalize)


@pytree
class PrefFT:
    """Imitate the preferred response of each group. *Mass-covering*.

    Value -S of the group's best. A group whose rewards are all equal expresses no preference and
    is left out.

    Args:
        normalize: how a response counts.

    Source: Pref-FT in Tajwar et al. 2024, arXiv:2404.14367, Table 1; Dubois et al. 2023.

    Differs: the authors average over tokens (``normalize="token"``).
    """

    normalize: Normalize = "response"

    negative_gradient: ClassVar[bool] = False
    mode_seeking: ClassVar[bool] = False
    on_policy: ClassVar[Literal["required", "optional"]] = "optional"
    source: ClassVar[str] = "Tajwar et al. 2024, arXiv:2404.14367"

    def __post_init__(self) -> None:
        require_one_of(self, "normalize", NORMALIZE)

    def __call__(self, logp: PerToken, responses: Responses) -> Terms:
        """Negative log-likelihood of each preferred response, in nats."""
        batch = scored(logp, responses)
        preferred = differs(batch.reward, batch.exists)[..., None] & best(
            batch.reward, batch.exists
        )
        return imitation(batch, self.normalize, keep=preferred)


@pytree
class BestOfN:
    """Imitate the best of N responses: RAFT, ReST, rejection sampling. *Mass-covering*.

    As ``PrefFT``, but a group of equal rewards still trains on its first response: sampling N and
    keeping one is a rule for building data, and data are built from every prompt.

    Args:
        normalize: how a response counts.

    Source: Dong et al. 2023, arXiv:2304.06767 (RAFT); Gulcehre et al. 2023, arXiv:2308.08998
    (ReST).
    """

    normalize: Normalize = "response"

    negative_gradient: ClassVar[bool] = False
    mode_seeking: ClassVar[bool] = False
    on_policy: ClassVar[Literal["required", "optional"]] = "optional"
    source: ClassVar[str] = "Dong et al. 2023, arXiv:2304.06767"

    def __post_init__(self) -> None:
        require_one_of(self, "normalize", NORMALIZE)

    def __call__(self, logp: PerToken, responses: Responses) -> Terms:
        """Negative log-likelihood of each group's best response, in nats."""
        batch = scored(logp, responses)
        return imitation(batch, self.normalize, keep=best(batch.reward, batch.exists))


@pytree
class RWR:
    """Reward-weighted regression: imitate with weight exp(reward). *Mass-covering*.

    Value -w S with w = min(exp(r / beta), max_weight). On data from pi_ref the minimiser is
    pi_ref exp(r / beta) normalised: the optimum of KL-regularised RL, reached by a forward KL.

    Args:
        beta: temperature, in units of the reward; smaller is greedier.
        max_weight: cap on the weight; ``inf`` for none.
        normalize: how a response counts.

    Source: Peters and Schaal 2007; the clip from Tajwar et al. 2024, arXiv:2404.14367 (their
    language model code; their bandit code has none, so the bandit's recipes use
    ``max_weight=inf``).
    """

    beta: Number = 1.0
    max_weight: Number = 20.0
    normalize: Normalize = "response"

    negative_gradient: ClassVar[bool] = False
    mode_seeking: ClassVar[bool] = False
    on_policy: ClassVar[Literal["required", "optional"]] = "optional"
    source: ClassVar[str] = "Peters & Schaal 2007, doi:10.1145/1273496.1273590"

    def __post_init__(self) -> None:
        require_positive(self, "beta", "max_weight")
        require_one_of(self, "normalize", NORMALIZE)

    def __call__(self, logp: PerToken, responses: Responses) -> Terms:
        """Weighted negative log-likelihood."""
        batch = scored(logp, responses)
        weight = jnp.minimum(jnp.exp(batch.reward / self.beta), self.max_weight)
        return imitation(batch, self.normalize, weight=weight[..., None].astype(batch.dtype))


@pytree
class AWR:
    """Advantage-weighted regression: imitate with weight exp(advantage). *Mass-covering*.

    Value -w S with w = min(exp(A / beta), max_weight). A below-average response is imitated less,
    but it is never pushed down. An advantage that differs by token weights each token by its own.

    Args:
        beta: temperature, in units of the reward; smaller is greedier.
        max_weight: cap on the weight; ``inf`` for none.
        normalize: how a response counts.

    Source: Peng et al. 2019, arXiv:1910.00177.

    Differs: without ``responses.advantage``, A is the reward minus its group's mean instead of a
    learned critic's estimate.
    """

    beta: Number = 1.0
    max_weight: Number = 20.0
    normalize: Normalize = "response"

    negative_gradient: ClassVar[bool] = False
    mode_seeking: ClassVar[bool] = False
    on_policy: ClassVar[Literal["required", "optional"]] = "optional"
    source: ClassVar[str] = "Peng et al. 2019, arXiv:1910.00177"

    def __post_init__(self) -> None:
        require_positive(self, "beta", "max_weight")
        require_one_of(self, "normalize", NORMALIZE)

    def __call__(self, logp: PerToken, responses: Responses) -> Terms:
        """Weighted negative log-likelihood."""
        batch = scored(logp, responses)
        advantage = batch.advantage
        if advantage is None:
            advantage = group_mean(batch.reward, batch.exists)[..., None]
        weight = jnp.minimum(jnp.exp(advantage / self.beta), self.max_weight)
        return imitation(batch, self.normalize, weight=weight.astype(batch.dtype))


@pytree
class UnlikelihoodBestOfN:
    """Best-of-N that also pushes the other responses down. *Mode-seeking* by its negative term.

    Value -S_best + beta * push, one unit per group with two different rewards, where push is the
    mean (``"mean"``) or the sum (``"sum"``) of the others' S, the worst one's S (``"worst"``), or
    minus the sum of log(1 - exp(min(S, -1e-6))) over the others (``"complement"``, the only one
    that is bounded below in the probability it pushes).

    Args:
        beta: strength of the push, relative to the pull.
        against: which responses are pushed down.

    Source: the explicit negative-gradient ablations of Tajwar et al. 2024, arXiv:2404.14367;
    unlikelihood from Welleck et al. 2020, arXiv:1908.04319.

    Differs: the authors drop responses less than 1% as likely as the best in one of two worlds, and
    subtract reference log-probabilities that have no gradient in another; neither is done here.
    """

    beta: Number = 0.05
    against: Literal["mean", "worst", "sum", "complement"] = "mean"

    negative_gradient: ClassVar[bool] = True
    mode_seeking: ClassVar[bool] = True
    on_policy: ClassVar[Literal["required", "optional"]] = "optional"
    source: ClassVar[str] = "Tajwar et al. 2024, arXiv:2404.14367"

    def __post_init__(self) -> None:
        require_nonnegative(self, "beta")
        require_one_of(self, "against", ("mean", "worst", "sum", "complement"))

    def __call__(self, logp: PerToken, responses: Responses) -> Terms:
        """Pull of the best plus push of the others, in nats."""
        batch = scored(logp, responses)
        chosen = best(batch.reward, batch.exists)
        others = batch.exists & ~chosen
        if self.against == "worst":
            others = worst(batch.reward, batch.exists)
        if self.against == "complement":
            push = -jnp.sum(jnp.where(others, log1mexp(batch.S), 0), axis=-1)
        else:
            push = jnp.sum(jnp.where(others, batch.S, 0), axis=-1)
        if self.against == "mean":
            push = push / jnp.maximum(jnp.sum(others, axis=-1), 1)
        pull = jnp.sum(jnp.where(chosen, batch.S, 0), axis=-1)
        groups = differs(batch.reward, batch.exists)
        metrics = {
            "chosen_log_ratio": Weighted(
                batch.log_ratio, (chosen & groups[..., None]).astype(batch.dtype)
            ),
            "rejected_log_ratio": Weighted(
                batch.log_ratio, (others & groups[..., None]).astype(batch.dtype)
            ),
        }
        return Terms(-pull + self.beta * push, groups.astype(batch.dtype), metrics)
