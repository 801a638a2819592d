"""What the paper left undone: ensembles, diversity, pruning, adapters, going on, a small judge.

Command: ``modeseek reproduce reviews_beyond``. Each variant runs in the protocol of
``reviews_acquisition`` with the same budget of labels and is compared, paired by seed, with what it
would replace: going on with beginning anew, labels of a judge that has read little with those of
the large one (which judges all contests), adapters with all weights, an ensemble, diversity and
pruning with plain certainty. Feeds ``figures/reviews_beyond.py``.
"""

from dataclasses import dataclass

import numpy as np

from experiments.intervals import Interval, difference
from experiments.llm.runs import Unit
from experiments.outcomes import judged
from experiments.results import Result, Size, Verdict
from experiments.reviews.acquisition import COSTS, OURS, described, later, listed, signed
from experiments.reviews.campaigns import Plan, budget_of, of_rounds, stacked, units_of

RANK, PRUNE, SHARE = 8, 0.25, 0.2
"""Of the adapters; share of the pairs that is pruned; of the epochs, where a policy goes on."""

PLANS = {
    "random": Plan(acquisition="random"),
    "certainty": Plan(acquisition="certainty"),
    "going on": Plan(acquisition="certainty", restart=False, epochs=SHARE),
    "small judge": Plan(acquisition="certainty", small_judge=True),
    "random, adapters": Plan(acquisition="random", rank=RANK),
    "certainty, adapters": Plan(acquisition="certainty", rank=RANK),
    "diverse": Plan(acquisition="diverse"),
    "disagreement": Plan(acquisition="disagreement", rank=RANK),
    "pruned": Plan(acquisition="certainty", prune=PRUNE),
}
"""By name; certainty, unless another function is named."""

MARGIN = 0.05
"""Of the mean win rate: less than this may be lost to something that costs less. An interval that
includes zero alone does not say that nothing is lost."""


@dataclass(frozen=True)
class Comparison:
    """A variant and what it would replace.

    Attributes:
        variant: a name in ``PLANS``.
        instead: likewise.
        claim: that the variant is better, or hardly worse.
        spares: whether it is enough that it is not worse by ``MARGIN``, because it costs less.
    """

    variant: str
    instead: str
    claim: str
    spares: bool = False

    @property
    def name(self) -> str:
        """In a figure."""
        return f"{self.variant} - {self.instead}"

    def holds(self, gap: Interval) -> bool:
        """Whether a difference bears the claim out."""
        return gap.low > (-MARGIN if self.spares else 0)


COMPARISONS = (
    Comparison(
        "going on", "certainty", "Going on, a fifth of the epochs loses less than 0.05", True
    ),
    Comparison(
        "small judge", "certainty", "A judge that has read little loses less than 0.05", True
    ),
    Comparison(
        "certainty, adapters", "certainty", "Adapters lose less than 0.05 on all weights", True
    ),
    Comparison("certainty, adapters", "random, adapters", "With adapters certainty beats chance"),
    Comparison("disagreement", "random, adapters", "Where adapters disagree, labels teach more"),
    Comparison("disagreement", "certainty, adapters", "Disagreement beats certainty"),
    Comparison("diverse", "certainty", "Sure pairs that differ beat the surest pairs"),
    Comparison("pruned", "certainty", "Leaving out what the reference finds strangest helps"),
)


def units(size: Size) -> list[Unit]:
    """The campaigns this experiment reads."""
    return units_of(budget_of(size), PLANS.values(), size.seeds)


def run(size: Size) -> Result:
    """Read all campaigns and judge."""
    budget = budget_of(size)
    rates = {name: stacked(budget, plan, size.seeds) for name, plan in PLANS.items()}
    seconds = np.array(
        [
            [of_rounds(budget, plan, size.seeds, cost).mean() for cost in COSTS]
            for plan in PLANS.values()
        ]
    )
    return Result(
        name="reviews_beyond",
        verdicts=judge(rates, dict(zip(PLANS, seconds, strict=True))),
        arrays={
            "labels": budget.labels * np.arange(1, budget.rounds + 1),
            "win_rate": np.stack(list(rates.values())),
            "seconds": seconds,
        },
        settings={
            "variants": list(PLANS),
            "comparisons": [[one.variant, one.instead] for one in COMPARISONS],
            "costs": list(COSTS),
            "rank": RANK,
            "prune": PRUNE,
            "share": SHARE,
            "seeds": size.seeds,
            **described(budget),
        },
    )


def judge(rates: dict[str, np.ndarray], seconds: dict[str, np.ndarray]) -> list[Verdict]:
    """A verdict for each comparison.

    Args:
        rates: win rates ``[seeds, rounds]`` by variant.
        seconds: of a round by kind of cost, by variant.
    """
    verdicts = []
    training = COSTS.index("training")
    for one in COMPARISONS:
        gap = difference(later(rates[one.variant]), later(rates[one.instead]))
        last = difference(rates[one.variant][:, -1], rates[one.instead][:, -1])
        spent, instead = seconds[one.variant], seconds[one.instead]
        verdicts.append(
            judged(
                one.claim,
                source=OURS,
                evidence=f"mean win rate, {one.name}: {signed(gap)}; "
                f"{listed({'at the end': last})}; training {spent[training]:.1f} s a round instead "
                f"of {instead[training]:.1f}, all {spent.sum():.1f} instead of {instead.sum():.1f}",
                holds={"here": one.holds(gap)},
            )
        )
    return verdicts
