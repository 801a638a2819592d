"""What the experiment on the environment concludes from its numbers."""

import numpy as np
import pytest
from matplotlib import pyplot as plt

from experiments.bandit import environment
from experiments.results import Size
from figures import environment as figure


@pytest.fixture(scope="module")
def result():
    return environment.run(Size("quick", 2))


def test_every_calibrated_number_of_the_world_is_met(result):
    assert result.verdicts[0].outcome == "held"


def test_a_world_with_one_wrong_number_is_not_the_paper_s():
    numbers = {name: float(printed) for name, printed in environment.EXPECTED.items()}
    assert environment.calibration(numbers).outcome == "held"
    off = environment.calibration(numbers | {"reference: entropy": 4.2})
    assert off.outcome == "did not hold"
    assert "reference: entropy" in off.evidence


@pytest.mark.parametrize(
    ("r1", "r2", "outcome"),
    [(0.05, 0.45, "held"), (0.45, 0.05, "did not hold"), (0.3, 0.45, "did not hold")],
)
def test_thin_and_thick_are_told_by_the_mass_of_a_uniform_policy(r1, r2, outcome):
    assert environment.thin_and_thick({"R1": r1, "R2": r2}, 0.21).outcome == outcome


@pytest.mark.parametrize(
    ("likeliest", "second", "outcome"),
    [(18, 60, "held"), (0, 18, "held under this condition"), (0, 60, "did not hold")],
)
def test_a_spike_at_an_end_is_named_as_a_condition(likeliest, second, outcome):
    p = np.ones(100)
    p[likeliest], p[second] = 9, 5
    assert environment.alignment(p / p.sum(), 20).outcome == outcome


def test_ten_samples_that_show_both_optima_alike_are_no_difference():
    seen = {"R1": np.array([0.95, 0.96]), "R2": np.array([0.95, 0.96])}
    numbers = {"R1": 0.95, "R2": 0.95}
    assert environment.sampling(seen, numbers, numbers).outcome == "did not hold"


def test_the_best_of_n_is_what_enumeration_says():
    p, reward = np.array([0.5, 0.3, 0.2]), np.array([0.0, 1.0, 1.0])
    assert environment.best_of(p, reward, 1) == pytest.approx(0.5)
    assert environment.best_of(p, reward, 3) == pytest.approx(1 - 0.5**3)


def test_its_figure_draws(result):
    drawn = figure.draw(result)
    drawn.canvas.draw()
    plt.close(drawn)
