"""Contrastive objectives: widen the gap between a preferred and a dispreferred response.

A pair (w, l) is pulled apart: w up, l down. The second half is the negative gradient, and it is
what lets offline learning leave the region the data came from. Nothing says where the mass taken
from l must go: with too little capacity both log-ratios fall while the gap still grows.

Write D = log pi(y) - log pi_ref(y), S = log pi(y), L its number of tokens, d = D_w - D_l,
s(x) = sigmoid. Key to the axes: B prompts, N responses per prompt; a pair sits at [b, w, l].
"""

from typing import ClassVar, Literal

import jax.numpy as jnp
from jax import lax
from jax.nn import log_sigmoid, sigmoid
from jaxtyping import Array, Bool, Float

from objectives.advantages import masked_mean
from objectives.divergences import log1mexp
from objectives.hyperparameters import (
    Number,
    PairRule,
    require,
    require_nonnegative,
    require_number,
    require_one_of,
    require_positive,
)
from objectives.labels import differs, pairs
from objectives.pytrees import pytree
from objectives.responses import PerResponse, PerToken, Responses, Scored, scored
from objectives.terms import Terms, Weighted

PerPair = Float[Array, "B N N"]
PAIR_RULES = ("all", "best_vs_worst")


def winner(x: PerResponse) -> Float[Array, "B N 1"]:
    """A quantity of the preferred response, so that ``winner(x) - loser(x)`` is per pair."""
    return x[..., :, None]


def loser(x: PerResponse) -> Float[Array, "B 1 N"]:
    """A quantity of the dispreferred response."""
    return x[..., None, :]


def gap(x: PerResponse) -> PerPair:
    """x_w - x_l of every pair."""
    return winner(x) - loser(x)


def per_pair(
    batch: Scored, value: PerPair, margin: PerPair, rule: PairRule, threshold: Number
) -> Terms:
    """One unit of weight 1 per preference pair, with the family's metrics.

    Args:
        batch: the cleaned batch.
        value: loss of every pair.
        margin: what the loss wants to be large.
        rule: which pairs count.
        threshold: least difference in reward.
    """
    weight = pairs(batch.reward, batch.exists, rule, threshold).astype(batch.dtype)
    ratio, zeros = batch.log_ratio, jnp.zeros_like(margin)
    metrics = {
        "margin": Weighted(margin, weight),
        "accuracy": Weighted((margin > 0).astype(batch.dtype), weight),
        "chosen_log_ratio": Weighted(winner(ratio) + zeros, weight),
        "rejected_log_ratio": Weighted(loser(ratio) + zeros, weight),
    }
    return Terms(value, weight, metrics)


@pytree
class DPO:
    """Direct preference optimisation. *Mode-seeking*.

    Value -(1-e) log s(beta d) - e log s(-beta d); ``robust=True`` is the unbiased estimate under
    labels flipped with probability e: [-(1-e) log s(beta d) + e log s(-beta d)] / (1 - 2e).

    Args:
        beta: strength of the implied KL to the reference, reward per nat.
        label_smoothing: e, the probability that a label is wrong, below 1/2.
        robust: use the unbiased estimate instead of the conservative one.
        pairs: which pairs of a group to use.
        threshold: least difference in reward for a pair.

    Source: Rafailov et al. 2023, arXiv:2305.18290, eq. 7; smoothing Mitchell 2023; robust Chowdhury
    et al. 2024, arXiv:2403.00409.

    Differs: Tajwar et al.'s language-model code pairs winner and loser token by token; this is the
    published loss, on sums over the response.
    """

    beta: Number = 0.1
    label_smoothing: Number = 0.0
    robust: bool = False
    pairs: PairRule = "all"
    threshold: Number = 0.0

    negative_gradient: ClassVar[bool] = True
    mode_seeking: ClassVar[bool] = True
    on_policy: ClassVar[Literal["required", "optional"]] = "optional"
    source: ClassVar[str] = "Rafailov et al. 2023, arXiv:2305.18290"

    def __post_init__(self) -> None:
        require_positive(self, "beta")
        smoothing = self.label_smoothing
        require((smoothing >= 0), self, "label_smoothing", "at least 0 and below 0.5")
        require((smoothing < 0.5), self, "label_smoothing", "at least 0 and below 0.5")
        require_one_of(self, "pairs", PAIR_RULES)
        require_nonnegative(self, "threshold")

    def __call__(self, logp: PerToken, responses: Responses) -> Terms:
        """Loss per pair, in nats; log 2 wherever the policy is the reference."""
        batch = scored(logp, responses)
        margin = self.beta * gap(batch.log_ratio)
        e = self.label_smoothing
        right, wrong = -log_sigmoid(margin), -log_sigmoid(-margin)
        if self.robust:
            value = ((1 - e) * right - e * wrong) / (1 - 2 * e)
        else:
            value = (1 - e) * right + e * wrong
        return per_pair(batch, value, margin, self.pairs, self.threshold)


