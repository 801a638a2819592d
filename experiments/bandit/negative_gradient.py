"""Offline: does pushing bad responses down beat only pulling good ones up?

Command: ``modeseek reproduce negative_gradient``. Hardware and time: 25 s on one of two cores.
Number to expect: on R1 at learning rate 0.003, IPO with the reward threshold ends at 0.55 and
best-of-N at 0.33; on R2 both end near 0.95. Feeds ``figures/negative_gradient.py``.

Every method sees the same data: 10 contexts with 10 actions each, drawn from the reference once,
and takes 200 full-batch Adam steps on them, as in the authors' scripts. IPO's target gap is their
10 nats (tau = 0.05), with their threshold of 0.2 in reward for a pair, and without any; DPO has
beta 0.1 and the threshold. Best-of-N is the supervised method of the paper's comparison; Pref-FT
is the same loss here, because no group of ten has ten equal rewards. Reward-weighted regression
(RWR) is supervised too, and its temperature decides how greedy it is, so it is shown at several:
the paper does not say which one its bandit used; the default of the authors' program is 0.05.

Learning rates are the three of the scripts. *Matched* compares two methods at each of them. *Tuned*
compares each at its own best, chosen without peeking: seed s is scored at the rate that was best on
average over the other seeds.
"""

import itertools
from collections.abc import Mapping

import numpy as np

from bandit import R1, R2, ContextualMLP, Setting, sweep
from experiments.intervals import Interval, difference, interval
from experiments.merged import merged
from experiments.outcomes import judged
from experiments.results import Result, Size, Verdict
from objectives import DPO, IPO, RWR, BestOfN, Collection, Recipe

PROBLEMS = {"R1": R1, "R2": R2}
LEARNING_RATES = (0.001, 0.003, 0.01)
TEMPERATURES = (0.05, 0.1, 0.3, 1.0)
THRESHOLD = 0.2
RESPONSES = 10
STEPS = 200
RECORD_EVERY = 20
ABOUT_EQUAL = 0.05
"""A difference in expected reward inside this margin, 5% of the peak's reward, counts as none."""

IMITATION, PUSHES, PUSHES_ALL = "best of N", "IPO, threshold", "IPO, all pairs"
RWR_NAMES = {beta: f"RWR, temperature {beta:g}" for beta in TEMPERATURES}
OBJECTIVES = {
    IMITATION: BestOfN(),
    PUSHES: IPO(tau=0.05, threshold=THRESHOLD),
    PUSHES_ALL: IPO(tau=0.05),
    "DPO, threshold": DPO(beta=0.1, threshold=THRESHOLD),
    **{name: RWR(beta=beta, max_weight=float("inf")) for beta, name in RWR_NAMES.items()},
}
METHODS = {
    "R1": tuple(OBJECTIVES),
    "R2": (IMITATION, PUSHES, RWR_NAMES[0.05]),
}
"""On R2 everything gets near the peak, so a few methods say it."""
PAPER = "Tajwar et al. 2024, section 5.2.1"
OURS = "this project"

Rewards = Mapping[tuple[str, str], np.ndarray]
"""Final expected reward ``[learning rates, seeds]`` by (problem, method)."""


def run(size: Size) -> Result:
    """Train every method on both problems at every learning rate."""
    contexts = size.choose((10,), (10,), (10, 100))
    collections = [
        Collection(source="dataset", prompts=count, responses=RESPONSES) for count in contexts
    ]
    steps = size.choose(100, STEPS, STEPS)
    curves = [trained(collection, size.seeds, steps) for collection in collections]
    final = {column: reward[..., -1] for column, reward in curves[0].items()}
    arrays = {
        problem: np.stack(
            [[reward[problem, method] for method in METHODS[problem]] for reward in curves]
        )
        for problem in PROBLEMS
    }
    return Result(
        name="negative_gradient",
        verdicts=judge(final),
        arrays={"step": np.arange(0, steps + 1, RECORD_EVERY)} | arrays,
        settings={
            "methods": {problem: list(METHODS[problem]) for problem in PROBLEMS},
            "learning_rates": list(LEARNING_RATES),
            "temperatures": list(TEMPERATURES),
            "threshold": THRESHOLD,
            "contexts": list(contexts),
            "responses": RESPONSES,
            "steps": steps,
            "seeds": size.seeds,
        },
    )


def trained(collection: Collection, seeds: int, steps: int) -> dict[tuple[str, str], np.ndarray]:
    """Expected reward ``[learning rates, seeds, records]`` by problem and method."""
    columns = [(problem, method) for problem in PROBLEMS for method in METHODS[problem]]
    runs = list(itertools.product(columns, LEARNING_RATES))
    recipes = merged([Recipe(OBJECTIVES[method], collection) for (_, method), _ in runs])
    settings = [
        Setting(recipe, PROBLEMS[problem], learning_rate)
        for recipe, ((problem, _), learning_rate) in zip(recipes, runs, strict=True)
    ]
    traces = sweep(settings, ContextualMLP(), seeds, steps, record_every=RECORD_EVERY)
    reward = traces["reward"].reshape(len(columns), len(LEARNING_RATES), seeds, -1)
    return dict(zip(columns, reward, strict=True))


