"""The decision rules of the acquisition experiment, and its figure, on made-up results."""

import numpy as np

from bandit.active import ACQUISITIONS
from experiments.bandit import acquisition as experiment
from experiments.results import Result
from figures import acquisition as figure

SEEDS = 10


def per_seed(spread=0.01, **levels):
    """One number per seed by (function, kind), 0.5 unless told; a level may be for one kind."""
    sign = np.where(np.arange(SEEDS) % 2, -1, 1)
    noise = np.multiply.outer(spread * np.arange(2 * len(ACQUISITIONS)), sign)
    noise = noise.reshape(len(ACQUISITIONS), 2, SEEDS)
    return {
        (name, kind): levels.get(f"{name}_{kind}", levels.get(name, 0.5)) + noise[i, j]
        for i, name in enumerate(ACQUISITIONS)
        for j, kind in enumerate(experiment.LABELS)
    }


def verdicts(**levels):
    return experiment.judge(per_seed(**levels), per_seed())


def test_a_clear_gain_holds_and_its_opposite_does_not():
    certainty, hybrid, entropy, some, slower = verdicts(certainty=0.7, hybrid=0.2, entropy=0.7)
    assert [v.outcome for v in (certainty, hybrid, entropy)] == ["held", "did not hold", "held"]
    assert some.outcome == "held"
    assert "certainty (exact)" in some.evidence
    assert slower.outcome == "did not hold"


def test_a_gap_whose_interval_holds_zero_is_no_difference():
    told = verdicts(spread=0.1, certainty=0.52, hybrid=0.52, entropy=0.52)
    assert {verdict.outcome for verdict in told[:3]} == {"did not hold"}


def test_the_kind_of_labels_is_the_condition():
    certainty, *_, slower = verdicts(certainty_noisy=0.7, certainty_exact=0.2)
    assert certainty.condition == "the labels are noisy"
    assert slower.condition == "the labels are exact"


def test_the_figure_draws_what_the_experiment_leaves():
    reward = np.random.default_rng(0).random((len(ACQUISITIONS), 2, SEEDS, 5))
    settings = {
        "acquisitions": list(ACQUISITIONS),
        "kinds": list(experiment.LABELS),
        "label_temperatures": list(experiment.LABELS.values()),
        "labels_per_round": 16,
        "candidates": 64,
        "rounds": 4,
        "seeds": SEEDS,
    }
    arrays = {"reward": reward, "labels": 16 * np.arange(5)}
    result = Result(name="acquisition", verdicts=[], arrays=arrays, settings=settings)
    assert len(figure.draw(result).axes) == 4
