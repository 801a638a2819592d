"""Whose probability falls when a contrastive loss falls, on text?

Command: ``modeseek reproduce text_mechanism``. Hardware and time: 4 minutes on two cores. Feeds
``figures/text_mechanism.py``.

DPO learns offline from the answers to 8, 64 or 512 prompts, 8 prompts in a gradient step, so that
the same number of steps is 64, 8 or 1 passes over the data. Each pair's log pi - log pi_ref is
written down for the preferred answer and for the other: of the pairs of the training steps
themselves, averaged over four steps, and of pairs to held-out questions. Tasks, M and N are those
of ``negative_gradient``, whose runs with 512 prompts at DPO's own learning rate are these.
"""

from collections.abc import Mapping

import numpy as np

from experiments.intervals import Interval, difference, interval
from experiments.llm.methods import LEARNING_RATE, METHODS
from experiments.llm.runs import ALL, Run, Unit, measured, seeds_of, stacked, units_of
from experiments.llm.study import Study, study_of
from experiments.llm.tasks import TASKS
from experiments.outcomes import judged
from experiments.results import Result, Size, Verdict

METHOD = "DPO"
COUNTS = (8, 64, ALL)
KEPT = 0.5
"""The margin "stays" if at least this share of it is left."""
KINDS = {"trained": "train", "held out": "eval"}
"""Whose pairs, and the lines of metrics that tell of them."""
PAPER = "Tajwar et al. 2024, section 5.2.2"

Final = Mapping[str, np.ndarray]
"""Log-ratio at the end, nats, ``[numbers of prompts, seeds]`` by task."""


def cell(task: str, prompts: int) -> Run:
    """A run of the comparison, with the first seed."""
    return Run(task=task, method=METHOD, seed=0, prompts=prompts)


def runs() -> list[Run]:
    """Every run the experiment reads, with the first seed."""
    return [cell(task, prompts) for task in TASKS for prompts in COUNTS]


def units(size: Size) -> list[Unit]:
    """What has to be computed before the experiment can be read."""
    return units_of(study_of(size), runs(), size.seeds)


def run(size: Size) -> Result:
    """Read whose log-ratio went where."""
    study = study_of(size)
    arrays: dict[str, np.ndarray] = {}
    for whose, kind in KINDS.items():
        for name in ("chosen", "rejected"):
            arrays[f"{whose}: {name}"] = np.array(
                [[ratios(study, cell(t, n), size.seeds, kind, name) for n in COUNTS] for t in TASKS]
            )
        steps = measured(study, cell(next(iter(TASKS)), ALL))[kind]["step"]
        arrays[f"{whose}: step"] = np.asarray(steps if kind == "eval" else [0, *steps])
    counts = [count or study.data_prompts for count in COUNTS]
    return Result(
        name="text_mechanism",
        verdicts=judge(arrays, counts),
        arrays=arrays,
        settings={
            "tasks": list(TASKS),
            "method": METHODS[METHOD].title,
            "objective": METHODS[METHOD].objective,
            "learning_rate": LEARNING_RATE,
            "prompts": counts,
            "responses": study.responses,
            "batch": study.batch,
            "seeds": size.seeds,
        },
    )


def ratios(study: Study, run: Run, seeds: int, kind: str, name: str) -> np.ndarray:
    """Log-ratio in nats [seeds, records]; where training begins it is 0, which no line says."""
    found = stacked(study, seeds_of(run, seeds), kind, f"{name}_log_ratio")
    return found if kind == "eval" else np.pad(found, ((0, 0), (1, 0)))


def judge(arrays: Mapping[str, np.ndarray], counts: list[int]) -> list[Verdict]:
    """Every verdict.

    Args:
        arrays: log-ratios in nats, ``[tasks, numbers of prompts, seeds, records]``.
        counts: the numbers of prompts.
    """

    def final(name: str) -> Final:
        return dict(zip(TASKS.values(), arrays[name][..., -1], strict=True))

    chosen, rejected = final("trained: chosen"), final("trained: rejected")
    apart_chosen, apart_rejected = final("held out: chosen"), final("held out: rejected")
    few, many = f"{counts[0]} prompts", f"{counts[-1]} prompts"
    up = {task: interval(chosen[task][0]) for task in chosen}
    down = {task: interval(rejected[task][0]) for task in chosen}
    change = {task: difference(chosen[task][-1], chosen[task][0]) for task in chosen}
    both = {task: (interval(chosen[task][-1]), interval(rejected[task][-1])) for task in chosen}
    margin = {task: chosen[task] - rejected[task] for task in chosen}
    apart = {task: apart_chosen[task] - apart_rejected[task] for task in chosen}
    stays = {task: interval(margin[task][-1] - KEPT * margin[task][0]) for task in chosen}
    learned = {task: difference(apart[task][-1], apart[task][0]) for task in chosen}
    return [
        judged(
            "On text, with few prompts DPO raises preferred answers and lowers the others",
            source=PAPER,
            evidence=f"log-ratio in nats with {few}, preferred and others: "
            + listed({task: f"{up[task]}, {down[task]}" for task in up}),
            holds={task: up[task].low > 0 and down[task].high < 0 for task in up},
            subject="on",
        ),
        judged(
            "On text, as prompts grow at fixed capacity, the preferred answers' log-ratio falls",
            source=PAPER,
            evidence=f"{many} - {few}, nats: {listed(change)}",
            holds={task: gap.high < 0 for task, gap in change.items()},
            subject="on",
        ),
        judged(
            "On text, with many prompts preferred and rejected answers both become less likely",
            source="Tajwar et al. 2024, figure 17",
            evidence=f"log-ratio in nats with {many}, preferred and others: "
            + listed({task: f"{up}, {down}" for task, (up, down) in both.items()}),
            holds={task: up.high < 0 and down.high < 0 for task, (up, down) in both.items()},
            subject="on",
        ),
        judged(
            "... while the margin between them stays (text)",
            source=PAPER,
            evidence=f"margin in nats, {few} to {many}: "
            + listed({t: f"{interval(m[0])} to {interval(m[-1])}" for t, m in margin.items()})
            + f"; stays means at least {KEPT:g} of it",
            holds={task: gap.low > 0 for task, gap in stays.items()},
            subject="on",
        ),
        judged(
            "On text, more prompts widen the margin on questions that were not trained on",
            source="this project",
            evidence=f"held-out margin with {many} - with {few}, nats: {listed(learned)}",
            holds={task: gap.low > 0 for task, gap in learned.items()},
            subject="on",
        ),
    ]


def listed(values: Mapping[str, Interval | str]) -> str:
    """Values with the task each belongs to."""
    return "; ".join(f"{value} ({task})" for task, value in values.items())
