"""Does choosing pay where every label is used once?

Command: ``modeseek reproduce reviews_online``. The authors' variant without a data set: in every
phase 64 fresh pairs are labelled, one gradient step is taken on them, and they are never used
again; certainty picks its 64 of eight times as many. Judged by a classifier in their study as in
ours, so this is the configuration that can be compared most directly. Feeds
``figures/reviews_online.py``.

Differs: a contest is held before the first phase and after every twentieth of the phases; theirs
before every tenth phase.
"""

import numpy as np

from experiments.intervals import difference
from experiments.llm.runs import Unit
from experiments.outcomes import judged
from experiments.results import Result, Size, Verdict
from experiments.reviews import authors
from experiments.reviews.acquisition import APL, described, listed, median, reached, signed
from experiments.reviews.campaigns import Plan, budget_of, records, stacked, units_of

FUNCTIONS = ("random", "certainty")
PLANS = {name: Plan(acquisition=name, online=True) for name in FUNCTIONS}
AUTHORS_LABELS = 64 * 10 * np.arange(20)
"""At each of the authors' contests."""

TARGET = 0.75
"""A win rate that both reach."""


def units(size: Size) -> list[Unit]:
    """The campaigns this experiment reads."""
    return units_of(budget_of(size), PLANS.values(), size.seeds)


def run(size: Size) -> Result:
    """Read all campaigns and judge."""
    budget = budget_of(size)
    rates = {name: stacked(budget, plan, size.seeds) for name, plan in PLANS.items()}
    labels = budget.phase * records(budget)
    return Result(
        name="reviews_online",
        verdicts=judge(rates, labels),
        arrays={
            "labels": labels,
            "win_rate": np.stack(list(rates.values())),
            "authors_labels": AUTHORS_LABELS,
            "authors": np.array([authors.ONLINE[name] for name in FUNCTIONS]),
        },
        settings={
            "functions": list(FUNCTIONS),
            "seeds": size.seeds,
            "phases": budget.phases,
            "labels_per_phase": budget.phase,
            "online_pairs": budget.online_pairs,
            **described(budget),
        },
    )


def judge(rates: dict[str, np.ndarray], labels: np.ndarray) -> list[Verdict]:
    """Every verdict.

    Args:
        rates: win rates ``[seeds, records]`` by function.
        labels: used at each record.
    """
    certain, random = rates["certainty"], rates["random"]
    thirds = np.array_split(np.arange(len(labels)), 3)
    names = ("first third", "second third", "last third")
    gaps = {
        name: difference(certain[:, rows].mean(1), random[:, rows].mean(1))
        for name, rows in zip(names, thirds, strict=True)
    }
    needed = {name: reached(values, labels, TARGET) for name, values in rates.items()}
    theirs = {
        name: reached(np.array([curve]), AUTHORS_LABELS, TARGET)
        for name, curve in authors.ONLINE.items()
    }
    fewer = needed["certainty"] < needed["random"]
    end = difference(certain[:, -1], random[:, -1])
    return [
        judged(
            "Where every label is used once, certainty beats chance",
            source=APL,
            evidence=f"mean win rate, certainty - random: {listed(gaps)}; at the end {signed(end)}",
            holds={name: gap.low > 0 for name, gap in gaps.items()},
            subject="in the",
        ),
        judged(
            f"It reaches a win rate of {TARGET} with fewer labels",
            source=APL,
            evidence=", ".join(f"{name} {median(values)} labels" for name, values in needed.items())
            + f" (medians); fewer in {int(fewer.sum())} of {len(fewer)} seeds; the authors' mean "
            f"curves cross it at {median(theirs['certainty'])} and {median(theirs['random'])}",
            holds={"here": bool(fewer.all())},
        ),
    ]
