"""What moves probability mass: pure functions of log-probabilities, shared by both worlds.

Every preference fine-tuning method is a rule for moving probability mass among a group of
responses. Each rule is written once, here, as a frozen value that maps the policy's token
log-probabilities and a batch of ``Responses`` to ``Terms``. There is no model, no randomness and no
state.
"""

from objectives.acquisition import (
    disagreement,
    diverse,
    hybrid,
    implicit_reward,
    middle,
    predictive_entropy,
    preference_certainty,
    select,
    tails,
    uncertainty,
)
from objectives.advantages import (
    ADVANTAGES,
    RunningMean,
    batch_mean,
    gae,
    group_mean,
    group_zscore,
    kl_in_reward,
    kl_in_token_reward,
    leave_one_out,
    running_mean,
    whiten,
)
from objectives.contrastive import CPO, DPO, IPO, KTO, ORPO, SimPO, SLiC
from objectives.divergences import (
    KL_ESTIMATORS,
    alpha_divergence,
    entropy,
    forward_kl,
    jensen_shannon,
    k1,
    k2,
    k3,
    optimal_policy,
    reverse_kl,
)
from objectives.labels import bradley_terry, pairs
from objectives.policy_gradient import GSPO, PPO, REINFORCE, KLPenalty
from objectives.recipes import RECIPES, Collection, Recipe, Reuse
from objectives.responses import Objective, Responses, Scored, scored
from objectives.supervised import AWR, RWR, SFT, BestOfN, PrefFT, UnlikelihoodBestOfN
from objectives.terms import Terms, Weighted

OBJECTIVES: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        *(SFT, PrefFT, BestOfN, RWR, AWR, UnlikelihoodBestOfN),
        *(DPO, IPO, SLiC, SimPO, CPO, ORPO, KTO),
        *(REINFORCE, PPO, GSPO),
    )
}
"""Every objective class by name: the taxonomy table, its figure and the contract tests read it."""

__all__ = [
    "ADVANTAGES",
    "AWR",
    "CPO",
    "DPO",
    "GSPO",
    "IPO",
    "KL_ESTIMATORS",
    "KTO",
    "OBJECTIVES",
    "ORPO",
    "PPO",
    "RECIPES",
    "REINFORCE",
    "RWR",
    "SFT",
    "BestOfN",
    "Collection",
    "KLPenalty",
    "Objective",
    "PrefFT",
    "Recipe",
    "Responses",
    "Reuse",
    "RunningMean",
    "SLiC",
    "Scored",
    "SimPO",
    "Terms",
    "UnlikelihoodBestOfN",
    "Weighted",
    "alpha_divergence",
    "batch_mean",
    "bradley_terry",
    "disagreement",
    "diverse",
    "entropy",
    "forward_kl",
    "gae",
    "group_mean",
    "group_zscore",
    "hybrid",
    "implicit_reward",
    "jensen_shannon",
    "k1",
    "k2",
    "k3",
    "kl_in_reward",
    "kl_in_token_reward",
    "leave_one_out",
    "middle",
    "optimal_policy",
    "pairs",
    "predictive_entropy",
    "preference_certainty",
    "reverse_kl",
    "running_mean",
    "scored",
    "select",
    "tails",
    "uncertainty",
    "whiten",
]
