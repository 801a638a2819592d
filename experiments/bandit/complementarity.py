"""Do on-policy data and a negative gradient add up?

Command: ``modeseek reproduce complementarity``. Hardware and time: 40 s on one of two cores. Number
to expect: on R1, tuned, best-of-N ends 0.70 higher on-policy than offline, IPO 0.56. Feeds
``figures/complementarity.py``; ``frontier`` starts from its runs.

Every method takes 120 full-batch Adam steps with 10 contexts and N = 10 responses for each. Offline
the responses are drawn from the reference once; on-policy they are drawn from the policy at every
step (PPO: at every second step). Gradient steps are equal; labels are not: 100 against 12,000.

*Matched* compares at equal learning rates, the two of the authors' scripts for IPO. *Tuned* gives
each method its own best, chosen without peeking: seed s is scored at the rate that was best on
average over the other seeds; of several methods the best is chosen the same way. ``--full`` is
longer and adds the rate of the authors' on-policy best-of-N.

Other numbers: DPO's beta is 0.1; IPO's target gap is the scripts' 10 nats (tau = 0.05). Both use
all pairs, or only those that differ by 0.2 in reward: the scripts do the first on-policy and the
second offline, and here both are done in both. RWR's temperature is the authors' default, 0.05;
REINFORCE has the leave-one-out baseline; PPO and GRPO compare within a prompt, with a floor of 0.05
under the standard deviation; GRPO has its usual k3 penalty of 0.04. For the frontier a few more
strengths of regularisation run at the lower rate.

On-policy against offline is judged by the reward at the end: offline learning stops where its data
do. Among on-policy methods, which nearly all end near 1, it is the mean reward over the run.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from bandit import R1, R2, ContextualMLP, Setting, sweep
from experiments.intervals import Interval, difference
from experiments.merged import merged
from experiments.outcomes import judged
from experiments.results import Result, Size, Verdict
from objectives import (
    DPO,
    IPO,
    PPO,
    REINFORCE,
    RWR,
    BestOfN,
    Collection,
    KLPenalty,
    Recipe,
    Reuse,
)

PROBLEMS = {"R1": R1, "R2": R2}
CONTEXTS = 10
RESPONSES = 10
EVALUATED_ON = 40
RECORD_EVERY = 5
MATCHED = 0.003
"""Learning rate of the runs that only the frontier reads."""
THRESHOLD = 0.2
UNCAPPED = float("inf")
WORTH = 0.01
"""A lead of less than 1% of the peak's reward counts as none, however sure it is."""
FAMILIES = {
    "supervised": ("best-of-N", "RWR"),
    "contrastive": ("DPO", "DPO, threshold", "IPO", "IPO, threshold"),
    "policy gradient": ("REINFORCE", "PPO", "GRPO"),
}
PAPER = "Tajwar et al. 2024, section 5.3"


class Run(NamedTuple):
    """Everything about a run but its seed.

    Attributes:
        method: as it is called in the figures.
        objective: class of the objective.
        source: ``"dataset"`` (offline) or ``"policy"`` (on-policy).
        beta: strength of the objective's own regularisation; None where it has none.
        problem: which reward.
        learning_rate: Adam's.
    """

    method: str
    objective: str
    source: str
    beta: float | None
    problem: str
    learning_rate: float


Rewards = Mapping[tuple[str, str, str, float], np.ndarray]
"""Expected reward ``[seeds, records]`` by (method, source, problem, learning rate)."""


