"""The decision rules of the explicit-push experiment, and its figure, on made-up results."""

import numpy as np

from experiments.bandit import unlikelihood as experiment
from experiments.bandit.unlikelihood import AGAINST, CONTRAST, PULL, STRENGTHS, name_of
from experiments.results import Result
from figures import unlikelihood as figure

SEEDS, RECORDS = 10, 5


def curves(levels, default):
    """``[seeds, records]`` in a line to the given end, by (problem, method)."""
    noise = 0.001 * np.sin(np.arange(SEEDS))
    return {
        (problem, method): np.linspace(
            0, levels.get((problem, method), default) * (1 + noise), RECORDS, axis=-1
        )
        for problem, methods in experiment.METHODS.items()
        for method in methods
    }


def outcomes(reward, rejected=None):
    verdicts = experiment.judge(curves(reward, 0.5), rejected or curves({}, -5.0))
    return [verdict.outcome for verdict in verdicts]


def test_a_push_that_helps_is_found_at_its_best_strength():
    reward = {("R1", name_of(against, STRENGTHS[0])): 0.8 for against in AGAINST}
    assert outcomes(reward | {("R1", CONTRAST): 0.7})[:3] == ["held", "did not hold", "held"]


def test_a_push_that_hurts_is_found_too():
    reward = {("R2", name_of(against, experiment.MIDDLE)): 0.2 for against in AGAINST}
    told = outcomes(reward | {("R1", CONTRAST): 0.9, ("R1", PULL): 0.6})
    assert told[:3] == ["did not hold", "held", "did not hold"]


def test_the_variants_that_help_are_the_condition():
    reward = curves({("R1", name_of("worst", 0.1)): 0.8}, 0.5)
    assert experiment.judge(reward, curves({}, -5.0))[0].condition.endswith("worst")


def test_a_push_that_more_than_doubles_late_is_not_at_rest():
    growing = curves({}, -5.0)
    for against in experiment.UNBOUNDED:
        values = growing["R1", name_of(against, experiment.MIDDLE)]
        values[:] = -np.exp(np.linspace(0, 3, RECORDS))[None] * (
            1 + 0.01 * np.arange(SEEDS)[:, None]
        )
    assert outcomes({}, growing)[3] == "held"
    resting = {key: np.full_like(values, -5.0) for key, values in growing.items()}
    assert outcomes({}, resting)[3] == "did not hold"


def test_the_figure_draws_what_the_experiment_leaves():
    arrays: dict[str, np.ndarray] = {"step": np.arange(RECORDS)}
    for problem, methods in experiment.METHODS.items():
        reward, rejected = curves({}, 0.5), curves({}, -5.0)
        arrays[f"{problem}: reward"] = np.stack([reward[problem, m] for m in methods])
        arrays[f"{problem}: rejected"] = np.stack([rejected[problem, m] for m in methods])
    settings = {
        "methods": {problem: list(methods) for problem, methods in experiment.METHODS.items()},
        "strengths": list(STRENGTHS),
        "middle": experiment.MIDDLE,
        "learning_rate": 0.003,
        "prompts": 10,
        "responses": 10,
        "seeds": SEEDS,
    }
    result = Result(name="unlikelihood", verdicts=[], arrays=arrays, settings=settings)
    assert len(figure.draw(result).axes) == 4