@pytree
class IPO:
    """Identity preference optimisation: regress the gap on a finite target. *Mode-seeking*.

    Value (d - 1/(2 tau))^2. Where DPO's gap grows without bound on separable data, IPO's stops.

    Args:
        tau: strength of the regularisation, per nat; the target gap is 1/(2 tau) nats.
        normalize: ``"response"`` sums a response's tokens; ``"length"`` averages them, so that the
            target is per token.
        pairs: which pairs of a group to use.
        threshold: least difference in reward for a pair.

    Source: Azar et al. 2023, arXiv:2310.12036, eq. 17.

    Differs: the paper's bandit code calls the target gap "beta" (its beta = 10 is tau = 0.05 here);
    TRL averages over tokens, as ``normalize="length"`` does.
    """

    tau: Number = 0.1
    normalize: Literal["response", "length"] = "response"
    pairs: PairRule = "all"
    threshold: Number = 0.0

    negative_gradient: ClassVar[bool] = True
    mode_seeking: ClassVar[bool] = True
    on_policy: ClassVar[Literal["required", "optional"]] = "optional"
    source: ClassVar[str] = "Azar et al. 2023, arXiv:2310.12036"

    def __post_init__(self) -> None:
        require_positive(self, "tau")
        require_one_of(self, "normalize", ("response", "length"))
        require_one_of(self, "pairs", PAIR_RULES)
        require_nonnegative(self, "threshold")

    def __call__(self, logp: PerToken, responses: Responses) -> Terms:
        """Squared distance of the gap from its target, in squared nats."""
        batch = scored(logp, responses)
        ratio = batch.log_ratio
        if self.normalize == "length":
            ratio = batch.S / batch.length - batch.S_ref / batch.length
        margin = gap(ratio)
        value = (margin - 1 / (2 * self.tau)) ** 2
        return per_pair(batch, value, margin, self.pairs, self.threshold)


@pytree
class SLiC:
    """Sequence likelihood calibration: a hinge on likelihoods, no reference. *Mode-seeking*.

    Value max(0, margin - (S_w - S_l)) - reg S_w.

    Args:
        margin: least gap in log-likelihood, in nats.
        reg: weight of the likelihood of the preferred response.
        pairs: which pairs of a group to use.
        threshold: least difference in reward for a pair.

    Source: Zhao et al. 2023, arXiv:2305.10425 (SLiC-HF), eq. 3.

    Differs: the regulariser is the preferred response's likelihood instead of a separate SFT
    target.
    """

    margin: Number = 1.0
    reg: Number = 0.0
    pairs: PairRule = "all"
    threshold: Number = 0.0

    negative_gradient: ClassVar[bool] = True
    mode_seeking: ClassVar[bool] = True
    on_policy: ClassVar[Literal["required", "optional"]] = "optional"
    source: ClassVar[str] = "Zhao et al. 2023, arXiv:2305.10425"

    def __post_init__(self) -> None:
        require_nonnegative(self, "margin", "reg", "threshold")
        require_one_of(self, "pairs", PAIR_RULES)

    def __call__(self, logp: PerToken, responses: Responses) -> Terms:
        """Hinge plus regulariser per pair, in nats."""
        batch = scored(logp, responses)
        margin = gap(batch.S)
        value = jnp.maximum(0, self.margin - margin) - self.reg * winner(batch.S)
        return per_pair(batch, value, margin, self.pairs, self.threshold)