def methods(source: str) -> dict[tuple[str, float | None], Recipe]:
    """The methods of one column by name and strength of regularisation."""
    data = Collection(source=source, prompts=CONTEXTS, responses=RESPONSES)  # pyright: ignore
    recipes = {
        ("best-of-N", None): Recipe(BestOfN(), data),
        ("RWR", 0.05): Recipe(RWR(beta=0.05, max_weight=UNCAPPED), data),
        ("DPO", 0.1): Recipe(DPO(beta=0.1), data),
        ("DPO, threshold", 0.1): Recipe(DPO(beta=0.1, threshold=THRESHOLD), data),
        ("IPO", 0.05): Recipe(IPO(tau=0.05), data),
        ("IPO, threshold", 0.05): Recipe(IPO(tau=0.05, threshold=THRESHOLD), data),
        ("IPO", 0.5): Recipe(IPO(tau=0.5), data),
    }
    if source == "dataset":
        recipes["RWR", 1.0] = Recipe(RWR(beta=1.0, max_weight=UNCAPPED), data)
        recipes["DPO", 1.0] = Recipe(DPO(beta=1.0), data)
        return recipes
    for beta in (0.0, 0.1, 0.3):
        objective = REINFORCE(kl=KLPenalty(beta, "k2"))
        recipes["REINFORCE", beta] = Recipe(objective, data, advantage="leave_one_out")
    grouped = {"advantage": "group_zscore", "std_floor": 0.05}
    grpo = PPO(normalize="length", kl=KLPenalty(0.04, "k3"))
    recipes["PPO", None] = Recipe(PPO(), data, Reuse(inner_steps=2), **grouped)
    recipes["GRPO", 0.04] = Recipe(grpo, data, **grouped)
    return recipes


STANDARD = {"best-of-N": None, "RWR": 0.05, "DPO": 0.1, "DPO, threshold": 0.1, "IPO": 0.05}
STANDARD |= {"IPO, threshold": 0.05, "REINFORCE": 0.0, "PPO": None, "GRPO": 0.04}
"""The strength with which each method enters the comparison, at every learning rate."""


def run(size: Size) -> Result:
    """Train every method offline and on-policy, one program for each."""
    steps = size.choose(60, 120, 400)
    rates = size.choose((0.003, 0.01), (0.003, 0.01), (0.001, 0.003, 0.01))
    runs: list[Run] = []
    traces = []
    for source in ("dataset", "policy"):
        recipes = methods(source)
        shared = dict(zip(recipes, merged(list(recipes.values())), strict=True))
        column = [
            Run(name, type(recipe.objective).__name__, source, beta, problem, rate)
            for (name, beta), recipe in recipes.items()
            for problem in PROBLEMS
            for rate in rates
            if rate == MATCHED or beta == STANDARD[name]
        ]
        settings = [
            Setting(shared[one.method, one.beta], PROBLEMS[one.problem], one.learning_rate)
            for one in column
        ]
        traces.append(
            sweep(
                settings,
                ContextualMLP(evaluation_contexts=EVALUATED_ON),
                size.seeds,
                steps,
                record_every=RECORD_EVERY,
                keep=("reward", "reverse_kl"),
            )
        )
        runs += column
    arrays = {
        name: np.concatenate([trace[name] for trace in traces]) for name in ("reward", "reverse_kl")
    }
    return Result(
        name="complementarity",
        verdicts=judge(table(runs, arrays["reward"])),
        arrays={"step": np.arange(0, steps + 1, RECORD_EVERY)} | arrays,
        settings={
            "runs": [one._asdict() for one in runs],
            "standard": STANDARD,
            "families": {family: list(members) for family, members in FAMILIES.items()},
            "learning_rates": list(rates),
            "matched": MATCHED,
            "threshold": THRESHOLD,
            "contexts": CONTEXTS,
            "responses": RESPONSES,
            "steps": steps,
            "seeds": size.seeds,
        },
    )


def table(runs: Iterable[Run], reward: np.ndarray) -> Rewards:
    """The runs of the comparison: every method at its standard strength."""
    return {
        (one.method, one.source, one.problem, one.learning_rate): values
        for one, values in zip(runs, reward, strict=True)
        if one.beta == STANDARD[one.method]
    }


def judge(reward: Rewards) -> list[Verdict]:
    """Every verdict, from the rewards alone."""
    return [
        fresh_data_help(reward, "a contrastive objective", FAMILIES["contrastive"]),
        fresh_data_help(reward, "a supervised objective", FAMILIES["supervised"]),
        contrastive_wins(reward, "supervised learning", FAMILIES["supervised"]),
        contrastive_wins(reward, "reinforcement learning", FAMILIES["policy gradient"]),
    ]


def best_of(candidates: np.ndarray) -> np.ndarray:
    """Each seed's score with the candidate that is best on average over the other seeds.

    Args:
        candidates: [candidates, seeds].

    Returns:
        [seeds].
    """
    others = candidates.sum(axis=1, keepdims=True) - candidates
    return np.take_along_axis(candidates, others.argmax(axis=0)[None], axis=0)[0]


def rates_of(reward: Rewards) -> list[float]:
    """The learning rates that were compared."""
    return sorted({rate for *_, rate in reward})


