"""The decision rules of the acquisition experiment, and its figure, on made-up results."""

import numpy as np
import pytest

from experiments.bandit import acquisition as experiment
from experiments.bandit.acquisition import FUNCTIONS, PLACES, gap, judge, per_label
from experiments.results import Result
from figures import acquisition as figure

SEEDS = 10
NOISY = [place for place in PLACES if place.endswith("noisy")]


def per_seed(spread=0.01, places=PLACES, **levels):
    """One number per seed by (place, function), 0.5 unless told; a level may hold in some places.

    The scatter differs between functions, or every paired difference would be exact.
    """
    sign = np.where(np.arange(SEEDS) % 2, -1, 1)
    return {
        (place, name): (levels.get(name, 0.5) if place in places else 0.5) + spread * i * sign
        for place in PLACES
        for i, name in enumerate(FUNCTIONS)
    }


def verdicts(**measures):
    """The verdicts by claim when all measures but those given are level."""
    level = dict.fromkeys(experiment.MEANINGS, per_seed())
    return {verdict.claim: verdict for verdict in judge(level | measures)}


CERTAINTY = "Preference certainty needs fewer labels than chance"
OPPOSITE = "Certainty needs fewer labels than its opposite, uncertainty"
LESS_WRONG = "But pairs on which the policy is less wrong"
COLLAPSE = "Exact labels soon leave less choice: the policy collapses and proposes equal answers"


def test_a_clear_gain_everywhere_holds_and_a_clear_loss_does_not_and_is_named():
    assert verdicts(area=per_seed(certainty=0.7))[CERTAINTY].outcome == "held"
    lost = verdicts(area=per_seed(certainty=0.2, places=PLACES[:1]))[CERTAINTY]
    assert lost.outcome == "did not hold"
    assert lost.evidence.endswith(f"the opposite on {PLACES[0]}")


def test_a_gap_whose_interval_holds_zero_is_no_difference():
    told = verdicts(area=per_seed(spread=0.1, certainty=0.52))[CERTAINTY]
    assert told.outcome == "did not hold"
    assert "opposite" not in told.evidence


def test_the_places_are_the_condition():
    told = verdicts(area=per_seed(certainty=0.7, places=PLACES[:2]))[CERTAINTY]
    assert told.condition == f"on {PLACES[0]} or {PLACES[1]}"


def test_each_claim_is_compared_with_the_function_it_names():
    told = verdicts(area=per_seed(uncertainty=0.2))
    assert told[OPPOSITE].outcome == "held"
    assert told[CERTAINTY].outcome == "did not hold"


def test_a_claim_of_less_holds_where_there_is_less():
    assert verdicts(wrongness=per_seed(certainty=0.2))[LESS_WRONG].outcome == "held"
    assert verdicts(wrongness=per_seed(certainty=0.7))[LESS_WRONG].outcome == "did not hold"


def test_the_choice_left_by_exact_labels_is_compared_with_that_left_by_noisy_ones():
    told = verdicts(choice=per_seed(random=0.9, places=NOISY[:1]))[COLLAPSE]
    assert told.condition == f"on {NOISY[0].removesuffix(', noisy')}"


def test_labels_weigh_the_same_whichever_round_bought_them():
    values = np.array([[0.1, 0.5], [0.7, 0.7]])
    bought = np.array([[3, 1], [0, 0]])
    np.testing.assert_allclose(per_label(values, bought), [0.2, np.nan])


def test_a_seed_that_bought_nothing_is_left_out_of_a_gap():
    a, b = np.array([1.0, 2.0, np.nan, 4.0]), np.array([0.5, 1.5, 9.0, 3.5])
    assert gap(a, b).mean == pytest.approx(0.5)


def test_the_figure_draws_what_the_experiment_leaves():
    draw = np.random.default_rng(0).random
    shape = (len(PLACES), len(FUNCTIONS), SEEDS)
    arrays = {name: draw(shape) for name in ("area", "stake", "wrongness")}
    arrays |= {"reward": draw((*shape, 5)), "labels": 16 * np.arange(5)}
    settings = {
        "functions": list(FUNCTIONS),
        "places": list(PLACES),
        "label_temperatures": experiment.LABELS,
        "labels_per_round": 16,
        "candidates": 64,
        "rounds": 4,
        "seeds": SEEDS,
    }
    result = Result(name="acquisition", verdicts=[], arrays=arrays, settings=settings)
    assert len(figure.draw(result).axes) == 4
