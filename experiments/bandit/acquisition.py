"""Which labels are worth asking for, and why?

Command: ``modeseek reproduce acquisition``. Hardware and time: 46 s on one of two cores.
Number to expect: certainty within 0.1 of random choice everywhere, and a choice that knows the
reward 0.4 to 0.6 above it where the peak is far. Feeds ``figures/acquisition.py``.

Active preference learning (``bandit.active``): in each of 12 rounds the policy proposes one pair in
each of 256 contexts, an acquisition function chooses 16 of them (as in the paper's summaries, one
in 16), the chosen are labelled by the true reward, and DPO learns from all labels so far. A
function is judged by the mean reward over the rounds, the area under the curve of reward against
labels, paired by seed against random choice, in eight places:

- R1, whose peak is far from the reference, or R2, whose peak is near;
- learning is *going on* from the last round, or starts *anew* from the reference with all labels
  so far, as in the paper, for 40 steps of 32 labels (80 epochs in the first round, 6.7 in the
  last);
- labels are *exact*, or *noisy*: Bradley-Terry at a temperature of 0.1, a tenth of the peak's
  reward, so that a label on two responses of about equal reward is a coin flip. Exact labels rank
  even those, as no human would.

Why a function works: a label should be worth what the policy stands to lose without it. That is the
product of what is at *stake* in the pair (the difference in reward) and how *wrong* the policy is
(the probability that its implicit rewards give to the worse response, which is also the pair's
weight in DPO's gradient if the label is right). ``regret`` knows the true reward and buys the
largest products: the yardstick for what there is to gain. No other function sees either factor.
They are averaged over the pairs bought from the second round on, by each function along its own
path; the first round is chosen at random by every function that goes by beliefs, because there are
none yet. A seed whose policy has collapsed onto one answer has no pairs to buy, and is left out of
these averages. The average product is not the whole story: on R1 uncertainty raises it too, by
pairs with less at stake than chance's, and is no faster than chance.

An interval misses zero upwards by luck once in 40, so of eight places one is named by luck in every
fifth row of verdicts. There are twice as many seeds as in other experiments because the differences
are small.

The network is a small version of the paper's (20 inputs, layers of 16, 32 and 32). DPO's beta of 1
and the learning rate of 0.03 are those at which *random* choice does best on average over the eight
places, among beta 0.3, 1, 3 and learning rates 0.003, 0.01, 0.03, 0.1, on 8 seeds that are not used
here. ``middle`` and ``tails``, ablations between certainty and uncertainty, and ``disagreement``,
which doubles the cost with its second network, are left to ``bandit.active``.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from bandit import R1, R2, ContextualMLP, seed_keys
from bandit.active import ACQUISITIONS, ActiveTrace, Campaign, active, prepare
from bandit.sweep import COMPILER_OPTIONS, Keys, chunk_size, in_chunks
from experiments.intervals import Interval, difference, interval
from experiments.outcomes import judged
from experiments.results import Result, Size, Verdict
from objectives import DPO

FUNCTIONS = ("random", "certainty", "uncertainty", "entropy", "hybrid", "diverse", "regret")
PROBLEMS = {"R1": R1, "R2": R2}
RESTARTS = {"going on": False, "anew": True}
"""Whether each round starts from the reference, by name."""
LABELS = {"exact": 0.0, "noisy": 0.1}
"""Temperature of the Bradley-Terry labels by kind."""
PLACES = tuple(", ".join(place) for place in itertools.product(PROBLEMS, RESTARTS, LABELS))
POLICY = ContextualMLP(context_size=20, features=16, hidden=32, evaluation_contexts=50)
CAMPAIGN = Campaign(
    objective=DPO(beta=1.0),
    learning_rate=0.03,
    prompts=256,
    candidates=256,
    labels=16,
    pool=64,
    steps=40,
    members=1,
)
APL = "Muldrew et al. 2024, arXiv:2402.08114"
OURS = "this project"

MEANINGS = {
    "area": "mean reward over the rounds",
    "stake": "difference in reward within a pair bought",
    "wrongness": "probability given to the worse response of a pair bought",
    "regret": "stake x wrongness of a pair bought",
    "truth": "share of labels that put the better response first",
    "surprise": "share of labels that the policy had not expected",
    "choice": "share of the last candidates whose two responses differ",
}
"""What is measured of every campaign."""

PerSeed = Mapping[tuple[str, str], np.ndarray]
"""One number per seed by (place, acquisition function)."""
Measures = Mapping[str, PerSeed]
"""What was measured, by the names in ``MEANINGS``."""
Run = tuple[Array, ...]
"""Problem, restart, temperature of the labels, acquisition function, seed."""


def run(size: Size) -> Result:
    """Run every acquisition function in every place."""
    campaign = replace(CAMPAIGN, rounds=size.choose(4, 12, 24))
    seeds = 2 * size.seeds
    numbers = [ACQUISITIONS.index(name) for name in FUNCTIONS]
    worlds = (range(len(PROBLEMS)), RESTARTS.values(), LABELS.values(), numbers, range(seeds))
    runs = tuple(jnp.asarray(column) for column in zip(*itertools.product(*worlds), strict=True))
    trace = campaigns(campaign)(runs, seed_keys(0, seeds))
    shape = (len(PLACES), len(FUNCTIONS), seeds, campaign.rounds + 1)
    reward, choice = (np.asarray(x).reshape(shape) for x in (trace.reward, trace.choice))
    bought = np.diff(np.asarray(trace.labels).reshape(shape), axis=-1)[..., 1:]
    measures = {
        "area": reward[..., 1:].mean(axis=-1),
        "choice": choice[..., -1],
        **{
            name: per_label(np.asarray(getattr(trace, name)).reshape(shape)[..., 2:], bought)
            for name in ("stake", "wrongness", "regret", "truth", "surprise")
        },
    }
    return Result(
        name="acquisition",
        verdicts=judge({name: by_place(values) for name, values in measures.items()}),
        arrays={
            "reward": reward,
            "labels": campaign.labels * np.arange(campaign.rounds + 1),
            **measures,
        },
        settings={
            "functions": list(FUNCTIONS),
            "places": list(PLACES),
            "label_temperatures": LABELS,
            "beta": float(CAMPAIGN.objective.beta),
            "learning_rate": float(CAMPAIGN.learning_rate),
            "contexts": campaign.prompts,
            "candidates": campaign.candidates,
            "labels_per_round": campaign.labels,
            "steps_per_round": campaign.steps,
            "rounds": campaign.rounds,
            "seeds": seeds,
        },
    )


def campaigns(campaign: Campaign) -> Callable[[Run, Keys], ActiveTrace]:
    """The compiled program of all runs; a seed's start is shared by all of its runs."""
    problems = jax.tree.map(lambda *leaves: jnp.stack(leaves), *PROBLEMS.values())

    def everything(runs: Run, keys: Keys) -> ActiveTrace:
        # Both problems have the same reference.
        starts = in_chunks(lambda key: prepare(campaign, R1, POLICY, key), keys, chunk_size(POLICY))

        def one(run: Run) -> ActiveTrace:
            world, restart, temperature, number, seed = run
            mine = replace(
                campaign, acquisition=number, label_temperature=temperature, restart=restart
            )
            problem = jax.tree.map(lambda leaf: leaf[world], problems)
            start = jax.tree.map(lambda leaf: leaf[seed], starts)
            return active(mine, problem, POLICY, keys[seed], start)

        return in_chunks(one, runs, chunk_size(POLICY))

    return jax.jit(everything, compiler_options=COMPILER_OPTIONS)


