"""The measures and decision rules of the mechanism experiment, and its figure."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.bandit import mechanism as experiment
from experiments.results import Result
from figures import mechanism as figure
from objectives import Responses

SEEDS, COUNTS = 10, (5, 15, 50)
CASES = list(experiment.CASES)


def arrays(**ends):
    """Measures ``[cases, prompts, seeds, records]`` that go in a line to the given ends."""
    noise = 0.01 * np.sin(np.arange(SEEDS))
    filled = {}
    for name in ("chosen", "rejected", "pair_winner", "paired", "unseen"):
        end = np.broadcast_to(ends.get(name, 0.5), (len(CASES), len(COUNTS)))
        filled[name] = np.linspace(0, end[..., None] + noise[None, None], 3, axis=-1)
    return filled


def outcomes(**ends):
    return [verdict.outcome for verdict in experiment.judge(arrays(**ends), COUNTS)]


def test_the_paper_s_story_holds_when_the_numbers_tell_it():
    told = outcomes(chosen=(2, 1, -1), rejected=(-3, -4, -6), pair_winner=3, unseen=0.9)
    assert told == ["held"] * 5


def test_the_opposite_story_does_not():
    told = outcomes(chosen=(-1, 0, 1), rejected=(-9, -1, 1), pair_winner=-3, unseen=-0.1)
    assert told == ["did not hold"] * 5


def test_the_cases_where_a_claim_holds_are_its_condition():
    chosen = np.array([[2, 1, -1], [2, 2, 2.1], [2, 2, 2.1]])
    found = experiment.judge(arrays(chosen=chosen, rejected=-3), COUNTS)[1]
    assert found.condition == CASES[0]


def test_measures_say_whose_probability_is_where():
    p = np.full((2, 4), 0.25)
    p[0] = [0.7, 0.1, 0.1, 0.1]
    bins = jnp.array([[0, 1], [2, 2]])
    ref = jnp.log(jnp.full((2, 2, 1), 0.25))
    valid = jnp.array([[True, True], [False, False]])
    reward = jnp.array([[1.0, 0.0], [0.0, 0.0]])
    batch = Responses(jnp.ones((2, 2, 1), bool), reward, ref, ref, None, valid)
    seen = experiment.measure(jnp.log(jnp.asarray(p, jnp.float32)), bins, batch, 0.0)
    assert seen["chosen"] == pytest.approx(np.log(0.7 / 0.25), rel=1e-5)
    assert seen["rejected"] == pytest.approx(np.log(0.1 / 0.25), rel=1e-5)
    assert seen["pair_winner"] == pytest.approx(np.log(0.7 / 0.25), rel=1e-5)
    assert seen["paired"] == 1.0
    assert seen["unseen"] == pytest.approx(0.2, rel=1e-5)


def test_the_figure_draws_what_the_experiment_leaves():
    settings = {
        "cases": CASES,
        "prompts": list(COUNTS),
        "learning_rate": 0.003,
        "responses": 10,
        "seeds": SEEDS,
    }
    drawn = figure.draw(
        Result(
            name="mechanism",
            verdicts=[],
            arrays=arrays(unseen=0.9) | {"step": np.arange(3)},
            settings=settings,
        )
    )
    assert len(drawn.axes) == 6