def judge(final: Rewards) -> list[Verdict]:
    """Every verdict, from the final rewards alone."""
    return [push_beats_pull(final), threshold(final), small_gap(final), temperature(final)]


def tuned(final: np.ndarray) -> np.ndarray:
    """Each seed's final reward at the learning rate that is best on average over the others.

    Args:
        final: [learning rates, seeds].

    Returns:
        [seeds].
    """
    others = final.sum(axis=1, keepdims=True) - final
    return np.take_along_axis(final, others.argmax(axis=0)[None], axis=0)[0]


def matched(final: Rewards, problem: str, a: str, b: str) -> list[Interval]:
    """A - b, paired by seed, at each learning rate."""
    pairs = zip(final[problem, a], final[problem, b], strict=True)
    return [difference(x, y) for x, y in pairs]


def by_rate(gaps: list[Interval]) -> str:
    """The differences with their learning rates."""
    return ", ".join(
        f"{gap.mean:+.2f} ± {gap.half_width:.2f} at {rate:g}"
        for gap, rate in zip(gaps, LEARNING_RATES, strict=True)
    )


def at_rates(holds: list[bool]) -> dict[str, bool]:
    """At which learning rates something holds."""
    return {f"{rate:g}": here for rate, here in zip(LEARNING_RATES, holds, strict=True)}


def push_beats_pull(final: Rewards) -> Verdict:
    """Held if IPO with the threshold is ahead on R1 at every matched rate, and tuned."""
    gaps = matched(final, "R1", PUSHES, IMITATION)
    best = difference(tuned(final["R1", PUSHES]), tuned(final["R1", IMITATION]))
    return judged(
        "Offline, where the reward's peak is far (R1), IPO ends above best-of-N",
        source=PAPER,
        evidence=f"IPO (threshold {THRESHOLD}) - best-of-N: {by_rate(gaps)}; "
        f"tuned {best.mean:+.2f} ± {best.half_width:.2f}",
        holds=at_rates([gap.low > 0 for gap in gaps]) | {"each one's own best": best.low > 0},
        subject="learning rate",
    )


def threshold(final: Rewards) -> Verdict:
    """Held if IPO on all pairs is ahead on R1 at every matched rate."""
    gaps = matched(final, "R1", PUSHES_ALL, IMITATION)
    behind = [f"{rate:g}" for rate, gap in zip(LEARNING_RATES, gaps, strict=True) if gap.high < 0]
    return judged(
        "IPO's lead on R1 does not need a threshold on the reward difference of a pair",
        source=OURS,
        evidence=f"IPO (all pairs) - best-of-N on R1: {by_rate(gaps)}"
        + (f"; it is behind at {', '.join(behind)}" if behind else ""),
        holds=at_rates([gap.low > 0 for gap in gaps]),
        subject="learning rate",
    )


def small_gap(final: Rewards) -> Verdict:
    """Held if on R2 the interval of the difference lies within the margin at every rate."""
    gaps = matched(final, "R2", PUSHES, IMITATION)
    return judged(
        "Where the peak is near (R2), best-of-N does about as well as IPO",
        source=PAPER,
        evidence=f"IPO (threshold {THRESHOLD}) - best-of-N on R2: {by_rate(gaps)}; "
        f"about as well means within {ABOUT_EQUAL}",
        holds=at_rates([gap.low > -ABOUT_EQUAL and gap.high < ABOUT_EQUAL for gap in gaps]),
        subject="learning rate",
    )


def temperature(final: Rewards) -> Verdict:
    """Held if tuned IPO is ahead of tuned RWR on R1 at every temperature."""
    ipo = tuned(final["R1", PUSHES])
    scores = {beta: tuned(final["R1", RWR_NAMES[beta]]) for beta in TEMPERATURES}
    gaps = {f"{beta:g}": difference(ipo, score) for beta, score in scores.items()}
    ahead = [beta for beta, gap in gaps.items() if gap.high < 0]
    rows = ", ".join(f"{interval(score)} at {beta:g}" for beta, score in scores.items())
    return judged(
        "On R1 supervised learning falls behind IPO, however its samples are weighted",
        source="Tajwar et al. 2024, section 5.2, read strictly",
        evidence=f"tuned: IPO {interval(ipo)}; RWR {rows}"
        + (f"; RWR is ahead at {', '.join(ahead)}" if ahead else ""),
        holds={beta: gap.low > 0 for beta, gap in gaps.items()},
        subject="temperature of the weights",
    )
