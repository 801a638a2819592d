"""What the experiment on theory concludes when theory is right, half right and wrong."""

import numpy as np
import pytest
from matplotlib import pyplot as plt

from experiments.bandit import velocities
from experiments.results import Result
from figures import velocities as figure


@pytest.mark.parametrize(
    ("errors", "exact", "outcome"),
    [
        ([0.1, 0.01, 0.001], 1e-15, "held"),
        ([0.1, 0.01, 0.001], 1e-3, "did not hold"),
        ([0.1, 0.1, 0.1], 1e-15, "did not hold"),
    ],
)
def test_theory_must_be_exact_in_logits_and_first_order_in_bins(errors, exact, outcome):
    worst = np.repeat(np.array(errors)[:, None], 2, axis=1)
    assert velocities.lie_on_top(worst, exact).outcome == outcome


def parted(faster, condition):
    faster, condition = np.array([faster, faster]), np.array([condition, condition])
    return [{"faster": faster, "condition": condition, "measured": 0.1 + faster}]


def test_the_theorem_holds_under_its_condition_unless_a_case_disagrees():
    some = [True, False, True]
    assert velocities.theorem_exact(parted(some, some)).outcome == "held under this condition"
    assert velocities.theorem_exact(parted(some, [True] * 3)).outcome == "did not hold"
    assert velocities.theorem_exact(parted([True] * 3, [True] * 3)).outcome == "held"


def test_the_theorem_without_a_condition_needs_every_case():
    some, every = [True, False, True], [True] * 3
    assert velocities.theorem_unconditional(parted(some, some)).outcome == "did not hold"
    assert velocities.theorem_unconditional(parted(every, every)).outcome == "held"


def pushed(chosen, condition):
    chosen = np.array([chosen, chosen])
    condition = np.array([condition, condition])
    return {"chosen": chosen, "predicted": chosen, "condition": condition, "margin": chosen}


@pytest.mark.parametrize(
    ("chosen", "condition", "outcome"),
    [
        ([1.0, 2.0], [True, True], "held"),
        ([1.0, -2.0], [True, False], "held under this condition"),
        ([1.0, -2.0], [True, True], "did not hold"),
        ([1.0, -1e-9], [True, True], "held"),
    ],
)
def test_whether_the_winner_rises_is_decided_by_the_cases_that_are_clear(
    chosen, condition, outcome
):
    assert velocities.lemma_chosen(pushed(chosen, condition)).outcome == outcome


def test_the_margin_must_widen_in_every_case():
    assert velocities.lemma_margin(pushed([1.0, 2.0], [True] * 2)).outcome == "held"
    assert velocities.lemma_margin(pushed([1.0, -2.0], [True] * 2)).outcome == "did not hold"


def test_the_toy_figure_needs_one_setting_for_both_directions():
    far = np.full((2, velocities.RATES.size, 3, 4), 0.25)
    assert velocities.toy_figure(far).outcome == "did not hold"
    apart, together = far.copy(), far.copy()
    apart[0, 0, 1], apart[1, 5, 2] = velocities.TOY["forward"], velocities.TOY["reverse"]
    together[0, 3, 1], together[1, 3, 1] = velocities.TOY["forward"], velocities.TOY["reverse"]
    assert velocities.toy_figure(apart).outcome == "held under this condition"
    assert velocities.toy_figure(together).outcome == "held"
    assert velocities.best_matches(apart)["reverse"] == (5, 2)


def test_random_pairs_are_what_the_theorem_is_about():
    p, q = velocities.random_pairs(2, 50, 7)
    np.testing.assert_allclose(p.sum(-1), 1)
    np.testing.assert_array_equal(p[..., 0], p[..., 1])
    assert np.all(q[..., 0] >= q[..., 1])


def test_its_figure_draws():
    ratio = np.geomspace(0.1, 10, 5)
    result = Result(
        name="velocities",
        verdicts=[],
        arrays={
            "target": np.full(100, 0.01),
            "predicted velocity": np.ones((2, 100)),
            "measured velocity": np.ones((2, 100)),
            "predicted ratio": ratio,
            "measured ratio": ratio,
            "toy forward": np.full(4, 0.25),
            "toy reverse": np.full(4, 0.25),
        },
        settings={"cases": 5, "bins": [4, 100], "seeds": 2, "toy": velocities.TOY},
    )
    drawn = figure.draw(result)
    drawn.canvas.draw()
    plt.close(drawn)