def per_label(values: np.ndarray, bought: np.ndarray) -> np.ndarray:
    """Mean over the labels of all rounds, from the rounds' means; NaN where none was bought."""
    count = bought.sum(axis=-1)
    mean = (values * bought).sum(axis=-1) / np.maximum(count, 1)
    return np.where(count > 0, mean, np.nan)


def gap(a: np.ndarray, b: np.ndarray) -> Interval:
    """Mean and half-width of a - b, paired by seed, over the seeds that have both."""
    both = np.isfinite(a) & np.isfinite(b)
    return difference(a[both], b[both])


def by_place(values: np.ndarray) -> PerSeed:
    """Look up an array ``[places, functions, seeds]`` by the names of its first two axes."""
    return {
        (place, name): values[i, j]
        for i, place in enumerate(PLACES)
        for j, name in enumerate(FUNCTIONS)
    }


def judge(measures: Measures) -> list[Verdict]:
    """Every verdict; a gap whose interval holds 0 is no difference."""
    tell = functools.partial(ahead, measures)
    return [
        tell("Preference certainty needs fewer labels than chance", "certainty", source=APL),
        tell("So does certainty in the contexts of highest entropy", "hybrid", source=APL),
        tell("So does predictive entropy alone, if less reliably", "entropy", source=APL),
        tell(
            "Certainty needs fewer labels than its opposite, uncertainty",
            "certainty",
            than="uncertainty",
            source=APL,
        ),
        tell("A choice that knows the reward needs fewer labels than chance", "regret"),
        tell("Spreading the answers out needs fewer labels than chance", "diverse"),
        tell("Certainty buys pairs with more at stake than chance does", "certainty", "stake"),
        tell("But pairs on which the policy is less wrong", "certainty", "wrongness", sign=-1),
        tell("So its labels are worth less: stake x wrongness", "certainty", "regret", sign=-1),
        tell("Uncertainty's labels are worth more than chance's", "uncertainty", "regret"),
        tell("So uncertainty needs fewer labels than chance", "uncertainty"),
        tell(
            "Where labels are noisy, certainty's are right more often than chance's",
            "certainty",
            "truth",
            places=[place for place in PLACES if place.endswith("noisy")],
        ),
        collapse(measures["choice"]),
    ]


