"""What the experiment on KL penalties concludes, whatever the penalties do."""

import numpy as np
import pytest
from matplotlib import pyplot as plt

from experiments.bandit import kl_estimators
from experiments.results import Result
from figures import kl_estimators as figure

START = np.array([0.5, 0.01])
EXACT = np.array([[0.5, 0.01], [0.87, 0.02], [0.46, 0.4]])


def sampled(masses):
    """Two seeds that hardly differ around the masses at the near and the far peak."""
    return np.array(masses)[:, None] + np.array([0.0, 1e-4])[None, :, None] * np.array([1, 2])


def test_a_gradient_is_the_one_named_only_to_rounding():
    assert kl_estimators.is_gradient("k1", 1e-16, 10).outcome == "held"
    assert kl_estimators.is_gradient("k1", 1e-6, 10).outcome == "did not hold"


@pytest.mark.parametrize("change", ["nothing", "k1 moves", "k2 covers", "k3 seeks"])
def test_each_penalty_must_pull_its_own_way(change):
    exact, masses = EXACT.copy(), EXACT.copy()
    if change == "k1 moves":
        exact[0, 0] += 1e-6
    elif change == "k2 covers":
        masses[1] = masses[2] + [0, 0.02]
    elif change == "k3 seeks":
        masses[2] = masses[1] - [0, 0.01]
    # Differences between seeds must not be exactly zero, or no interval has a width.
    noise = sampled(masses) + np.random.default_rng(0).normal(scale=1e-5, size=(3, 2, 2))
    verdict = kl_estimators.pulls_apart(START, exact, noise)
    assert verdict.outcome == ("held" if change == "nothing" else "did not hold")


def test_noise_is_what_k1_has_and_the_others_have_not():
    still, moving = np.zeros(2), np.array([0.02, 0.021])
    assert kl_estimators.only_noise({"k1": moving, "k2": still, "k3": still}).outcome == "held"
    assert kl_estimators.only_noise({"k1": still, "k2": still, "k3": still}).outcome != "held"
    assert kl_estimators.only_noise({"k1": moving, "k2": moving, "k3": still}).outcome != "held"


def test_its_figure_draws():
    p = np.full(100, 0.01)
    three = np.tile(p, (3, 1))
    result = Result(
        name="kl_estimators",
        verdicts=[],
        arrays={
            "reference": p,
            "start": p,
            "ends": three,
            "sampled ends": three,
            "gradients": three,
            "wanted": three,
        },
        settings={"learning_rate": 1.0, "steps": 2, "samples": 3, "peaks": [25, 70], "seeds": 2},
    )
    drawn = figure.draw(result)
    drawn.canvas.draw()
    plt.close(drawn)
