"""Recipes: the paper's three-part framework as a value.

A method is (1) an objective, (2) a way to collect responses and (3) a way to use them. On-policy
sampling and sample reuse are then two numbers that any objective can be given, and "online IPO" is
not a new algorithm but IPO with another source of data. Both worlds run the same recipes.
"""

from dataclasses import replace
from typing import Any, Literal

from objectives.advantages import ADVANTAGES
from objectives.contrastive import CPO, DPO, IPO, KTO, ORPO, SimPO, SLiC
from objectives.hyperparameters import (
    Number,
    require,
    require_nonnegative,
    require_one_of,
    require_positive,
)
from objectives.policy_gradient import GSPO, PPO, REINFORCE, KLPenalty
from objectives.pytrees import pytree, structure
from objectives.supervised import AWR, RWR, SFT, BestOfN, PrefFT, UnlikelihoodBestOfN

Source = Literal["policy", "reference", "dataset"]


@pytree
class Collection:
    """How responses come about: step 1 and 2 of the paper's Algorithm 1.

    Attributes:
        source: ``"policy"`` fresh samples of the policy each iteration (on-policy);
            ``"reference"`` fresh samples of the reference each iteration; ``"dataset"`` a fixed
            set, there before training starts (offline). A bandit's data set is drawn from its
            reference.
        prompts: prompts per iteration; with ``responses`` and ``Reuse.minibatches`` this is the
            paper's on-policyness B / M.
        responses: N, responses per prompt.
        temperature: of the sampling policy.
    """

    source: Source = "policy"
    prompts: int = structure(default=10)
    responses: int = structure(default=10)
    temperature: Number = 1.0

    def __post_init__(self) -> None:
        require_one_of(self, "source", ("policy", "reference", "dataset"))
        require(self.prompts >= 1, self, "prompts", "at least 1")
        require(self.responses >= 1, self, "responses", "at least 1")
        require_positive(self, "temperature")


@pytree
class Reuse:
    """How often collected responses are used before new ones are drawn.

    Attributes:
        inner_steps: T, passes over the collected responses.
        minibatches: B / M, gradient steps per pass; the later ones are staler.
    """

    inner_steps: int = structure(default=1)
    minibatches: int = structure(default=1)

    def __post_init__(self) -> None:
        require(self.inner_steps >= 1, self, "inner_steps", "T >= 1: at least one pass")
        require(self.minibatches >= 1, self, "minibatches", "at least 1")

    @property
    def steps(self) -> int:
        """Gradient steps between two collections."""
        return self.inner_steps * self.minibatches


@pytree
class Recipe:
    """A named method: an objective, how its data are collected, how they are used.

    Attributes:
        objective: what is minimised.
        collection: where responses come from.
        reuse: how often they are used.
        advantage: the estimator of ``objectives.advantages`` that fills ``responses.advantage``;
            None for objectives that need none.
        std_floor: least standard deviation of ``"group_zscore"``, in units of the reward.
        kl_in_reward: beta of a KL penalty taken off the reward before the advantage, reward per
            nat.
    """

    objective: Any
    collection: Collection = Collection()
    reuse: Reuse = Reuse()
    advantage: str | None = None
    std_floor: Number = 0.0
    kl_in_reward: Number = 0.0

    def __post_init__(self) -> None:
        if self.advantage is not None:
            require_one_of(self, "advantage", tuple(ADVANTAGES))
        require_nonnegative(self, "std_floor", "kl_in_reward")
        cut = self.collection.prompts % self.reuse.minibatches == 0
        require(cut, self.reuse, "minibatches", f"a divisor of prompts={self.collection.prompts}")
        needs = getattr(self.objective, "on_policy", "optional") == "required"
        require(
            not (needs and self.advantage is None),
            self,
            "advantage",
            f"an estimator for {type(self.objective).__name__}: one of {', '.join(ADVANTAGES)}",
        )

    @property
    def on_policy(self) -> bool:
        """Whether it learns from its own fresh samples."""
        return self.collection.source == "policy"

    def with_collection(self, **changes: Any) -> "Recipe":
        """The same method with some fields of its collection replaced."""
        return replace(self, collection=replace(self.collection, **changes))

    def with_reuse(self, **changes: Any) -> "Recipe":
        """The same method with some fields of its reuse replaced."""
        return replace(self, reuse=replace(self.reuse, **changes))


OFFLINE = Collection(source="dataset")
ONLINE = Collection(source="policy")
UNCAPPED = float("inf")

RECIPES: dict[str, Recipe] = {
    # Supervised, on a fixed data set.
    "sft": Recipe(SFT(), OFFLINE),
    "pref_ft": Recipe(PrefFT(), OFFLINE),
    "best_of_n": Recipe(BestOfN(), OFFLINE),
    "rwr": Recipe(RWR(beta=0.05, max_weight=UNCAPPED), OFFLINE),
    "awr": Recipe(AWR(beta=0.05, max_weight=UNCAPPED), OFFLINE),
    "unlikelihood_best_of_n": Recipe(UnlikelihoodBestOfN(), OFFLINE),
    # Contrastive, on a fixed data set.
    "dpo": Recipe(DPO(), OFFLINE),
    "ipo": Recipe(IPO(), OFFLINE),
    "slic": Recipe(SLiC(), OFFLINE),
    "simpo": Recipe(SimPO(), OFFLINE),
    "cpo": Recipe(CPO(), OFFLINE),
    "orpo": Recipe(ORPO(), OFFLINE),
    "kto": Recipe(KTO(threshold="group_mean"), OFFLINE),
    # Supervised, on the policy's own samples.
    "online_best_of_n": Recipe(BestOfN(), ONLINE),
    "online_rwr": Recipe(RWR(beta=0.05, max_weight=UNCAPPED), ONLINE),
    "online_awr": Recipe(AWR(beta=0.05, max_weight=UNCAPPED), ONLINE),
    # Contrastive, on the policy's own samples.
    "online_dpo": Recipe(DPO(), ONLINE),
    "online_ipo": Recipe(IPO(), ONLINE),
    "online_slic": Recipe(SLiC(), ONLINE),
    # Policy gradients.
    "reinforce": Recipe(REINFORCE(), ONLINE, advantage="running_mean"),
    "rloo": Recipe(REINFORCE(), ONLINE, advantage="leave_one_out"),
    "ppo": Recipe(PPO(), ONLINE, Reuse(inner_steps=2), advantage="group_zscore", std_floor=0.05),
    "grpo": Recipe(
        PPO(normalize="length", kl=KLPenalty(0.04, "k3")),
        ONLINE,
        advantage="group_zscore",
        std_floor=0.05,
    ),
    "dr_grpo": Recipe(PPO(normalize=("constant", 10)), ONLINE, advantage="group_mean"),
    "dapo": Recipe(PPO(clip_high=0.28), ONLINE, advantage="group_zscore", std_floor=0.05),
    "gspo": Recipe(GSPO(), ONLINE, advantage="group_zscore", std_floor=0.05),
}
"""Named methods. The rows of Table 1 of Tajwar et al. 2024 and the ones that came after.

The weights of ``rwr`` and ``awr`` have no cap, as in the authors' bandit: with a cap of 20 and
their beta of 0.05 every reward above 0.15 would count the same.
"""