def ahead(
    measures: Measures,
    claim: str,
    name: str,
    measure: str = "area",
    *,
    than: str = "random",
    sign: int = 1,
    places: Sequence[str] = PLACES,
    source: str = OURS,
) -> Verdict:
    """Whether a function has more of something than another, and where.

    Args:
        measures: what was measured.
        claim: what is claimed.
        name: the function the claim is about.
        measure: of what it has more.
        than: the function it is compared with.
        sign: -1 if it is claimed to have less.
        places: where the claim is tested.
        source: who claims it.
    """
    values = measures[measure]
    gaps = {place: gap(values[place, name], values[place, than]) for place in places}
    opposite = [place for place, g in gaps.items() if -sign * g.mean > g.half_width]
    return judged(
        claim,
        source=source,
        evidence=f"{MEANINGS[measure]}, {name} - {than}: "
        + "; ".join(f"{g.mean:+.2f} ± {g.half_width:.2f} ({place})" for place, g in gaps.items())
        + (f"; the opposite on {' or '.join(opposite)}" if opposite else ""),
        holds={place: sign * g.mean > g.half_width for place, g in gaps.items()},
        subject="on",
    )


def collapse(choice: PerSeed) -> Verdict:
    """Whether exact labels leave fewer candidates that differ than noisy ones, with chance."""
    ways = [", ".join(way) for way in itertools.product(PROBLEMS, RESTARTS)]
    left = {way: [choice[f"{way}, {kind}", "random"] for kind in LABELS] for way in ways}
    return judged(
        "Exact labels soon leave less choice: the policy collapses and proposes equal answers",
        source=OURS,
        evidence=f"{MEANINGS['choice']}, exact against noisy labels, random choice: "
        + "; ".join(
            f"{interval(exact)} against {interval(noisy)} ({way})"
            for way, (exact, noisy) in left.items()
        ),
        holds={way: difference(exact, noisy).high < 0 for way, (exact, noisy) in left.items()},
        subject="on",
    )
