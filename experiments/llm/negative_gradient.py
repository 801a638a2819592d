"""Offline on text: does pushing bad answers down beat only pulling good ones up?

Command: ``modeseek reproduce text_negative_gradient``. Hardware and time: 17 minutes on two cores.
Feeds ``figures/text_negative_gradient.py``.

Every method sees the same data: 512 prompts with N = 4 answers each, ordered by the gold reward,
8 prompts in a gradient step. Best-of-N imitates the best answer of each prompt, which with one
order per prompt is Pref-FT; reward-weighted regression imitates all of them with weights; DPO
(beta 0.1) and IPO (target gap 10 nats) compare all pairs. Answers of Min and Mode Length are the
reference's own; those of Skew Length are cut short.

Every method runs at each of three learning rates. What decides is *tuned*: each method at its own
best, chosen without peeking (``tuning``). The gap at each rate they share is told beside it.
"""

from collections.abc import Mapping

import numpy as np

from experiments.intervals import Interval, difference, interval
from experiments.llm.methods import LEARNING_RATES, METHODS
from experiments.llm.runs import Run, Unit, gain, steps_of, units_of
from experiments.llm.study import study_of
from experiments.llm.tasks import FAR, MODE, TASKS
from experiments.llm.tuning import best_of, favourite
from experiments.outcomes import judged
from experiments.results import Result, Size, Verdict

IMITATION, WEIGHTED, PUSHES = "best-of-N", "RWR", ("DPO", "IPO")
NAMES = (IMITATION, WEIGHTED, *PUSHES)
ABOUT_EQUAL = 0.05
"""A difference inside this margin, 5% of what there is to gain, counts as none."""
PAPER = "Tajwar et al. 2024, section 5.2.1"

Gains = Mapping[tuple[str, str], np.ndarray]
"""Share of what there is to gain at the end ``[learning rates, seeds]`` by (task, method)."""


def cell(task: str, method: str, rate: float) -> Run:
    """A run of the comparison, with the first seed."""
    return Run(task=task, method=method, seed=0, learning_rate=rate)


def runs() -> list[Run]:
    """Every run the experiment reads, with the first seed."""
    return [cell(t, m, rate) for t in TASKS for m in NAMES for rate in LEARNING_RATES]


def units(size: Size) -> list[Unit]:
    """What has to be computed before the experiment can be read."""
    return units_of(study_of(size), runs(), size.seeds)


def run(size: Size) -> Result:
    """Compare every method on every task at every learning rate."""
    study = study_of(size)
    gains = np.array(
        [
            [[gain(study, cell(t, m, rate), size.seeds) for rate in LEARNING_RATES] for m in NAMES]
            for t in TASKS
        ]
    )
    final = {
        (task, method): gains[i, j, ..., -1]
        for i, task in enumerate(TASKS)
        for j, method in enumerate(NAMES)
    }
    return Result(
        name="text_negative_gradient",
        verdicts=judge(final),
        arrays={
            "step": steps_of(study, cell(MODE, IMITATION, LEARNING_RATES[0])),
            "gain": gains,
            # The learning rate at which each method ends highest on each task.
            "best": np.array([[favourite(final[t, m]) for m in NAMES] for t in TASKS]),
        },
        settings={
            "tasks": list(TASKS),
            "methods": [METHODS[name].title for name in NAMES],
            "objectives": [METHODS[name].objective for name in NAMES],
            "learning_rates": list(LEARNING_RATES),
            "prompts": study.data_prompts,
            "responses": study.responses,
            "batch": study.batch,
            "seeds": size.seeds,
        },
    )


def judge(final: Gains) -> list[Verdict]:
    """Every verdict, from the gains at the end."""
    return [push_beats_pull(final), small_gap(final), temperature(final)]


def gaps_of(final: Gains, task: str, method: str, rival: str) -> dict[str, Interval]:
    """Differences at the end, method - rival: tuned, and at each rate that they share."""
    ours, theirs = final[task, method], final[task, rival]
    pairs = zip(LEARNING_RATES, ours, theirs, strict=True)
    gaps = {f"at {rate:g}": difference(a, b) for rate, a, b in pairs}
    return {"tuned": difference(best_of(ours), best_of(theirs))} | gaps


def push_beats_pull(final: Gains) -> Verdict:
    """Held for a method on a far task if, tuned, it ends ahead of tuned best-of-N."""
    holds, evidence = {}, []
    for task in FAR:
        for method in PUSHES:
            gaps = gaps_of(final, task, method, IMITATION)
            holds[f"{method} on {TASKS[task]}"] = gaps["tuned"].low > 0
            evidence.append(f"{method} on {TASKS[task]} {listed(gaps)}")
    return judged(
        "Offline on text, where the peak is far, DPO and IPO end above best-of-N (Pref-FT)",
        source=PAPER,
        evidence="gain at the end - best-of-N's: "
        + "; ".join(evidence)
        + f"; best rates {best_rates(final)}",
        holds=holds,
        subject="for",
    )


def small_gap(final: Gains) -> Verdict:
    """Held against a method if on Mode Length the tuned difference lies within the margin."""
    gaps = {method: gaps_of(final, MODE, method, IMITATION) for method in PUSHES}
    return judged(
        "Offline on text, where the peak is near (Mode Length), best-of-N does about as well",
        source=PAPER,
        evidence="gain at the end - best-of-N's: "
        + "; ".join(f"{method} {listed(each)}" for method, each in gaps.items())
        + f"; about as well means tuned within {ABOUT_EQUAL}",
        holds={
            f"as {method}": each["tuned"].low > -ABOUT_EQUAL and each["tuned"].high < ABOUT_EQUAL
            for method, each in gaps.items()
        },
    )


def temperature(final: Gains) -> Verdict:
    """Held on a far task if each contrastive method, tuned, is ahead of tuned RWR."""
    holds, evidence = {}, []
    for task in FAR:
        score = best_of(final[task, WEIGHTED])
        gaps = {method: difference(best_of(final[task, method]), score) for method in PUSHES}
        holds[TASKS[task]] = all(gap.low > 0 for gap in gaps.values())
        evidence.append(f"{TASKS[task]} {listed(gaps)}, RWR {interval(score)}")
    return judged(
        "Offline on text, weighted imitation falls behind a contrastive loss where the peak is far",
        source="Tajwar et al. 2024, section 5.2, read strictly",
        evidence="tuned gain at the end - RWR's: " + "; ".join(evidence),
        holds=holds,
        subject="on",
    )


def best_rates(final: Gains) -> str:
    """Of every method, the learning rate at which it ends highest, task by task."""
    rows = [
        f"{name} " + "/".join(f"{LEARNING_RATES[favourite(final[task, name])]:g}" for task in TASKS)
        for name in NAMES
    ]
    return f"on {'/'.join(TASKS.values())}: {', '.join(rows)}"


def listed(gaps: Mapping[str, Interval]) -> str:
    """Signed intervals with their names."""
    return ", ".join(f"{gap.mean:+.2f} ± {gap.half_width:.2f} {name}" for name, gap in gaps.items())
