"""Which labels are worth asking for?

Command: ``modeseek reproduce acquisition``. Hardware and time: 18 s on one of two cores.
Number to expect: labels on random pairs bring the policy to a reward of about 0.6 after 192 of
them, whether they are exact or noisy, and no acquisition function is faster. Feeds
``figures/acquisition.py``.

Active preference learning on R1 (``bandit.active``): in each of 12 rounds the policy proposes one
pair in each of 64 contexts, an acquisition function chooses 16 of them, the chosen are labelled by
the true reward, and DPO goes on learning from all labels so far. A function is judged by the mean
reward over the rounds, the area under the curve of reward against labels, paired by seed against
random choice. The first choice is random for every function that goes by the policy's beliefs,
because it has none yet.

Labels are exact, or noisy: Bradley-Terry at a temperature of 0.1, a tenth of the peak's reward, so
that far from the peak, where all rewards are nearly 0, a label is a coin flip. Exact labels rank
even those, as no human would.

The network is a small version of the paper's (20 inputs, layers of 16, 32 and 32), so that a second
one can be trained beside it for ``disagreement``. DPO's beta of 2 and the learning rate of 0.01 are
those at which *random* choice does best, over both kinds of labels, among beta 0.1, 0.2, 0.5, 1, 2
and learning rates 0.001, 0.003, 0.01, on 16 seeds that are not used here. With the beta of 0.2 of
the language-model study the policy collapses onto one bin before it has seen the peak.
"""

import itertools
from collections.abc import Mapping
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from bandit import R1, ContextualMLP, seed_keys
from bandit.active import ACQUISITIONS, ActiveTrace, Campaign, active
from bandit.sweep import COMPILER_OPTIONS, chunk_size, in_chunks
from experiments.intervals import Interval, difference, interval
from experiments.outcomes import judged
from experiments.results import Result, Size, Verdict
from objectives import DPO

LABELS = {"exact": 0.0, "noisy": 0.1}
"""Temperature of the Bradley-Terry labels by kind."""
POLICY = ContextualMLP(context_size=20, features=16, hidden=32, evaluation_contexts=50)
CAMPAIGN = Campaign(objective=DPO(beta=2.0), learning_rate=0.01, labels=16, members=2)
APL = "Muldrew et al. 2024, arXiv:2402.08114"
OURS = "this project"

PerSeed = Mapping[tuple[str, str], np.ndarray]
"""One number per seed by (acquisition function, kind of labels)."""


def run(size: Size) -> Result:
    """Run every acquisition function on both kinds of labels."""
    campaign = replace(CAMPAIGN, rounds=size.choose(4, 12, 24))
    columns = list(itertools.product(range(len(ACQUISITIONS)), LABELS.values()))
    numbers, temperatures = (np.repeat(column, size.seeds) for column in zip(*columns, strict=True))
    seeds = np.tile(np.arange(size.seeds), len(columns))
    trace = campaigns(campaign)(
        jnp.asarray(numbers, jnp.int32),
        jnp.asarray(temperatures, jnp.float32),
        seed_keys(0, size.seeds)[seeds],
    )
    shape = (len(ACQUISITIONS), len(LABELS), size.seeds, campaign.rounds + 1)
    arrays = {
        "reward": np.asarray(trace.reward).reshape(shape),
        "surprise": np.asarray(trace.surprise).reshape(shape),
        "bought": np.asarray(trace.labels).reshape(shape),
        "labels": campaign.labels * np.arange(campaign.rounds + 1),
    }
    areas, surprise = (
        {
            (name, kind): arrays[array][i, j, :, 1:].mean(axis=-1)
            for i, name in enumerate(ACQUISITIONS)
            for j, kind in enumerate(LABELS)
        }
        for array in ("reward", "surprise")
    )
    return Result(
        name="acquisition",
        verdicts=judge(areas, surprise),
        arrays=arrays,
        settings={
            "acquisitions": list(ACQUISITIONS),
            "kinds": list(LABELS),
            "label_temperatures": list(LABELS.values()),
            "beta": float(CAMPAIGN.objective.beta),
            "learning_rate": float(CAMPAIGN.learning_rate),
            "contexts": campaign.prompts,
            "candidates": campaign.candidates,
            "labels_per_round": campaign.labels,
            "steps_per_round": campaign.steps,
            "rounds": campaign.rounds,
            "seeds": size.seeds,
        },
    )


def campaigns(campaign: Campaign):
    """The compiled program of all runs: one number, one temperature and one key for each."""

    def one(run: tuple[Int[Array, ""], Float[Array, ""], PRNGKeyArray]) -> ActiveTrace:
        number, temperature, key = run
        mine = replace(campaign, acquisition=number, label_temperature=temperature)
        return active(mine, R1, POLICY, key)

    def runs(*inputs: Array) -> ActiveTrace:
        return in_chunks(one, inputs, chunk_size(POLICY))

    return jax.jit(runs, compiler_options=COMPILER_OPTIONS)


def judge(areas: PerSeed, surprise: PerSeed) -> list[Verdict]:
    """Every verdict; a gap whose interval holds 0 is no difference.

    Args:
        areas: mean reward over the rounds.
        surprise: mean share of the bought labels that the policy had not expected.
    """
    gaps = {key: difference(areas[key], areas["random", key[1]]) for key in areas}
    random = ", ".join(f"{interval(areas['random', kind])} ({kind})" for kind in LABELS)

    def against(a: str, b: str, values: PerSeed = areas) -> dict[str, Interval]:
        return {kind: difference(values[a, kind], values[b, kind]) for kind in LABELS}

    def faster(claim: str, name: str) -> Verdict:
        return judged(
            claim,
            source=APL,
            evidence=f"mean reward over the rounds, {name} - random: "
            + listed(against(name, "random")),
            holds={kind: gaps[name, kind].low > 0 for kind in LABELS},
            subject="the labels are",
        )

    slower, calmer = against("certainty", "random"), against("certainty", "random", surprise)
    better = [f"{name} ({kind})" for (name, kind), gap in gaps.items() if gap.low > 0]
    best = max(gaps, key=lambda key: gaps[key].mean)
    some = judged(
        "Some acquisition function, of the paper's or beyond, is faster than chance",
        source=OURS,
        evidence=f"faster of {len(ACQUISITIONS) - 1}: {', '.join(better) or 'none'}; best "
        f"{best[0]} - random {listed({best[1]: gaps[best]})}; mean reward over the rounds with "
        f"random choice {random}",
        holds={kind: any(gaps[name, kind].low > 0 for name in ACQUISITIONS[1:]) for kind in LABELS},
        subject="the labels are",
    )
    explore = judged(
        "Certainty is slower than chance: it buys answers that the policy expects",
        source=OURS,
        evidence=f"certainty - random: mean reward over the rounds {listed(slower)}; share of "
        f"surprising labels {listed(calmer)}",
        holds={kind: slower[kind].high < 0 for kind in LABELS},
        subject="the labels are",
    )
    return [
        faster("Preference certainty finds R1's peak with fewer labels than chance", "certainty"),
        faster("So does certainty in the contexts of highest entropy", "hybrid"),
        faster("So does predictive entropy alone, if less reliably", "entropy"),
        some,
        explore,
    ]


def listed(gaps: Mapping[str, Interval]) -> str:
    """Signed differences with the kind of labels each belongs to."""
    return ", ".join(f"{g.mean:+.2f} ± {g.half_width:.2f} ({kind})" for kind, g in gaps.items())
