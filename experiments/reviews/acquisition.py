"""Which labels are worth asking for, of a language model?

Command: ``modeseek reproduce reviews_acquisition``. The paper's protocol on IMDB, offline
(``experiments/reviews/campaigns.py``): rounds of labels, learned from with DPO from the reference
anew each time, every acquisition function of the paper and its ablations, and win rates against
the reference. Feeds ``figures/reviews_acquisition.py``, where the authors' own numbers stand beside
ours.

A function is compared with random choice by the mean win rate over the rounds after the first (the
first is random for every function that goes by the policy's beliefs), paired by seed. A difference
whose interval includes zero is no difference.
"""

from collections.abc import Mapping

import numpy as np

from experiments.intervals import Interval, difference, interval
from experiments.llm.runs import Unit
from experiments.outcomes import judged
from experiments.results import Result, Size, Verdict
from experiments.reviews import authors
from experiments.reviews.campaigns import (
    Budget,
    Plan,
    budget_of,
    facts_of,
    learning_rate,
    of_rounds,
    stacked,
    units_of,
)

PAPER = ("random", "entropy", "certainty", "hybrid")
ABLATIONS = ("offline", "uncertainty", "middle", "tails")
PLANS = {name: Plan(acquisition=name) for name in (*PAPER, *ABLATIONS)}
COSTS = ("generation", "scoring", "labelling", "training", "evaluation")
APL, OURS = "Muldrew et al. 2024, arXiv:2402.08114", "this project"

PerFunction = Mapping[str, np.ndarray]
"""``[seeds, rounds]`` by name of the function."""


def units(size: Size) -> list[Unit]:
    """The campaigns this experiment reads."""
    return units_of(budget_of(size), PLANS.values(), size.seeds)


def run(size: Size) -> Result:
    """Read all campaigns and judge."""
    budget = budget_of(size)
    rates = {name: stacked(budget, plan, size.seeds) for name, plan in PLANS.items()}
    surprise = {
        name: of_rounds(budget, plan, size.seeds, "surprise") for name, plan in PLANS.items()
    }
    labels = budget.labels * np.arange(1, budget.rounds + 1)
    means, errors = authors.table()
    return Result(
        name="reviews_acquisition",
        verdicts=judge(rates, surprise, labels),
        arrays={
            "labels": labels,
            "win_rate": np.stack(list(rates.values())),
            "surprise": np.stack(list(surprise.values())),
            "seconds": seconds(budget, size.seeds),
            "authors_labels": np.array(authors.LABELS),
            "authors_rounds": np.array(authors.ROUNDS),
            "authors_mean": means,
            "authors_error": errors,
        },
        settings={
            "functions": list(PLANS),
            "authors_functions": list(authors.WIN_RATES),
            "authors_seeds": authors.SEEDS,
            "costs": list(COSTS),
            "seeds": size.seeds,
            **described(budget),
        },
    )


def described(budget: Budget) -> dict[str, object]:
    """The world and the protocol, as numbers a reader can check."""
    return {
        **facts_of(budget),
        "learning_rate": learning_rate(budget),
        "labels_per_round": budget.labels,
        "rounds": budget.rounds,
        "epochs": budget.epochs,
        "pairs": budget.pairs,
        "prompts": budget.prompts,
        "samples": budget.samples,
        "contest": budget.contest,
    }


def seconds(budget: Budget, seeds: int) -> np.ndarray:
    """Mean seconds of a round by function and kind of cost: ``[functions, costs]``."""
    return np.array(
        [[of_rounds(budget, plan, seeds, cost).mean() for cost in COSTS] for plan in PLANS.values()]
    )


def later(rates: np.ndarray) -> np.ndarray:
    """Mean over the rounds after the first, for each seed."""
    return rates[:, 1:].mean(axis=1)


def reached(rates: np.ndarray, labels: np.ndarray, target: float) -> np.ndarray:
    """Labels at which each seed's curve first reaches a win rate, between rounds by a line.

    Infinite where it never does.
    """
    found = np.full(len(rates), np.inf)
    for seed, curve in enumerate(rates):
        above = np.flatnonzero(curve >= target)
        if len(above) == 0:
            continue
        at = above[0]
        found[seed] = labels[at]
        if at:
            share = (target - curve[at - 1]) / (curve[at] - curve[at - 1])
            found[seed] = labels[at - 1] + share * (labels[at] - labels[at - 1])
    return found