@pytree
class SimPO:
    """Simple preference optimisation: length-averaged likelihoods, no reference. *Mode-seeking*.

    Value -log s(beta (S_w/L_w - S_l/L_l) - gamma).

    Args:
        beta: scale of the averaged log-likelihoods.
        gamma: target margin; it is subtracted as it stands (not gamma / beta).
        pairs: which pairs of a group to use.
        threshold: least difference in reward for a pair.

    Source: Meng et al. 2024, arXiv:2405.14734, eq. 6.
    """

    beta: Number = 2.0
    gamma: Number = 0.5
    pairs: PairRule = "all"
    threshold: Number = 0.0

    negative_gradient: ClassVar[bool] = True
    mode_seeking: ClassVar[bool] = True
    on_policy: ClassVar[Literal["required", "optional"]] = "optional"
    source: ClassVar[str] = "Meng et al. 2024, arXiv:2405.14734"

    def __post_init__(self) -> None:
        require_positive(self, "beta")
        require_nonnegative(self, "gamma", "threshold")
        require_one_of(self, "pairs", PAIR_RULES)

    def __call__(self, logp: PerToken, responses: Responses) -> Terms:
        """Loss per pair, in nats."""
        batch = scored(logp, responses)
        margin = self.beta * gap(batch.S / batch.length) - self.gamma
        return per_pair(batch, -log_sigmoid(margin), margin, self.pairs, self.threshold)


@pytree
class CPO:
    """Contrastive preference optimisation: DPO without a reference, plus imitation. *Mode-seeking*.

    Value -log s(beta (S_w - S_l)) - reg S_w / L_w.

    Args:
        beta: scale of the log-likelihood gap.
        reg: weight of the preferred response's averaged log-likelihood.
        pairs: which pairs of a group to use.
        threshold: least difference in reward for a pair.

    Source: Xu et al. 2024, arXiv:2401.08417, eq. 5.
    """

    beta: Number = 0.1
    reg: Number = 1.0
    pairs: PairRule = "all"
    threshold: Number = 0.0

    negative_gradient: ClassVar[bool] = True
    mode_seeking: ClassVar[bool] = True
    on_policy: ClassVar[Literal["required", "optional"]] = "optional"
    source: ClassVar[str] = "Xu et al. 2024, arXiv:2401.08417"

    def __post_init__(self) -> None:
        require_positive(self, "beta")
        require_nonnegative(self, "reg", "threshold")
        require_one_of(self, "pairs", PAIR_RULES)

    def __call__(self, logp: PerToken, responses: Responses) -> Terms:
        """Loss per pair, in nats."""
        batch = scored(logp, responses)
        margin = self.beta * gap(batch.S)
        value = -log_sigmoid(margin) - self.reg * winner(batch.S / batch.length)
        return per_pair(batch, value, margin, self.pairs, self.threshold)


