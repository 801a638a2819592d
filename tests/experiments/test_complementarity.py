"""The decision rules of the complementarity and frontier experiments, on made-up results."""

import numpy as np
import pytest

from experiments.bandit import complementarity as experiment
from experiments.bandit import frontier
from experiments.results import Result, Size
from figures import complementarity as figure
from figures import frontier as frontier_figure

SEEDS = 10
RATES = (0.003, 0.01)
RECORDS = 25


def every_run():
    """The runs of the default size, in order."""
    return [
        experiment.Run(name, type(recipe.objective).__name__, source, beta, problem, rate)
        for source in ("dataset", "policy")
        for (name, beta), recipe in experiment.methods(source).items()
        for problem in experiment.PROBLEMS
        for rate in RATES
        if rate == experiment.MATCHED or beta == experiment.STANDARD[name]
    ]


def rewards(level):
    """Curves [seeds, records] that rise to a level, by run."""
    noise = 0.005 * np.random.default_rng(0).normal(size=(SEEDS, 1))
    rise = np.minimum(np.arange(RECORDS) / 10, 1)
    return {
        (one.method, one.source, one.problem, one.learning_rate): (level(one) + noise) * rise
        for one in every_run()
        if one.beta == experiment.STANDARD[one.method]
    }


def verdicts(level):
    return experiment.judge(rewards(level))


def test_data_that_lift_every_method_help_and_equal_ones_do_not():
    contrastive, supervised, *_ = verdicts(lambda one: 0.9 if one.source == "policy" else 0.5)
    assert contrastive.outcome == supervised.outcome == "held"
    contrastive, supervised, *_ = verdicts(lambda one: 0.9)
    assert contrastive.outcome == supervised.outcome == "did not hold"


def test_the_problem_where_fresh_data_help_is_the_condition():
    def level(one):
        return 0.9 if one.source == "policy" or one.problem == "R2" else 0.5

    contrastive, *_ = verdicts(level)
    assert contrastive.condition == "on R1"


def test_one_learning_rate_where_fresh_data_do_not_help_is_enough_to_refute():
    def level(one):
        stale = one.source == "dataset" and one.learning_rate != 0.01
        return 0.5 if stale else 0.9

    contrastive, *_ = verdicts(level)
    assert contrastive.outcome == "did not hold"


def test_the_rivals_that_lose_are_named():
    def level(one):
        contrastive = one.method in experiment.FAMILIES["contrastive"]
        return 0.9 if contrastive or one.method == "RWR" else 0.7

    *_, supervised, gradients = verdicts(level)
    assert supervised.condition == "against best-of-N on R1 or best-of-N on R2"
    assert gradients.outcome == "held"


def test_a_lead_that_is_sure_but_small_counts_as_none():
    def level(one):
        return 0.905 if one.method in experiment.FAMILIES["contrastive"] else 0.9

    *_, supervised, gradients = verdicts(level)
    assert supervised.outcome == gradients.outcome == "did not hold"


