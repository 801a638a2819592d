"""What do the reference, the three tasks and their proxies look like?

Command: ``modeseek reproduce text_environment``. Hardware and time: 3 minutes on two cores, most of
it for the reference and the proxies. Feeds ``figures/text_environment.py``.

How long the reference's answers are decides which task is near and which is far. What the answers
of a data set are like decides what a proxy can know: Skew's holds hardly any whole answer, and its
proxy is asked about whole answers from the first step on.
"""

import json

import numpy as np

from experiments.intervals import interval
from experiments.llm.runs import Unit, units_of
from experiments.llm.study import Study, study_of
from experiments.llm.tasks import (
    SKEW,
    SKEW_MEAN,
    TASKS,
    count,
    data_file,
    facts_of,
    proxy,
    reference,
    worth,
)
from experiments.outcomes import judged
from experiments.results import Result, Size, Verdict

EDGES = np.arange(0, 100, 4)
"""Bins of length, in tokens."""
RELIABLE = 0.9
OURS = "this project"


def units(size: Size) -> list[Unit]:
    """What has to be computed before the experiment can be read."""
    return units_of(study_of(size), (), size.seeds, proxies=TASKS)


def run(size: Size) -> Result:
    """Look at lengths, gold rewards and what the proxies make of them."""
    study = study_of(size)
    facts = facts_of(study)
    proxies = {
        task: [proxy(study, task, s, study.data_prompts) for s in range(size.seeds)]
        for task in TASKS
    }
    arrays: dict[str, np.ndarray] = {
        "edges": EDGES,
        "reference": share_of_bins(facts.lengths),
        "skew data": share_of_bins(lengths_of_data(study, SKEW)),
    }
    for task in TASKS:
        judges = proxies[task]
        arrays[f"{task}: gold"] = worth(task, EDGES + np.diff(EDGES)[0] / 2, facts.mode)
        arrays[f"{task}: proxy"] = np.array(
            [
                by_length(one.lengths, (np.array(one.rewards) - one.mean) / one.spread)
                for one in judges
            ]
        )
        arrays[f"{task}: accuracy"] = np.array([one.accuracy for one in judges])
    return Result(
        name="text_environment",
        verdicts=judge({task: arrays[f"{task}: accuracy"] for task in TASKS}),
        arrays=arrays,
        settings={
            "tasks": list(TASKS),
            "parameters": parameters_of(study),
            "mode": facts.mode,
            "mean": facts.mean,
            "gold": facts.gold,
            "spread": facts.spread,
            "skew mean": SKEW_MEAN,
            "prompts": study.data_prompts,
            "responses": study.responses,
            "seeds": size.seeds,
        },
    )


def parameters_of(study: Study) -> int:
    """How many numbers the reference has."""
    from llm.checkpoints.read import load_decoder
    from llm.model import parameters

    return sum(value.size for value in parameters(load_decoder(str(reference(study)))).values())


def lengths_of_data(study: Study, task: str) -> list[int]:
    """Lengths of the answers in the first seed's data set, in tokens."""
    lines = data_file(study, task, 0).read_text(encoding="utf-8").splitlines()
    return [count(study, response) for line in lines for response in json.loads(line)["responses"]]


def share_of_bins(lengths: list[int]) -> np.ndarray:
    """The share of lengths in each bin; the last holds what is longer, too."""
    bins = np.minimum(np.digitize(lengths, EDGES) - 1, len(EDGES) - 1)
    return np.bincount(bins, minlength=len(EDGES)) / len(lengths)


def by_length(lengths: list[int], values: np.ndarray) -> np.ndarray:
    """The mean of values in each bin of length; NaN where there is none."""
    bins = np.minimum(np.digitize(lengths, EDGES) - 1, len(EDGES) - 1)
    total = np.bincount(bins, values, minlength=len(EDGES))
    many = np.bincount(bins, minlength=len(EDGES))
    return np.where(many > 0, total / np.maximum(many, 1), np.nan)


def judge(accuracy: dict[str, np.ndarray]) -> list[Verdict]:
    """Whether proxies order answers of the reference as gold does."""
    found = {task: interval(values) for task, values in accuracy.items()}
    return [
        judged(
            "A proxy of preferences orders the reference's own answers as gold does",
            source=OURS,
            evidence="pairs of answers to held-out questions in the right order: "
            + ", ".join(f"{TASKS[task]} {value}" for task, value in found.items())
            + f"; at least {RELIABLE:g} is asked for",
            holds={TASKS[task]: value.low > RELIABLE for task, value in found.items()},
            subject="on",
        )
    ]