@pytree
class ORPO:
    """Odds-ratio preference optimisation: imitation plus a log-odds gap. *Mode-seeking*.

    Value -a_w - lambda_ log s(logodds(a_w) - logodds(a_l)) with a = S / L and
    logodds(a) = a - log(1 - exp(min(a, -1e-6))).

    Args:
        lambda_: weight of the odds-ratio term.
        pairs: which pairs of a group to use.
        threshold: least difference in reward for a pair.

    Source: Hong et al. 2024, arXiv:2403.07691, eq. 6.
    """

    lambda_: Number = 0.1
    pairs: PairRule = "all"
    threshold: Number = 0.0

    negative_gradient: ClassVar[bool] = True
    mode_seeking: ClassVar[bool] = True
    on_policy: ClassVar[Literal["required", "optional"]] = "optional"
    source: ClassVar[str] = "Hong et al. 2024, arXiv:2403.07691"

    def __post_init__(self) -> None:
        require_nonnegative(self, "lambda_", "threshold")
        require_one_of(self, "pairs", PAIR_RULES)

    def __call__(self, logp: PerToken, responses: Responses) -> Terms:
        """Loss per pair, in nats per token."""
        batch = scored(logp, responses)
        average = batch.S / batch.length
        margin = gap(average - log1mexp(average))
        value = -winner(average) - self.lambda_ * log_sigmoid(margin)
        return per_pair(batch, value, margin, self.pairs, self.threshold)


@pytree
class KTO:
    """Kahneman-Tversky optimisation: each response against a reference point. *Mode-seeking*.

    With h = beta D and z = beta max(0, mean of D over the batch), which carries no gradient: a
    desirable response (r > threshold) costs lam_d (1 - s(h - z)), another lam_u (1 - s(z - h)).
    Unpaired: it needs a thumb up or down per response, no comparison.

    Args:
        beta: strength of the implied KL to the reference, reward per nat.
        threshold: reward above which a response is desirable; ``"group_mean"`` compares with the
            mean of the group, and a group of equal rewards then counts for nothing.
        desirable_weight: lam_d.
        undesirable_weight: lam_u.
        reference_point: z in units of h. None takes it from the responses at hand, which makes the
            loss of a response depend on its batch: give it for exact micro-batching.

    Source: Ethayarajh et al. 2024, arXiv:2402.01306, eq. 8.

    Differs: z comes from the responses themselves instead of mismatched pairs of the batch, and
    the constant lam_y of the published loss is 1 - s instead of lam_y - lam_y s (equal).
    """

    beta: Number = 0.1
    threshold: Number | Literal["group_mean"] = 0.5
    desirable_weight: Number = 1.0
    undesirable_weight: Number = 1.0
    reference_point: Number | None = None

    negative_gradient: ClassVar[bool] = True
    mode_seeking: ClassVar[bool] = True
    on_policy: ClassVar[Literal["required", "optional"]] = "optional"
    source: ClassVar[str] = "Ethayarajh et al. 2024, arXiv:2402.01306"

    def __post_init__(self) -> None:
        require_positive(self, "beta")
        require_nonnegative(self, "desirable_weight", "undesirable_weight")
        if isinstance(self.threshold, str):
            require_one_of(self, "threshold", ("group_mean",))
        else:
            require_number(self, "threshold")
        if self.reference_point is not None:
            require_number(self, "reference_point")

    def __call__(self, logp: PerToken, responses: Responses) -> Terms:
        """Loss per response; no unit."""
        batch = scored(logp, responses)
        ratio, exists = batch.log_ratio, batch.exists
        if isinstance(self.threshold, str):
            desirable = batch.reward > masked_mean(batch.reward, exists, axis=-1)
            counts = exists & differs(batch.reward, exists)[..., None]
        else:
            desirable, counts = batch.reward > self.threshold, exists
        z = self.reference_point
        if z is None:
            z = lax.stop_gradient(self.beta * jnp.maximum(0, masked_mean(ratio, exists)))
        margin = self.beta * ratio - z
        value = jnp.where(
            desirable,
            self.desirable_weight * (1 - sigmoid(margin)),
            self.undesirable_weight * (1 - sigmoid(-margin)),
        )

        def over(value: Float[Array, "B N"], where: Bool[Array, "B N"]) -> Weighted:
            return Weighted(value, where.astype(batch.dtype))

        metrics = {
            "margin": over(margin, counts),
            "accuracy": over((margin > 0).astype(batch.dtype), counts),
            "chosen_log_ratio": over(ratio, counts & desirable),
            "rejected_log_ratio": over(ratio, counts & ~desirable),
        }
        return Terms(value, counts.astype(batch.dtype), metrics)
