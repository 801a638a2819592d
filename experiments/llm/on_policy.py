"""What does stale data cost on text, and whom?

Command: ``modeseek reproduce text_on_policy``. Hardware and time: 25 minutes on two cores. Feeds
``figures/text_on_policy.py``.

Every gradient step uses M = 8 prompts with N = 4 answers, each once (T = 1). What varies is how
many prompts B the policy answers before it is asked again: with B / M = 1 every step learns from
the policy as it is, with B / M = 16 the last step of a round from a policy 15 steps old. Policies
are trained on the task's proxy and judged by its gold reward, on held-out questions.

The cost of staleness is the gold reward it takes away, on average over the run, as a share of all
there is to gain: from the reference's reward to 0 tokens. It is paired by seed: a seed decides the
data, the proxy and the order of the prompts.
"""

from typing import Any

import numpy as np

from experiments.intervals import Interval, interval
from experiments.llm.methods import LEARNING_RATE, METHODS
from experiments.llm.runs import Run, Unit, gain, steps_of, units_of
from experiments.llm.study import Study, study_of
from experiments.llm.tasks import FAR, MODE, TASKS
from experiments.outcomes import judged
from experiments.results import Result, Size, Verdict

STALENESS = (1, 4, 16)
NAMES = ("online best-of-N", "online RWR", "REINFORCE", "PPO")
WORTH = 0.01
"""A cost of less than 1% of what there is to gain counts as none, however sure it is."""
PAPER = "Tajwar et al. 2024, section 5.1.1"


def cell(method: str, task: str, staleness: int) -> Run:
    """A run of the comparison, with the first seed."""
    return Run(task=task, method=method, seed=0, minibatches=staleness)


def runs() -> list[Run]:
    """Every run the experiment reads, with the first seed."""
    return [cell(m, task, k) for m in NAMES for task in TASKS for k in STALENESS]


def units(size: Size) -> list[Unit]:
    """What has to be computed before the experiment can be read."""
    return units_of(study_of(size), runs(), size.seeds)


def run(size: Size) -> Result:
    """Compare every method at every staleness on every task."""
    study = study_of(size)
    gains = np.array(
        [
            [[gain(study, cell(m, task, k), size.seeds) for k in STALENESS] for task in TASKS]
            for m in NAMES
        ]
    )
    return Result(
        name="text_on_policy",
        verdicts=judge(gains),
        arrays={
            "step": steps_of(study, cell(NAMES[0], MODE, STALENESS[0])),
            "gain": gains,
            "cost": cost(gains),
        },
        settings=settings_of(study, size),
    )


def settings_of(study: Study, size: Size) -> dict[str, Any]:
    """What was run."""
    return {
        "methods": [METHODS[name].title for name in NAMES],
        "objectives": [METHODS[name].objective for name in NAMES],
        "learning_rate": LEARNING_RATE,
        "tasks": list(TASKS),
        "staleness": list(STALENESS),
        "prompts per step": study.batch,
        "responses": study.responses,
        "seeds": size.seeds,
    }


def cost(gains: np.ndarray) -> np.ndarray:
    """What each staleness takes away against the freshest, as a share of all there is to gain.

    Args:
        gains: [methods, tasks, staleness, seeds, records].

    Returns:
        [methods, tasks, staleness, seeds].
    """
    mean = gains.mean(axis=-1)
    return mean[:, :, :1] - mean


def judge(gains: np.ndarray) -> list[Verdict]:
    """Every verdict, from the gains alone, [methods, tasks, staleness, seeds, records]."""
    lost = cost(gains)
    return [
        *(stale_costs(METHODS[name].title, each) for name, each in zip(NAMES, lost, strict=True)),
        milder_where_aligned(lost),
    ]


def stale_costs(title: str, lost: np.ndarray) -> Verdict:
    """Held on a task if the stalest data cost reward, and no staleness surely gains any.

    Args:
        title: of the method.
        lost: [tasks, staleness, seeds].
    """
    holds, evidence = {}, []
    for task, costs in zip(TASKS, lost, strict=True):
        between = [interval(each) for each in costs[1:]]
        stalest = between[-1]
        lost_any = stalest.low > 0 and stalest.mean > WORTH
        holds[TASKS[task]] = lost_any and all(each.high > -WORTH for each in between)
        shares = ", ".join(
            f"{share(each)} at B/M = {k}" for k, each in zip(STALENESS[1:], between, strict=True)
        )
        evidence.append(f"{TASKS[task]} {shares}")
    return judged(
        f"On text, {title} loses reward when its data are stale",
        source=PAPER,
        evidence="share of the gain lost: " + "; ".join(evidence),
        holds=holds,
        subject="on",
    )


def milder_where_aligned(lost: np.ndarray) -> Verdict:
    """Held for a method where the stalest data cost more on both far tasks than on Mode Length."""
    tasks = list(TASKS)
    holds, evidence = {}, []
    for name, each in zip(NAMES, lost[:, :, -1], strict=True):
        near = each[tasks.index(MODE)]
        gaps = {task: interval(each[tasks.index(task)] - near) for task in FAR}
        holds[METHODS[name].title] = all(gap.low > 0 for gap in gaps.values())
        rows = ", ".join(f"{TASKS[task]} {share(gap, sign=True)}" for task, gap in gaps.items())
        evidence.append(f"{METHODS[name].title} {rows}")
    return judged(
        "On text, stale data cost less where the peak is aligned with the reference (Mode Length)",
        source=PAPER,
        evidence=f"cost - cost on Mode Length at B/M = {STALENESS[-1]}: " + "; ".join(evidence),
        holds=holds,
        subject="for",
    )


def share(value: Interval, sign: bool = False) -> str:
    """As a percentage."""
    mean = f"{100 * value.mean:+.1f}" if sign else f"{100 * value.mean:.1f}"
    return f"{mean} ± {100 * value.half_width:.1f}%"
