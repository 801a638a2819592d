"""Do on-policy data and a negative gradient add up, on text?

Command: ``modeseek reproduce text_complementarity``. Hardware and time: 38 minutes on two
cores, and what ``text_negative_gradient`` takes where it has not run. Feeds
``figures/text_complementarity.py``.

Offline methods learn from 512 prompts with four answers each, ordered by the gold reward. Online
methods answer 8 of these prompts at every step, four times each, and are rewarded by a proxy that
was trained on the same data, so both have seen the same labels. Gradient steps and prompts in a
step are equal. Everything is judged by the gold reward on held-out questions, as a share of what
there is to gain.

On-policy against offline is judged by the gain at the end; among on-policy methods, of which
several arrive, it is the mean gain over the run. Every method runs at each of three learning rates
and is judged at its own best, chosen without peeking (``tuning``).
"""

from collections.abc import Iterable, Mapping

import numpy as np

from experiments.intervals import Interval, difference
from experiments.llm.methods import LEARNING_RATES, METHODS
from experiments.llm.runs import Run, Unit, gain, steps_of, units_of
from experiments.llm.study import study_of
from experiments.llm.tasks import TASKS
from experiments.llm.tuning import best_of, favourite
from experiments.outcomes import judged
from experiments.results import Result, Size, Verdict

FRESH = {
    "best-of-N": "online best-of-N",
    "RWR": "online RWR",
    "DPO": "online DPO",
    "IPO": "online IPO",
}
"""Methods that can learn from a data set, and the same on fresh answers."""
CONTRASTIVE = ("online DPO", "online IPO")
SUPERVISED = ("online best-of-N", "online RWR")
GRADIENTS = ("REINFORCE", "PPO")
NAMES = (*FRESH, *FRESH.values(), *GRADIENTS)
WORTH = 0.01
"""A lead of less than 1% of what there is to gain counts as none, however sure it is."""
PAPER = "Tajwar et al. 2024, section 5.3"

Gains = Mapping[tuple[str, str], np.ndarray]
"""Share of what there is to gain ``[learning rates, seeds, records]`` by (task, method)."""


def cell(task: str, method: str, rate: float) -> Run:
    """A run of the comparison, with the first seed."""
    return Run(task=task, method=method, seed=0, learning_rate=rate)


def runs() -> list[Run]:
    """Every run the experiment reads, with the first seed."""
    return [cell(task, m, rate) for task in TASKS for m in NAMES for rate in LEARNING_RATES]


def units(size: Size) -> list[Unit]:
    """What has to be computed before the experiment can be read."""
    return units_of(study_of(size), runs(), size.seeds)


def run(size: Size) -> Result:
    """Compare every method on every task."""
    study = study_of(size)
    gains = {
        (task, method): np.array(
            [gain(study, cell(task, method, rate), size.seeds) for rate in LEARNING_RATES]
        )
        for task in TASKS
        for method in NAMES
    }
    return Result(
        name="text_complementarity",
        verdicts=judge(gains),
        arrays={
            "step": steps_of(study, cell(next(iter(TASKS)), NAMES[0], LEARNING_RATES[0])),
            **arrays_of(gains),
        },
        settings={
            "tasks": list(TASKS),
            "methods": [METHODS[name].title for name in NAMES],
            "objectives": [METHODS[name].objective for name in NAMES],
            "sources": ["policy" if METHODS[name].online else "dataset" for name in NAMES],
            "learning_rates": list(LEARNING_RATES),
            "prompts": study.data_prompts,
            "batch": study.batch,
            "responses": study.responses,
            "seeds": size.seeds,
        },
    )


def arrays_of(gains: Gains) -> dict[str, np.ndarray]:
    """The gains [tasks, methods, learning rates, seeds, records], and what tuning makes of them.

    ``best`` is the rate with the best mean over the run, ``tuned`` that mean for every seed at the
    rate that was best for the others.
    """
    scores = {place: over_the_run(curves) for place, curves in gains.items()}
    return {
        "gain": np.array([[gains[task, method] for method in NAMES] for task in TASKS]),
        "best": np.array([[favourite(scores[task, name]) for name in NAMES] for task in TASKS]),
        "tuned": np.array([[best_of(scores[task, name]) for name in NAMES] for task in TASKS]),
    }


def judge(gains: Gains) -> list[Verdict]:
    """Every verdict, from the gains alone."""
    return [
        fresh_data_help(gains, "a contrastive objective", ("DPO", "IPO")),
        fresh_data_help(gains, "a supervised objective", ("best-of-N", "RWR")),
        contrastive_wins(gains, "supervised learning", SUPERVISED),
        contrastive_wins(gains, "reinforcement learning", GRADIENTS),
    ]


def at_the_end(curves: np.ndarray) -> np.ndarray:
    """The last gain of each run."""
    return curves[..., -1]


def over_the_run(curves: np.ndarray) -> np.ndarray:
    """The mean gain of each run."""
    return curves.mean(axis=-1)


def fresh_data_help(gains: Gains, what: str, members: Iterable[str]) -> Verdict:
    """Held for a method on a task if on-policy, tuned, it ends above itself offline, tuned."""
    scores = {place: at_the_end(curves) for place, curves in gains.items()}
    gaps = {
        (member, task): difference(
            best_of(scores[task, FRESH[member]]), best_of(scores[task, member])
        )
        for member in members
        for task in TASKS
    }
    return judged(
        f"On text, on-policy data improve {what}",
        source=PAPER,
        evidence="gain at the end, each tuned, on-policy - offline: " + listed(gaps),
        holds=names_of(gaps),
        subject="for",
    )


def contrastive_wins(gains: Gains, what: str, rivals: Iterable[str]) -> Verdict:
    """Held against a rival on a task if the better of DPO and IPO is ahead over the run, tuned."""
    scores = {place: over_the_run(curves) for place, curves in gains.items()}
    gaps = {
        (rival, task): difference(
            best_of(np.concatenate([scores[task, ours] for ours in CONTRASTIVE])),
            best_of(scores[task, rival]),
        )
        for rival in rivals
        for task in TASKS
    }
    rates = ", ".join(
        f"{METHODS[name].title} "
        + "/".join(f"{LEARNING_RATES[favourite(scores[task, name])]:g}" for task in TASKS)
        for name in (*CONTRASTIVE, *rivals)
    )
    return judged(
        f"On text, a contrastive objective on on-policy data beats on-policy {what}",
        source=PAPER,
        evidence="mean gain over the run, each tuned, best of DPO and IPO - rival: "
        f"{listed(gaps)}; best rates on {'/'.join(TASKS.values())}: {rates}",
        holds=names_of(gaps),
        subject="against",
    )


def ahead(gap: Interval) -> bool:
    """Whether a difference is surely above 0, and worth naming."""
    return gap.low > 0 and gap.mean > WORTH


def names_of(gaps: Mapping[tuple[str, str], Interval]) -> dict[str, bool]:
    """In which places somebody is ahead."""
    return {f"{METHODS[m].title} on {TASKS[task]}": ahead(gap) for (m, task), gap in gaps.items()}


def listed(gaps: Mapping[tuple[str, str], Interval]) -> str:
    """The differences with their places."""
    return ", ".join(
        f"{METHODS[method].title} on {TASKS[task]} {gap.mean:+.2f} ± {gap.half_width:.2f}"
        for (method, task), gap in gaps.items()
    )
