"""The decision rules of the negative-gradient experiment, and its figure, on made-up results."""

import numpy as np
import pytest

from experiments.bandit import negative_gradient as experiment
from experiments.bandit.negative_gradient import IMITATION, PUSHES, PUSHES_ALL
from experiments.results import Result
from figures import negative_gradient as figure

SEEDS = 10


def rewards(**levels):
    """Final rewards with a little noise shared by all methods, so that paired gaps are sharp."""
    noise = 0.02 * np.sin(np.arange(SEEDS))
    final = {}
    for problem, methods in experiment.METHODS.items():
        for method in methods:
            level = np.broadcast_to(levels.get(f"{problem} {method}", 0.5), 3)
            jitter = 0.001 * np.cos(np.arange(3 * SEEDS) + len(method)).reshape(3, SEEDS)
            final[problem, method] = level[:, None] + noise[None] + jitter
    return final


def test_tuning_never_looks_at_the_seed_it_scores():
    final = np.array([[1.0, 0.0, 0.0], [0.4, 0.4, 0.4]])
    np.testing.assert_array_equal(experiment.tuned(final), [0.4, 0.0, 0.0])


@pytest.mark.parametrize(
    ("ipo", "outcome"),
    [
        (0.7, "held"),
        ((0.4, 0.7, 0.7), "held under this condition"),
        (0.4, "did not hold"),
    ],
)
def test_the_lead_of_ipo_on_r1_has_every_outcome(ipo, outcome):
    assert experiment.push_beats_pull(rewards(**{f"R1 {PUSHES}": ipo})).outcome == outcome


def test_an_order_that_reverses_without_the_threshold_is_said_to():
    verdict = experiment.threshold(rewards(**{f"R1 {PUSHES_ALL}": (0.2, 0.5, 0.9)}))
    assert verdict.condition == "learning rate 0.01"
    assert "behind at 0.001" in verdict.evidence


@pytest.mark.parametrize(("ipo", "outcome"), [(0.52, "held"), (0.7, "did not hold")])
def test_about_equal_on_r2_means_within_the_margin(ipo, outcome):
    assert experiment.small_gap(rewards(**{f"R2 {PUSHES}": ipo})).outcome == outcome


def test_the_temperatures_that_fail_are_the_condition():
    levels = {f"R1 {name}": 0.2 for name in experiment.RWR_NAMES.values()}
    levels[f"R1 {experiment.RWR_NAMES[0.05]}"] = 0.9
    verdict = experiment.temperature(rewards(**levels))
    assert verdict.condition == "temperature of the weights 0.1 or 0.3 or 1"
    assert "ahead at 0.05" in verdict.evidence


def test_the_figure_draws_what_the_experiment_leaves():
    final = rewards(**{f"R1 {IMITATION}": 0.3})
    curves = {
        problem: np.stack([np.linspace(0, final[problem, m], 4, axis=-1) for m in methods])[None]
        for problem, methods in experiment.METHODS.items()
    }
    settings = {
        "methods": {problem: list(methods) for problem, methods in experiment.METHODS.items()},
        "learning_rates": list(experiment.LEARNING_RATES),
        "temperatures": list(experiment.TEMPERATURES),
        "threshold": 0.2,
        "contexts": [10],
        "responses": 10,
        "seeds": SEEDS,
    }
    arrays = {"step": np.arange(4), **curves}
    result = Result(name="negative_gradient", verdicts=[], arrays=arrays, settings=settings)
    assert len(figure.draw(result).axes) == 4
