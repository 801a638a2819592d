"""The decision rules of the reuse experiment, and its figure, on made-up results."""

import numpy as np
import pytest

from experiments.bandit import reuse as experiment
from experiments.results import Result
from figures import reuse as figure

SEEDS = 10
STEP = np.arange(0, 401, 10)
PASSES = (1, 2, 20, 100)


def curves(**slower):
    """Rewards that rise at 0.004 per step, divided by a factor for each (objective, T)."""
    noise = 1 + 0.01 * np.random.default_rng(0).normal(size=(SEEDS, 1))
    factors = np.array([slower.get(name, (1, 1, 1, 1)) for name in experiment.METHODS], float)
    reward = np.clip(0.004 * STEP / (factors[..., None, None] * noise), 0, 1)
    return experiment.Curves(PASSES, STEP, reward)


def test_equal_progress_per_step_is_progress_per_sample_and_harmless():
    twice, large, tolerant = experiment.judge(curves(), "")
    assert twice.outcome == "held"
    assert large.outcome == "did not hold"
    assert tolerant.outcome == "did not hold"


def test_reuse_that_halves_every_step_helps_nobody():
    slow = dict.fromkeys(experiment.METHODS, (1, 2, 20, 100))
    twice, large, _ = experiment.judge(curves(**slow), "")
    assert twice.outcome == "did not hold"
    assert large.condition == (
        "at T = 20 per gradient step or T = 20 in the reward at the end or "
        "T = 100 per gradient step or T = 100 in the reward at the end"
    )


def test_the_more_tolerant_objective_is_found_where_it_is_tolerant():
    *_, tolerant = experiment.judge(curves(BestOfN=(1, 1, 3, 3), PPO=(1, 1, 1, 5)), "")
    assert tolerant.condition == "at T = 20"


def test_large_reuse_can_hurt_even_per_sample():
    _, large, _ = experiment.judge(curves(BestOfN=(1, 1, 1, 100)), "")
    assert "T = 100 per sample" in large.condition


def test_a_round_is_read_when_its_passes_are_done():
    exact = experiment.Curves(PASSES, STEP, np.broadcast_to(0.001 * STEP, (3, 4, SEEDS, 41)))
    assert experiment.at_rounds(exact, "PPO", 20, 3)[0] == pytest.approx([0.02, 0.04, 0.06])


def test_the_figure_draws_what_the_experiment_leaves():
    made = curves(PPO=(1, 1, 1, 5))
    arrays = {
        "one token: T": np.array(PASSES),
        "one token: step": STEP,
        "one token: reward": made.reward,
    }
    settings = {
        "worlds": ["one token"],
        "objectives": list(experiment.METHODS),
        "learning_rate": 0.001,
        "prompts": 10,
        "responses": 10,
        "seeds": SEEDS,
    }
    result = Result(name="reuse", verdicts=[], arrays=arrays, settings=settings)
    assert len(figure.draw(result).axes) == 6