def score(
    measure: Callable[[np.ndarray], np.ndarray],
    reward: Rewards,
    members: Iterable[str],
    source: str,
    problem: str,
    rates: Iterable[float],
) -> np.ndarray:
    """Of the best of some methods at the best of some rates, one number per seed.

    Args:
        measure: from curves [seeds, records] to a number per seed.
        reward: of every run.
        members: the methods.
        source: ``"dataset"`` or ``"policy"``.
        problem: ``"R1"`` or ``"R2"``.
        rates: the learning rates.
    """
    return best_of(
        np.stack(
            [
                measure(reward[member, source, problem, rate])
                for member, rate in itertools.product(members, tuple(rates))
            ]
        )
    )


def at_the_end(curves: np.ndarray) -> np.ndarray:
    """The last reward of each seed."""
    return curves[:, -1]


def over_the_run(curves: np.ndarray) -> np.ndarray:
    """The mean reward of each seed."""
    return curves.mean(axis=-1)


def fresh_data_help(reward: Rewards, what: str, members: Iterable[str]) -> Verdict:
    """Held on a problem if on-policy ends above offline for each method, matched and tuned."""
    rates = rates_of(reward)
    holds, evidence = {}, []
    for problem in PROBLEMS:

        def gap(member: str, rates: Iterable[float], problem: str = problem) -> Interval:
            fresh = score(at_the_end, reward, (member,), "policy", problem, rates)
            return difference(
                fresh, score(at_the_end, reward, (member,), "dataset", problem, rates)
            )

        tuned = {member: gap(member, rates) for member in members}
        matched = {
            f"{member} at {rate:g}": gap(member, (rate,)) for member in members for rate in rates
        }
        weakest = min(matched, key=lambda case: matched[case].low)
        holds[problem] = all(map(ahead, (*tuned.values(), *matched.values())))
        evidence.append(
            f"{problem} tuned: "
            + ", ".join(f"{member} {shown(value)}" for member, value in tuned.items())
            + f"; least sure matched: {weakest} {shown(matched[weakest])}"
        )
    return judged(
        f"On-policy data improve {what}",
        source=PAPER,
        evidence="reward at the end, on-policy - offline. " + ". ".join(evidence),
        holds=holds,
        subject="on",
    )


def contrastive_wins(reward: Rewards, what: str, rivals: Iterable[str]) -> Verdict:
    """Held against a rival on a problem if the best of DPO and IPO is ahead, matched and tuned."""
    rates = rates_of(reward)
    holds, evidence = {}, []
    for problem in PROBLEMS:
        lines = []
        for rival in rivals:
            gaps = {}
            for how, chosen in {**{f"{rate:g}": (rate,) for rate in rates}, "tuned": rates}.items():
                ours = score(
                    over_the_run, reward, FAMILIES["contrastive"], "policy", problem, chosen
                )
                gaps[how] = difference(
                    ours, score(over_the_run, reward, (rival,), "policy", problem, chosen)
                )
            holds[f"{rival} on {problem}"] = all(map(ahead, gaps.values()))
            rows = [f"{shown(gap)} {at(how)}" for how, gap in gaps.items()]
            lines.append(f"{rival} {', '.join(rows)}")
        evidence.append(f"{problem}: " + "; ".join(lines))
    return judged(
        f"A contrastive objective on on-policy data beats on-policy {what}",
        source=PAPER,
        evidence="mean reward over the run, best of DPO and IPO - rival. " + ". ".join(evidence),
        holds=holds,
        subject="against",
    )


def ahead(gap: Interval) -> bool:
    """Whether a difference is surely above 0, and worth naming."""
    return gap.low > 0 and gap.mean > WORTH


def at(how: str) -> str:
    """A learning rate, or that it was tuned."""
    return how if how == "tuned" else f"at {how}"


def shown(value: Interval) -> str:
    """As in ``+0.21 ± 0.03``, with a third digit where the interval needs it."""
    digits = 2 if value.half_width >= 0.01 else 3
    return f"{value.mean:+.{digits}f} ± {value.half_width:.{digits}f}"


def settings_of(result: Result) -> list[Run]:
    """The runs of a stored result."""
    rows: list[dict[str, Any]] = result.settings["runs"]
    return [Run(**row) for row in rows]
