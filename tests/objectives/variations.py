"""Every objective at many settings: the numbers a formula is checked at.

A class that is not listed here is tested at its defaults, and a test of the closed forms fails
until somebody has written its formula down a second time.
"""

from math import inf
from typing import NamedTuple

from objectives import (
    AWR,
    CPO,
    DPO,
    GSPO,
    IPO,
    KTO,
    OBJECTIVES,
    ORPO,
    PPO,
    REINFORCE,
    RWR,
    SFT,
    BestOfN,
    KLPenalty,
    Objective,
    PrefFT,
    SimPO,
    SLiC,
    UnlikelihoodBestOfN,
)

SETTINGS: dict[str, list[Objective]] = {
    "SFT": [SFT("token"), SFT("response"), SFT("length")],
    "PrefFT": [PrefFT("token"), PrefFT("response"), PrefFT("length")],
    "BestOfN": [BestOfN("token"), BestOfN("response"), BestOfN("length")],
    "RWR": [
        RWR(),
        RWR(beta=0.05, max_weight=inf, normalize="token"),
        RWR(beta=0.3, max_weight=2.0, normalize="length"),
    ],
    "AWR": [
        AWR(),
        AWR(beta=0.05, max_weight=inf, normalize="token"),
        AWR(beta=0.3, max_weight=2.0, normalize="length"),
    ],
    "UnlikelihoodBestOfN": [
        UnlikelihoodBestOfN(),
        UnlikelihoodBestOfN(beta=0.3, against="worst"),
        UnlikelihoodBestOfN(beta=0.3, against="sum"),
        UnlikelihoodBestOfN(beta=0.3, against="complement"),
    ],
    "DPO": [
        DPO(),
        DPO(beta=0.7, label_smoothing=0.1),
        DPO(beta=0.7, label_smoothing=0.2, robust=True),
        DPO(pairs="best_vs_worst"),
        DPO(threshold=0.5),
        DPO(pairs="best_vs_worst", threshold=0.5),
    ],
    "IPO": [
        IPO(),
        IPO(tau=0.05, normalize="length"),
        IPO(pairs="best_vs_worst", threshold=0.5),
    ],
    "SLiC": [
        SLiC(),
        SLiC(margin=2.5, reg=0.3),
        SLiC(reg=1.0, pairs="best_vs_worst", threshold=0.5),
    ],
    "SimPO": [
        SimPO(),
        SimPO(beta=0.6, gamma=0.0),
        SimPO(pairs="best_vs_worst", threshold=0.5),
    ],
    "CPO": [
        CPO(),
        CPO(beta=0.6, reg=0.0),
        CPO(reg=0.4, pairs="best_vs_worst", threshold=0.5),
    ],
    "ORPO": [
        ORPO(),
        ORPO(lambda_=2.0),
        ORPO(pairs="best_vs_worst", threshold=0.5),
    ],
    "KTO": [
        KTO(),
        KTO(beta=0.7, desirable_weight=1.3, undesirable_weight=0.6),
        KTO(threshold="group_mean"),
        KTO(beta=0.7, threshold="group_mean", reference_point=0.2),
        KTO(threshold=1.0, reference_point=-0.3),
    ],
    "REINFORCE": [
        REINFORCE(),
        REINFORCE(normalize="token", kl=KLPenalty(0.3, "k1")),
        REINFORCE(normalize="length", kl=KLPenalty(0.3, "k2"), entropy=0.2),
        REINFORCE(kl=KLPenalty(0.3, "k3"), entropy=0.1),
    ],
    "PPO": [
        PPO(),
        PPO(clip_low=0.1, clip_high=0.3, normalize="length", kl=KLPenalty(0.04, "k3")),
        PPO(dual_clip=1.3, normalize="response", kl=KLPenalty(0.3, "k1"), entropy=0.1),
        PPO(normalize=("constant", 10), kl=KLPenalty(0.3, "k2")),
        PPO(dual_clip=3.0, kl=KLPenalty(None), entropy=0.1),
    ],
    "GSPO": [
        GSPO(),
        GSPO(clip_low=0.1, clip_high=0.2, kl=KLPenalty(0.3, "k1")),
        GSPO(clip_low=0.3, clip_high=0.2, kl=KLPenalty(0.3, "k2")),
        GSPO(clip_low=0.1, clip_high=0.3, kl=KLPenalty(0.04, "k3")),
    ],
}

ADVANTAGES_SEEN: dict[str, tuple[str | None, ...]] = {
    "AWR": (None, "response", "token"),
    "REINFORCE": ("response", "token"),
    "PPO": ("response", "token"),
    "GSPO": ("response", "token"),
}
"""The kinds of advantage an objective reads; the others are indifferent to it."""


class Case(NamedTuple):
    """An objective at a setting, with the kind of advantage it is given."""

    objective: Objective
    advantage: str | None

    def __str__(self) -> str:
        return f"{self.objective}-{self.advantage}"


CASES = [
    Case(objective, advantage)
    for name, cls in OBJECTIVES.items()
    for objective in SETTINGS.get(name, [cls()])
    for advantage in ADVANTAGES_SEEN.get(name, ("token",))
]

DEFAULTS = [
    Case(cls(), ADVANTAGES_SEEN.get(name, ("token",))[-1]) for name, cls in OBJECTIVES.items()
]
