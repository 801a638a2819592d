"""The decision rules of the staleness experiment, and its figure, on made-up results."""

import numpy as np
import pytest

from experiments.bandit import on_policy as experiment
from experiments.results import Result
from figures import on_policy as figure

SEEDS = 10
STEP = np.arange(0, 101, 5)


def curves(slower, spread=0.01):
    """Rewards [objectives, problems, staleness, seeds, records] that rise at 0.01 / slower."""
    noise = 1 + spread * np.random.default_rng(0).normal(size=(SEEDS, 1))
    slower = np.asarray(slower, float)[..., None, None] * noise
    return np.clip(0.04 + 0.01 * STEP / slower, 0, 1)


def rates(best_of_n=(1, 1), reinforce=(1, 1), ipo=(1, 1)):
    """How much slower the stalest data are, by objective on R1 and on R2."""
    return [[[1, 1, far], [1, 1, near]] for far, near in (best_of_n, reinforce, ipo)]


def verdicts(**slower):
    return experiment.judge(curves(rates(**slower)), STEP, 1.0, "")


def test_a_method_that_stale_data_slow_loses_and_one_that_they_do_not_slow_does_not():
    best_of_n, reinforce, ipo, *_ = verdicts(best_of_n=(3, 2), reinforce=(2, 1))
    assert best_of_n.outcome == "held"
    assert reinforce.condition == "on R1"
    assert ipo.outcome == "did not hold"


def test_a_cost_below_one_percent_is_none():
    best_of_n, *_ = verdicts(best_of_n=(1.01, 1.01))
    assert best_of_n.outcome == "did not hold"


def test_data_that_are_better_when_a_little_stale_refute_the_claim():
    faster = [[[1, 0.5, 3], [1, 0.5, 3]]] * 3
    best_of_n, *_ = experiment.judge(curves(faster), STEP, 1.0, "")
    assert best_of_n.outcome == "did not hold"


def test_the_aligned_problem_and_the_tolerant_objective_are_told_apart():
    *_, milder, tolerant = verdicts(best_of_n=(3, 1), reinforce=(1, 3))
    assert milder.condition == "for BestOfN"
    assert tolerant.condition == "on R1"


def test_another_world_is_named_in_the_claim():
    told = experiment.judge(curves(rates()), STEP, 1.0, "10 tokens")
    assert all(verdict.claim.endswith("(10 tokens)") for verdict in told)


def test_half_way_is_interpolated_and_censored_at_the_last_step():
    reward = np.array([[0.0, 0.25, 0.75, 1.0], [0.0, 0.1, 0.2, 0.3], [0.5, 0.9, 1.0, 1.0]])
    step = np.array([0, 10, 20, 30])
    np.testing.assert_allclose(experiment.halfway(reward, step, 1.0), [15, 30, 6.25])


def test_the_cost_is_a_share_of_what_there_was_to_gain():
    rise = np.array([[0.2, 0.2, 0.2], [0.2, 0.6, 0.6]])
    reward = np.repeat(rise[None, None, :, None], SEEDS, axis=3)
    lost = experiment.cost(reward, 1.0)
    assert lost.shape == (1, 1, 2, SEEDS)
    assert lost[0, 0, 0] == pytest.approx(0)
    assert lost[0, 0, 1] == pytest.approx(-(2 * 0.4 / 3) / 0.8)


def test_the_figure_draws_what_the_experiment_leaves():
    reward = curves(rates(best_of_n=(3, 2)))
    settings = {
        "worlds": ["one token"],
        "learning_rates": [0.003],
        "objectives": list(experiment.METHODS),
        "problems": list(experiment.REWARDS),
        "staleness": list(experiment.STALENESS),
        "prompts per step": 10,
        "responses": 10,
        "seeds": SEEDS,
    }
    arrays = {
        "one token: step": STEP,
        "one token: reward": reward,
        "one token: cost": experiment.cost(reward, 1.0),
    }
    result = Result(name="on_policy", verdicts=[], arrays=arrays, settings=settings)
    assert len(figure.draw(result).axes) == 6
