"""Is an explicit push enough?

Command: ``modeseek reproduce unlikelihood``. Hardware and time: 15 s on one of two cores.
Number to expect: on R1 best-of-N ends near 0.33 and IPO near 0.55; best-of-N with an explicit push
ends below 0.5, and at strength 0.1 its losers are 40 to 140 nats below the reference by then. Feeds
``figures/unlikelihood.py``.

Contrastive losses pull a winner up and push a loser down. If pushing were all there is to it,
best-of-N plus a term that lowers the other responses should do as well. The paper's ablations add
such a term: against the mean, the sum or the worst of the others' log-probabilities, or for the
probability of everything but them ("complement"). The first three have no floor: the loss keeps
falling as log pi of a loser goes to minus infinity. The last is bounded by itself, and IPO's push
ends when the margin reaches its target.

The data and the steps are those of ``negative_gradient``: 10 contexts, 10 responses each, drawn
from the reference once, 200 full-batch Adam steps at learning rate 0.003, that of the authors' IPO
script, and IPO as they run it (target gap 10 nats, threshold 0.2). The authors do not say how
strong their push was; the default of their program is 0.05, so the strengths here reach from a
fifth to ten times that. Seed s judges a variant at the strength that is best over the other seeds.
"""

from collections.abc import Mapping

import numpy as np

from bandit import R1, R2, ContextualMLP, Setting, sweep
from experiments.intervals import Interval, difference, interval
from experiments.merged import merged
from experiments.outcomes import judged
from experiments.results import Result, Size, Verdict
from objectives import IPO, BestOfN, Collection, Recipe, UnlikelihoodBestOfN

PROBLEMS = {"R1": R1, "R2": R2}
UNBOUNDED = ("mean", "worst", "sum")
AGAINST = (*UNBOUNDED, "complement")
STRENGTHS = (0.01, 0.1, 0.5)
MIDDLE = 0.1
LEARNING_RATE = 0.003
STEPS = 200
RECORD_EVERY = 20
RESPONSES = 10
HARMLESS = 0.05
"""A loss of expected reward below this, 5% of the peak's reward, counts as no harm."""
RESTLESS = 2.0
"""A push "does not come to rest" if the second half of the run multiplies what it did by more."""

PULL, CONTRAST = "best of N", "IPO"
PAPER = "Tajwar et al. 2024, ablations of section 5.2"
OURS = "this project"


def name_of(against: str, strength: float) -> str:
    """The name of a variant at a strength."""
    return f"{against} {strength:g}"


OBJECTIVES = {
    PULL: BestOfN(),
    CONTRAST: IPO(tau=0.05, threshold=0.2),
    **{
        name_of(against, strength): UnlikelihoodBestOfN(beta=strength, against=against)
        for against in AGAINST
        for strength in STRENGTHS
    },
}
METHODS = {
    "R1": tuple(OBJECTIVES),
    "R2": (PULL, CONTRAST, *(name_of(against, MIDDLE) for against in AGAINST)),
}
"""Every strength on R1, where there is something to gain; the middle one on R2."""

Measured = Mapping[tuple[str, str], np.ndarray]
"""``[seeds, records]`` by (problem, method)."""


def run(size: Size) -> Result:
    """Train every method."""
    steps = size.choose(100, STEPS, STEPS)
    prompts = size.choose(5, 10, 10)
    columns = [(problem, method) for problem in PROBLEMS for method in METHODS[problem]]
    collection = Collection(source="dataset", prompts=prompts, responses=RESPONSES)
    recipes = merged([Recipe(OBJECTIVES[method], collection) for _, method in columns])
    traces = sweep(
        [
            Setting(recipe, PROBLEMS[problem], LEARNING_RATE)
            for recipe, (problem, _) in zip(recipes, columns, strict=True)
        ],
        ContextualMLP(),
        size.seeds,
        steps,
        record_every=RECORD_EVERY,
        keep=("reward", "rejected_log_ratio"),
    )
    reward = dict(zip(columns, traces["reward"], strict=True))
    rejected = dict(zip(columns, traces["rejected_log_ratio"], strict=True))
    arrays = {
        f"{problem}: {name}": np.stack([values[problem, method] for method in METHODS[problem]])
        for problem in PROBLEMS
        for name, values in (("reward", reward), ("rejected", rejected))
    }
    return Result(
        name="unlikelihood",
        verdicts=judge(reward, rejected),
        arrays={"step": np.arange(0, steps + 1, RECORD_EVERY)} | arrays,
        settings={
            "methods": {problem: list(METHODS[problem]) for problem in PROBLEMS},
            "against": list(AGAINST),
            "strengths": list(STRENGTHS),
            "middle": MIDDLE,
            "learning_rate": LEARNING_RATE,
            "prompts": prompts,
            "responses": RESPONSES,
            "steps": steps,
            "seeds": size.seeds,
        },
    )