def test_a_seed_has_no_say_in_its_own_choice():
    candidates = np.array([[9.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    assert experiment.best_of(candidates).tolist() == [1.0, 0.0, 0.0]


@pytest.fixture
def stored():
    """A result of the default shape: every run walks along some fraction of the envelope."""
    runs = every_run()
    kl, reward = [], []
    for index, one in enumerate(runs):
        best = frontier.envelope(one.problem)
        walked = np.linspace(0, 1, RECORDS)[None] * (5 if one.problem == "R1" else 3)
        walked = np.repeat(walked, SEEDS, axis=0) + 0.01 * np.arange(SEEDS)[:, None]
        fraction = 0.5 + 0.4 * (index % 3) / 2
        kl.append(walked)
        reward.append(best.start + fraction * (best.at(walked) - best.start))
    settings = {
        "runs": [one._asdict() for one in runs],
        "standard": experiment.STANDARD,
        "learning_rates": list(RATES),
        "matched": experiment.MATCHED,
        "threshold": experiment.THRESHOLD,
        "contexts": 10,
        "responses": 10,
        "steps": 5 * (RECORDS - 1),
        "seeds": SEEDS,
    }
    arrays = {
        "step": 5 * np.arange(RECORDS),
        "reward": np.stack(reward),
        "reverse_kl": np.stack(kl),
    }
    return Result(name="complementarity", verdicts=[], arrays=arrays, settings=settings)


def test_the_envelope_is_pi_star_at_every_beta():
    for problem, reward, kl in (("R1", 0.941, 3.79), ("R2", 0.947, 1.44)):
        best = frontier.envelope(problem)
        assert np.all(np.diff(best.kl) >= 0)
        assert best.at(np.array(kl)) == pytest.approx(reward, abs=2e-3)
        assert best.at(np.array(0.0)) == pytest.approx(best.start, abs=1e-3)
        assert best.at(np.array(best.end)) == pytest.approx(1, abs=1e-3)


def test_a_walk_along_a_fraction_of_the_envelope_has_that_share():
    best = frontier.envelope("R2")
    kl = np.linspace(0, 3, 301)[None]
    reward = best.start + 0.6 * (best.at(kl) - best.start)
    assert frontier.share(reward, kl, best, (0.5, 1.5)) == pytest.approx([0.6], abs=1e-3)
    assert np.isnan(frontier.share(reward, kl, best, (0.5, 3.5))).all()


def test_families_are_ranked_by_their_shares():
    def shares(policy_gradient, contrastive, supervised):
        levels = {"policy gradient": policy_gradient, "contrastive": contrastive}
        levels["supervised"] = supervised
        noise = 0.01 * np.random.default_rng(0).normal(size=SEEDS)
        found = {
            member: levels[family] + noise
            for family, members in experiment.FAMILIES.items()
            for member in members
        }
        return 0.003, found

    classes = {one.method: one.objective for one in every_run()}
    told = {"R1": shares(0.9, 0.8, 0.5), "R2": shares(0.8, 0.9, 0.5)}
    assert frontier.nearest(told).condition == "on R1"
    assert frontier.seeking_against_covering(told, classes).outcome == "held"
    nobody = {"R1": (0.003, {}), "R2": (0.003, {})}
    assert frontier.nearest(nobody).outcome == "did not hold"
    assert frontier.seeking_against_covering(nobody, classes).outcome == "did not hold"


def test_a_point_above_the_envelope_is_found(stored):
    runs = experiment.settings_of(stored)
    curves = list(zip(runs, stored.arrays["reward"], stored.arrays["reverse_kl"], strict=True))
    envelopes = {name: frontier.envelope(name) for name in frontier.REWARDS}
    assert frontier.below_the_envelope(curves, envelopes).outcome == "held"
    first = next(i for i, one in enumerate(runs) if one.problem == "R1")
    stored.arrays["reward"][first, 3, 7] += 1
    assert frontier.below_the_envelope(curves, envelopes).condition == "on R2"


def test_a_run_at_its_own_optimum_is_told_from_one_that_is_not():
    reward, kl = frontier.optimum("R1", frontier.problem_reward("R1"), np.array([0.1]))
    steady = np.ones((SEEDS, 2))
    penalised = experiment.Run("REINFORCE", "REINFORCE", "policy", 0.1, "R1", 0.003)
    weighted = experiment.Run("RWR", "RWR", "dataset", 1.0, "R1", 0.003)
    curves = [(penalised, reward * steady, kl * steady), (weighted, reward * steady, kl * steady)]
    assert frontier.own_optimum(curves).condition == "for REINFORCE with a k2 penalty"


def test_the_win_rate_is_a_half_on_average_and_grows_with_the_reward():
    for problem in frontier.REWARDS:
        rate = frontier.win_rate(problem)
        assert rate @ np.exp(frontier.reference(problem)) == pytest.approx(0.5)
        order = np.argsort(frontier.problem_reward(problem))
        assert np.all(np.diff(rate[order]) >= 0)


def test_both_figures_draw_what_the_experiments_leave(stored):
    result = frontier.run(Size("default", SEEDS), {"complementarity": stored})
    assert result.verdicts[0].outcome == "held"
    assert len(frontier_figure.draw(result).axes) == 4
    assert len(figure.draw(stored).axes) == 6
