"""The claims the page opens with: a world and two policies each, and what to look at.

A policy is written as the page's address has it: an objective, its one number, whether it learns
from its own responses, how many steps it takes on each collection, and how many pairs there are in
one (0: all pairs, each as often as it comes). ``recipe_of`` says what that is in the library.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from objectives import DPO, IPO, KTO, PPO, REINFORCE, RWR, SFT, BestOfN, Recipe, SLiC
from objectives.recipes import OFFLINE, ONLINE, UNCAPPED, Reuse

IDEALS = ("ForwardKL", "ReverseKL")
"""Gradients of a divergence to pi* itself, which no recipe follows."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What a policy of the page learns by.

    Attributes:
        name: of the objective.
        number: its one number; None where it has none.
        online: whether it learns from its own responses, or from the reference's.
        every: gradient steps on each collection.
        groups: pairs in a collection; 0 for all, each as often as it comes.
    """

    name: str
    number: float | None = None
    online: bool = False
    every: int = 1
    groups: int = 0


@dataclass(frozen=True, kw_only=True)
class World:
    """Reference, reward and learning rate.

    Attributes:
        peak: bin of the largest reward.
        width: of the reward, bins.
        location: of the reference's Cauchy.
        scale: of the same.
        beta_star: of pi*, reward per nat.
        rate: learning rate.
        plain: whether it is that of gradient descent as it stands, instead of Adam's.
    """

    peak: int = 70
    width: int = 10
    location: float = -0.7
    scale: float = 0.4
    beta_star: float = 0.1
    rate: float = 0.05
    plain: bool = False


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A claim, and the setting that shows it."""

    id: str
    title: str
    claim: str
    world: World = World()
    a: Policy
    b: Policy


RECIPE_OF: dict[str, Callable[[float], Recipe]] = {
    "SFT": lambda _: Recipe(SFT()),
    "BestOfN": lambda _: Recipe(BestOfN()),
    "RWR": lambda beta: Recipe(RWR(beta=beta, max_weight=UNCAPPED)),
    "DPO": lambda beta: Recipe(DPO(beta=beta)),
    "IPO": lambda tau: Recipe(IPO(tau=tau)),
    "SLiC": lambda margin: Recipe(SLiC(margin=margin)),
    "KTO": lambda beta: Recipe(KTO(beta=beta, threshold="group_mean")),
    "REINFORCE": lambda beta: Recipe(REINFORCE(), advantage="leave_one_out", kl_in_reward=beta),
    "PPO": lambda beta: Recipe(PPO(), advantage="group_zscore", std_floor=0.05, kl_in_reward=beta),
}
"""The library's recipe of each objective of the page, from its one number."""


def recipe_of(policy: Policy) -> Recipe:
    """The library's name for what a policy of the page learns by.

    Raises:
        ValueError: for a divergence to pi*, which is no recipe.
    """
    if policy.name not in RECIPE_OF:
        raise ValueError(f"{policy.name} is no recipe; those are {', '.join(RECIPE_OF)}.")
    recipe = RECIPE_OF[policy.name](policy.number or 0.0)
    collection = ONLINE if policy.online else OFFLINE
    return replace(recipe, collection=collection, reuse=Reuse(inner_steps=policy.every))


PRESETS = (
    Preset(
        id="cover-or-seek",
        title="Forward KL covers, reverse KL seeks",
        claim="Both head for the same π*, which has two hills, by plain gradient descent. "
        "Forward KL moves each bin by what it lacks, at once; reverse KL moves mass only where "
        "there is some, so the far hill waits. Take Adam instead, which evens out how fast bins "
        "move, and the wait is gone.",
        world=World(beta_star=0.2, plain=True, rate=0.5),
        a=Policy(name="ReverseKL"),
        b=Policy(name="ForwardKL"),
    ),
    Preset(
        id="negative-gradient",
        title="Pushing down carries mass beyond the data",
        claim="Offline, from the same pairs of the reference. Best of N only imitates and stays "
        "where the data are; IPO also pushes losers down, and its mass climbs the far hill.",
        a=Policy(name="IPO", number=0.05),
        b=Policy(name="BestOfN"),
    ),
    Preset(
        id="on-policy",
        title="Fresh samples carry imitation there, too",
        claim="Best of N again, twice. On its own samples each round starts from where the last "
        "one ended, so mass walks to the peak; on a fixed data set it stops at the best of the "
        "data.",
        a=Policy(name="BestOfN", online=True),
        b=Policy(name="BestOfN"),
    ),
    Preset(
        id="near-peak",
        title="With the peak among the data, freshness matters less",
        claim="The reward's peak is where the reference already has mass. Fresh samples gain less "
        "than half of what they do with the peak at bin 70: how far mass must travel decides.",
        world=World(peak=20),
        a=Policy(name="BestOfN", online=True),
        b=Policy(name="BestOfN"),
    ),
    Preset(
        id="reuse",
        title="Reusing samples makes them stale",
        claim="Best of N on its own samples: A draws anew at every step, B takes 50 steps on each "
        "collection. Meanwhile B imitates a policy it has left, and waits for the next.",
        a=Policy(name="BestOfN", online=True),
        b=Policy(name="BestOfN", online=True, every=50),
    ),
    Preset(
        id="same-optimum",
        title="One optimum, two ways there",
        claim="RWR imitates the reference's data by exp(reward/β): that is forward KL to π*. "
        "REINFORCE with a KL penalty of the same β is reverse KL to it. Choose those two as "
        "objectives instead, and the curves of the bins do not change.",
        a=Policy(name="REINFORCE", number=0.1, online=True),
        b=Policy(name="RWR", number=0.1),
    ),
    Preset(
        id="bounded",
        title="DPO's gap grows without end, IPO's stops",
        claim="Offline on the same pairs. IPO asks for a finite gap between winner and loser, "
        "1/(2τ) nats, and comes to rest; DPO is never content, and leaves the reference as far as "
        "it is let.",
        a=Policy(name="DPO", number=0.3),
        b=Policy(name="IPO", number=0.1),
    ),
    Preset(
        id="few-pairs",
        title="Few pairs: mass piles up on lucky winners",
        claim="IPO on all pairs and on thirty of them. With all, each bin is compared with every "
        "other, and mass climbs the hill evenly. With thirty it piles up on the winners that "
        "happened to be drawn: more than half of it on the last bin, far from the peak.",
        a=Policy(name="IPO", number=0.1),
        b=Policy(name="IPO", number=0.1, groups=30),
    ),
)
"""In the order of the paper's argument."""


def as_json() -> list[dict[str, Any]]:
    """The claims as the page reads them."""
    return [asdict(preset) for preset in PRESETS]