def judge(reward: Measured, rejected: Measured) -> list[Verdict]:
    """Every verdict, from expected rewards and the losers' log-ratios."""
    final = {column: values[:, -1] for column, values in reward.items()}
    best = {
        against: tuned(np.stack([final["R1", name_of(against, s)] for s in STRENGTHS]))
        for against in AGAINST
    }
    pull, contrast = final["R1", PULL], final["R1", CONTRAST]
    gain = {against: difference(best[against], pull) for against in AGAINST}
    short = {against: difference(contrast, best[against]) for against in AGAINST}
    on_r2 = {
        against: difference(final["R2", name_of(against, MIDDLE)], final["R2", PULL])
        for against in AGAINST
    }
    pushes = {against: rejected["R1", name_of(against, MIDDLE)] for against in AGAINST}
    growth = {against: second_half(values) for against, values in pushes.items()}
    at_rest = ", ".join(
        f"{np.exp(g.mean):.1f} times ({name})"
        for name, g in (growth | {CONTRAST: second_half(rejected["R1", CONTRAST])}).items()
    )
    ends = ", ".join(f"{np.median(pushes[against][:, -1]):.0f}" for against in UNBOUNDED)
    return [
        judged(
            "An explicit push lifts best-of-N where the peak is far (R1)",
            source=PAPER,
            evidence=f"gain over best-of-N ({interval(pull)}) at the best strength: {listed(gain)}",
            holds={against: gain[against].low > 0 for against in AGAINST},
            subject="the push is against the",
        ),
        judged(
            "No explicit push does as well on R1 as a contrastive loss",
            source=OURS,
            evidence=f"IPO ({interval(contrast)}) minus each at its best strength: {listed(short)}",
            holds={against: short[against].low > 0 for against in AGAINST},
            subject="the push is against the",
        ),
        judged(
            "Where the peak is near (R2) an explicit push does no harm",
            source=OURS,
            evidence=f"strength {MIDDLE:g}, minus best-of-N "
            f"({interval(final['R2', PULL])}): {listed(on_r2)}; harm means more than {HARMLESS}",
            holds={against: on_r2[against].low > -HARMLESS for against in AGAINST},
            subject="the push is against the",
        ),
        judged(
            "A push without a floor does not come to rest",
            source=OURS,
            evidence=f"strength {MIDDLE:g} on R1: the run's second half multiplies the losers' "
            f"log-ratio by {at_rest}; {', '.join(UNBOUNDED)} end at {ends} nats (median)",
            holds={against: growth[against].low > np.log(RESTLESS) for against in UNBOUNDED},
            subject="the push is against the",
        ),
    ]


def tuned(final: np.ndarray) -> np.ndarray:
    """Each seed's final reward at the strength that is best on average over the other seeds.

    Args:
        final: [strengths, seeds].

    Returns:
        [seeds].
    """
    others = final.sum(axis=1, keepdims=True) - final
    return np.take_along_axis(final, others.argmax(axis=0)[None], axis=0)[0]


def second_half(values: np.ndarray) -> Interval:
    """Log of the factor by which the second half of a run multiplies a measure that keeps its sign.

    Args:
        values: [seeds, records].
    """
    return interval(np.log(values[:, -1] / values[:, values.shape[1] // 2]))


def listed(values: Mapping[str, Interval]) -> str:
    """Signed differences with the variant each belongs to."""
    return ", ".join(f"{v.mean:+.2f} ± {v.half_width:.2f} ({name})" for name, v in values.items())
