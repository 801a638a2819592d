"""The methods of the study on text: recipes of ``modeseek train``, all with the same M and N.

Offline methods learn from the task's data set, whose answers the gold reward has ordered. Online
methods answer the data set's prompts themselves and are rewarded by the proxy. A gradient step sees
M prompts with N answers each, whatever the method.
"""

from dataclasses import dataclass, replace
from typing import Any

from experiments.llm.study import Study
from experiments.llm.tasks import Proxy
from llm.settings import TRAIN_RECIPES
from objectives import DPO, IPO, PPO, RWR
from objectives.recipes import Recipe, Reuse


@dataclass(frozen=True, kw_only=True)
class Method:
    """A recipe, and what the study changes in it.

    Attributes:
        title: as it is called in figures and tables.
        recipe: the name in ``TRAIN_RECIPES``.
        changes: fields of the recipe that differ.
    """

    title: str
    recipe: str
    changes: tuple[tuple[str, Any], ...] = ()

    @property
    def online(self) -> bool:
        """Whether it learns from its own answers."""
        return TRAIN_RECIPES[self.recipe].on_policy

    @property
    def objective(self) -> str:
        """The class of its objective, which decides its colour."""
        return type(dict(self.changes).get("objective", self.given.objective)).__name__

    @property
    def given(self) -> Recipe:
        """The recipe as the catalogue has it."""
        return TRAIN_RECIPES[self.recipe]


LEARNING_RATE = 5e-4
"""Adam's where methods share one: staleness, reuse, the mechanism and the frontier. With a seed
that is not of the study, under Min and Mode Length, every on-policy method learned most of what it
can at this rate; at 1e-3 best-of-N lost again what it had gained."""

LEARNING_RATES = (LEARNING_RATE, 1e-3, 2e-3)
"""Among which each method gets its own where methods are compared with each other. At 2e-4 every
on-policy method learned Min Length more slowly than at any of these."""

TEMPERATURE = 0.5
"""Of RWR's weights, in standard deviations of the reward among answers of the reference."""

KL_IN_REWARD = 0.05
"""PPO's penalty, in standard deviations of the first collection's rewards per nat."""

UNCAPPED = float("inf")
DPO_, IPO_ = DPO(beta=0.1), IPO(tau=0.05)

METHODS = {
    "best-of-N": Method(title="best-of-N", recipe="best_of_n"),
    "RWR": Method(title="RWR", recipe="rwr"),
    "DPO": Method(title="DPO", recipe="dpo", changes=(("objective", DPO_),)),
    "IPO": Method(title="IPO", recipe="ipo", changes=(("objective", IPO_),)),
    "online best-of-N": Method(title="best-of-N", recipe="online_best_of_n"),
    "online RWR": Method(title="RWR", recipe="online_rwr"),
    "online DPO": Method(title="DPO", recipe="online_dpo", changes=(("objective", DPO_),)),
    "online IPO": Method(title="IPO", recipe="online_ipo", changes=(("objective", IPO_),)),
    "REINFORCE": Method(title="REINFORCE", recipe="reinforce"),
    "PPO": Method(title="PPO", recipe="ppo"),
}


def recipe_of(method: Method, study: Study, spread: float, reuse: Reuse) -> Recipe:
    """The recipe that is trained.

    Args:
        method: which.
        study: for M and N.
        spread: the standard deviation of the reward it is trained on.
        reuse: on-policyness and T.
    """
    recipe = replace(method.given, **dict(method.changes))
    if isinstance(recipe.objective, RWR):
        weights = RWR(beta=TEMPERATURE * spread, max_weight=UNCAPPED)
        recipe = replace(recipe, objective=weights)
    if isinstance(recipe.objective, PPO):
        recipe = replace(recipe, kl_in_reward=KL_IN_REWARD)
    if not method.online:
        return recipe
    prompts = study.batch * reuse.minibatches
    recipe = replace(recipe, reuse=Reuse())  # a collection must hold whole minibatches throughout
    recipe = recipe.with_collection(prompts=prompts, responses=study.responses)
    return replace(recipe, reuse=reuse)


def spread_of(method: Method, gold_spread: float, proxy: Proxy | None) -> float:
    """The unit of a method's reward: the proxy's standard deviation online, else gold's."""
    return proxy.spread if proxy is not None and method.online else gold_spread