def judge(rates: PerFunction, surprise: PerFunction, labels: np.ndarray) -> list[Verdict]:
    """Every verdict.

    Args:
        rates: win rates.
        surprise: share of the labels that the policy had not expected.
        labels: at the end of each round.
    """
    gaps = {name: difference(later(rates[name]), later(rates["random"])) for name in rates}
    by_round = {
        name: {
            f"{many} labels": difference(rates[name][:, at], rates["random"][:, at])
            for at, many in enumerate(labels)
        }
        for name in rates
    }

    def better(claim: str, name: str) -> Verdict:
        after = dict(list(by_round[name].items())[1:])
        return judged(
            claim,
            source=APL,
            evidence=f"mean win rate after the first round, {name} - random: "
            f"{signed(gaps[name])}; {listed(after)}",
            holds={"here": gaps[name].low > 0},
        )

    first = next(iter(by_round["certainty"].items()))
    target = float(rates["random"][:, -1].mean())
    needed = {name: reached(rates[name], labels, target) for name in rates}
    fewer = {
        name: int(np.sum(needed[name] < needed["random"])) for name in rates if name != "random"
    }
    seeds = len(rates["random"])
    right = {name: 1 - interval(surprise[name][:, 1:].mean(axis=1)).mean for name in rates}
    surer = difference(surprise["random"][:, 1:].mean(1), surprise["certainty"][:, 1:].mean(1))
    ablations = {
        name: difference(later(rates["certainty"]), later(rates[name]))
        for name in ("uncertainty", "middle", "tails")
    }
    return [
        better("Preference certainty beats chance at the same number of labels", "certainty"),
        better("So does certainty among the prompts of highest entropy", "hybrid"),
        better("So does predictive entropy alone, if less reliably", "entropy"),
        judged(
            "Before the first update certainty is no better than chance, because it is chance",
            source=OURS,
            evidence=f"win rate after {first[0]}, certainty - random: {signed(first[1])}",
            holds={"here": first[1].low <= 0 <= first[1].high},
        ),
        judged(
            "Certainty needs fewer labels than chance for the win rate that chance ends with",
            source=APL,
            evidence=f"to reach {target:.3f}: "
            + ", ".join(f"{name} {median(needed[name])}" for name in PAPER)
            + f" (medians); fewer than random in {fewer['certainty']} of {seeds} seeds",
            holds={"here": fewer["certainty"] == seeds},
        ),
        judged(
            "The policy is right about most pairs that certainty picks, as the authors found",
            source=APL,
            evidence="share of the new labels that the policy expected, from the second round on: "
            + ", ".join(f"{name} {right[name]:.2f}" for name in PAPER)
            + f"; the authors' range for certainty {authors.AGREEMENT[0]:.2f} to "
            f"{authors.AGREEMENT[1]:.2f}; certainty - random {signed(surer)}",
            holds={"here": surer.low > 0 and right["certainty"] > 0.5},
        ),
        judged(
            "Asking about the surest pairs beats asking about the least sure, the middle or the "
            "tails",
            source=APL,
            evidence="mean win rate, certainty minus: " + listed(ablations),
            holds={name: gap.low > 0 for name, gap in ablations.items()},
            subject="against",
        ),
        judged(
            "Pairs of the policy teach more than pairs of the reference",
            source=APL,
            evidence=f"mean win rate, offline - random: {signed(gaps['offline'])}",
            holds={"here": gaps["offline"].high < 0},
        ),
    ]


def table(result: Result) -> str:
    """Ours and the authors' side by side, as Markdown: order, gaps and shape in one look."""
    arrays, settings = result.arrays, result.settings
    rates = dict(zip(settings["functions"], arrays["win_rate"], strict=True))
    labels, rounds = arrays["labels"], arrays["authors_rounds"]
    theirs = dict(
        zip(
            settings["authors_functions"],
            zip(arrays["authors_mean"], arrays["authors_error"], strict=True),
            strict=True,
        )
    )
    heads = [
        f"{labels[r - 1]} ({many})"
        for r, many in zip(rounds, arrays["authors_labels"], strict=True)
    ]
    lines = [
        "Win rate against the reference after so many labels (the authors' in brackets): ours, "
        f"mean and 95% interval over {settings['seeds']} seeds, and the authors', mean ± 1.96 "
        "standard errors over 9 seeds (entropy 6); and labels to reach the win rate that random "
        "choice ends with, medians over seeds.",
        "",
        f"| | {' | '.join(f'{head} ours | authors' for head in heads)} | mean gain over random "
        "| labels |",
        f"|---|{'---|' * (2 * len(heads) + 2)}",
    ]
    target = float(rates["random"][:, -1].mean())
    for name, values in rates.items():
        cells = []
        for at, r in enumerate(rounds):
            cells.append(pair_of(interval(values[:, r - 1])))
            known = theirs.get(name)
            cells.append("" if known is None else f"{known[0][at]:.3f} ± {1.96 * known[1][at]:.3f}")
        gain = "" if name == "random" else signed(difference(later(values), later(rates["random"])))
        needed = median(reached(values, labels, target))
        lines.append(f"| {name} | {' | '.join([*cells, gain, needed])} |")
    return "\n".join(lines) + "\n"


def pair_of(found: Interval) -> str:
    """A mean with its interval."""
    return f"{found.mean:.3f} ± {found.half_width:.3f}"


def median(needed: np.ndarray) -> str:
    """A number of labels; where most seeds never get there, that."""
    value = float(np.median(needed))
    return f"{value:.0f}" if np.isfinite(value) else "never"


def signed(gap: Interval) -> str:
    """A difference with its interval, and whether it is one."""
    none = " (no difference)" if gap.low <= 0 <= gap.high else ""
    return f"{gap.mean:+.3f} ± {gap.half_width:.3f}{none}"


def listed(gaps: Mapping[str, Interval]) -> str:
    """Differences by the place each belongs to."""
    return ", ".join(f"{signed(gap)} ({place})" for place, gap in gaps.items())
