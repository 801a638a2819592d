"""The decision rules of the study on text, on made-up results, and its figures."""

import numpy as np
import pytest

from experiments.intervals import interval
from experiments.llm import (
    complementarity,
    environment,
    frontier,
    mechanism,
    negative_gradient,
    on_policy,
    reuse,
)
from experiments.llm.methods import LEARNING_RATES
from experiments.llm.tasks import MODE, TASKS
from experiments.llm.tuning import best_of, favourite
from experiments.results import Result
from figures import (
    text_complementarity,
    text_environment,
    text_frontier,
    text_mechanism,
    text_negative_gradient,
    text_on_policy,
    text_reuse,
)
from tests.experiments.text_results import SEEDS, STEP, level, rise

MIN_AND_SKEW = "on Min Length or Skew Length"


def stale(**slowest: tuple[float, float, float]) -> np.ndarray:
    """Gains with each method this much slower at the greatest staleness, on the three tasks."""
    names = [name.removeprefix("online ").replace("-", "_") for name in on_policy.NAMES]
    return np.array(
        [[[rise(), rise(), rise(last)] for last in slowest.get(name, (1, 1, 1))] for name in names]
    )


def test_stale_data_cost_where_they_slow_a_method_and_nowhere_else():
    best_of_n, rwr, *_, milder = on_policy.judge(stale(best_of_N=(2, 1, 3)))
    assert best_of_n.condition == MIN_AND_SKEW
    assert rwr.outcome == "did not hold"
    assert milder.condition == "for best-of-N"


def test_a_cost_is_a_share_of_what_there_is_to_gain():
    lost = on_policy.cost(stale(PPO=(2, 2, 2)))
    expected = (rise() - rise(2)).mean(axis=-1)
    np.testing.assert_allclose(lost[list(on_policy.NAMES).index("PPO"), 0, -1], expected)
    np.testing.assert_allclose(lost[:, :, 0], 0)


def reused(**slower: tuple[float, float, float, float]) -> reuse.Curves:
    """Gains of the three methods, slowed down at each T."""
    names = [name.removeprefix("online ").replace("-", "_") for name in reuse.NAMES]
    gains = [[rise(each) for each in slower.get(name, (1, 1, 1, 1))] for name in names]
    return reuse.Curves(STEP, np.array(gains), 32)


def test_using_answers_twice_helps_when_gradient_steps_are_all_that_counts():
    twice, large, tolerates = reuse.judge(reused())
    assert twice.outcome == "held"
    assert large.outcome == "did not hold"
    assert tolerates.outcome == "did not hold"


def test_a_t_that_slows_best_of_n_alone_is_told_from_one_that_slows_both():
    _, large, tolerates = reuse.judge(reused(best_of_N=(1, 1, 1, 3)))
    assert large.outcome == "held"
    assert tolerates.condition == "at T = 8"
    *_, tolerates = reuse.judge(reused(best_of_N=(1, 1, 1, 3), PPO=(1, 1, 1, 3)))
    assert tolerates.outcome == "did not hold"


def offline(**ends: float) -> dict[tuple[str, str], np.ndarray]:
    """Gains at the end at every learning rate, by task and method; 0.5 unless told."""
    rates = range(len(LEARNING_RATES))
    cells = [(task, name) for task in TASKS for name in negative_gradient.NAMES]
    return {
        (task, name): np.stack(
            [level(ends.get(f"{task}_{name}", 0.5), seed=i)[:, -1] for i in rates]
        )
        for task, name in cells
    }


def test_every_method_is_judged_at_its_own_rate():
    def at(row: int, value: float) -> np.ndarray:
        rates = range(len(LEARNING_RATES))
        return np.stack([level(value if r == row else 0.2, seed=r)[:, -1] for r in rates])

    found = offline()
    found |= {(task, "DPO"): at(2, 0.9) for task in TASKS}
    found |= {(task, "IPO"): at(1, 0.7) for task in TASKS}
    found |= {(task, "best-of-N"): at(0, 0.8) for task in TASKS}
    push, *_ = negative_gradient.judge(found)
    assert push.condition == "for DPO on Min Length or DPO on Skew Length"
    assert "best-of-N 0.0005/0.0005/0.0005" in push.evidence
    assert "DPO 0.002/0.002/0.002" in push.evidence


def test_a_seed_does_not_choose_its_own_rate():
    lucky = np.array([[0.0, 0.0, 0.0, 0.0, 1.0], [0.1, 0.1, 0.1, 0.1, 0.1]])
    np.testing.assert_array_equal(best_of(lucky), [0, 0, 0, 0, 0.1])
    assert favourite(lucky) == 0


def test_pushing_beats_pulling_where_it_ends_ahead():
    ahead = {f"{task}_{name}": 0.9 for task in ("min", "skew") for name in ("DPO", "IPO")}
    push, small, weighted = negative_gradient.judge(offline(**ahead))
    assert (push.outcome, small.outcome, weighted.outcome) == ("held", "held", "held")
    push, *_ = negative_gradient.judge(offline(min_DPO=0.9))
    assert push.condition == "for DPO on Min Length"


def test_a_lead_on_the_near_task_is_no_small_gap():
    _, small, _ = negative_gradient.judge(offline(mode_DPO=0.7))
    assert small.condition == "as IPO"


def ratios(chosen: tuple[float, float], rejected: tuple[float, float], apart: tuple[float, float]):
    """Log-ratios with few and with many prompts, the same on every task."""

    def all_tasks(few: float, many: float) -> np.ndarray:
        return np.array([[level(few), level((few + many) / 2), level(many)] for _ in TASKS])

    return {
        "trained: chosen": all_tasks(*chosen),
        "trained: rejected": all_tasks(*rejected),
        "held out: chosen": all_tasks(*apart),
        "held out: rejected": all_tasks(0, 0),
        "trained: step": STEP,
        "held out: step": STEP,
    }


def test_whose_probability_falls_is_read_off_the_ends():
    found = mechanism.judge(ratios((2, -1), (-4, -5), (0.5, 2)), [8, 64, 512])
    assert [verdict.outcome for verdict in found] == ["held"] * 5
    found = mechanism.judge(ratios((2, 2), (-4, 1.5), (2, 2)), [8, 64, 512])
    assert [verdict.outcome for verdict in found] == ["held"] + ["did not hold"] * 4


def gains_of(**ends: float) -> dict[tuple[str, str], np.ndarray]:
    """Curves of every method on every task, at every rate, that rise to an end; 0.5 unless told."""
    return {
        (task, name): np.stack(
            [
                rise(end=ends.get(name.replace(" ", "_").replace("-", "_"), 0.5), seed=row + number)
                for number, _ in enumerate(LEARNING_RATES)
            ]
        )
        for task in TASKS
        for row, name in enumerate(complementarity.NAMES)
    }


def test_fresh_data_help_a_method_that_ends_above_itself_offline():
    contrastive, supervised, *_ = complementarity.judge(gains_of(online_DPO=0.9))
    assert contrastive.condition.startswith("for DPO on Min Length")
    assert "IPO" not in contrastive.condition
    assert supervised.outcome == "did not hold"


def test_a_contrastive_loss_wins_against_those_it_is_ahead_of():
    *_, supervised, gradients = complementarity.judge(gains_of(online_IPO=0.9, PPO=1.0))
    assert supervised.outcome == "held"
    assert "PPO" not in gradients.condition
    assert "REINFORCE" in gradients.condition


def test_a_share_is_read_where_a_path_first_gets_to_a_level():
    kl = np.array([[0, 1, 3, 5.0], [0, 0.5, 0.6, 0.7]])
    gains = np.array([[0, 0.4, 0.6, 0.8], [0, 0.1, 0.2, 0.3]])
    np.testing.assert_allclose(
        frontier.share_at(kl, gains), [np.mean([0.4, 0.5, 0.7]), np.nan], equal_nan=True
    )


def climbs(weak_gold: np.ndarray) -> dict[str, np.ndarray]:
    """Arrays of the frontier where the weak proxy's promise is 2 and the strong one keeps it."""
    many = len(frontier.NAMES)
    found = {}
    for task in TASKS:
        found |= {
            f"{task}: gain": np.array([rise(seed=row) for row in range(many)]),
            f"{task}: kl": np.array([4.9 * rise(end=2, seed=row) for row in range(many)]),
            f"{task}: gold": np.array([[weak_gold, 2 * rise()]] * 2),
            f"{task}: proxy": np.array([[2 * rise(seed=1), 2 * rise(seed=1)]] * 2),
            f"{task}: climb kl": np.array([[3 * rise(end=2)] * 2] * 2),
            f"{task}: accuracy": np.array([[0.7] * SEEDS, [0.95] * SEEDS]),
        }
    return found


def test_over_optimisation_is_a_promise_that_gold_does_not_keep():
    hump = rise() * np.where(STEP > 24, 0.2, 1)[None, :]
    *_, apart, wider, fallen = frontier.judge(climbs(hump))
    assert (apart.outcome, wider.outcome, fallen.outcome) == ("held", "held", "held")
    *_, apart, wider, fallen = frontier.judge(climbs(2 * rise()))
    assert (apart.outcome, wider.outcome, fallen.outcome) == ("did not hold",) * 3


def test_a_proxy_must_order_nine_pairs_of_ten():
    accuracy = {task: level(0.95 if task == MODE else 0.6)[:, 0] for task in TASKS}
    (verdict,) = environment.judge(accuracy)
    assert verdict.condition == "on Mode Length"
    assert str(interval(accuracy[MODE])) in verdict.evidence


def test_lengths_are_binned_and_the_last_bin_holds_the_rest():
    share = environment.share_of_bins([0, 3, 4, 500])
    assert share[0] == 0.5
    assert share[1] == share[-1] == 0.25
    means = environment.by_length([0, 3, 4], np.array([1.0, 2.0, 5.0]))
    assert means[0] == 1.5
    assert means[1] == 5
    assert np.isnan(means[2])


COMMON = {"tasks": list(TASKS), "responses": 4, "batch": 8, "seeds": SEEDS, "prompts": 512}


def named(module) -> dict[str, list[str]]:
    """Titles, classes, rates and sources of a module's methods."""
    methods = [module.METHODS[name] for name in module.NAMES]
    return {
        "methods": [method.title for method in methods],
        "objectives": [method.objective for method in methods],
        "learning_rate": 5e-4,
        "sources": ["policy" if method.online else "dataset" for method in methods],
    }


def made_up() -> dict[str, tuple]:
    """A figure with arrays and settings as its experiment leaves them, by name."""
    gains = stale(best_of_N=(2, 1, 3))
    rates = len(LEARNING_RATES)
    bins = environment.EDGES
    spread = np.tile(np.linspace(2, -2, len(bins)), (SEEDS, 1))
    spread[:, -1] = np.nan
    return {
        "text_on_policy": (
            text_on_policy,
            {"step": STEP, "gain": gains, "cost": on_policy.cost(gains)},
            named(on_policy) | {"staleness": list(on_policy.STALENESS), "prompts per step": 8},
        ),
        "text_reuse": (
            text_reuse,
            {"T": np.array(reuse.PASSES), "step": STEP, "gain": reused().gain},
            named(reuse) | {"prompts": 8},
        ),
        "text_negative_gradient": (
            text_negative_gradient,
            {
                "step": STEP,
                "gain": np.array(
                    [[[rise()] * rates for _ in negative_gradient.NAMES] for _ in TASKS]
                ),
                "best": np.zeros((len(TASKS), len(negative_gradient.NAMES)), int),
            },
            named(negative_gradient) | {"learning_rates": list(LEARNING_RATES)},
        ),
        "text_mechanism": (
            text_mechanism,
            ratios((2, -1), (-4, -5), (0.5, 2)),
            {"method": "DPO", "objective": "DPO", "learning_rate": 5e-4, "prompts": [8, 64, 512]},
        ),
        "text_complementarity": (
            text_complementarity,
            {"step": STEP} | complementarity.arrays_of(gains_of()),
            named(complementarity) | {"learning_rates": list(LEARNING_RATES)},
        ),
        "text_frontier": (
            text_frontier,
            climbs(rise()),
            named(frontier)
            | {
                "climbers": ["DPO", "PPO"],
                "climbing objectives": ["DPO", "PPO"],
                "labelled": [32, 512],
                "steps": 48,
            },
        ),
        "text_environment": (
            text_environment,
            {
                "edges": bins,
                "reference": np.full(len(bins), 1 / len(bins)),
                "skew data": np.full(len(bins), 1 / len(bins)),
            }
            | {f"{task}: gold": -np.arange(len(bins)) for task in TASKS}
            | {f"{task}: proxy": spread for task in TASKS}
            | {f"{task}: accuracy": np.full(SEEDS, 0.9) for task in TASKS},
            {
                "parameters": 200_000,
                "mode": 27,
                "mean": 35.0,
                "gold": dict.fromkeys(TASKS, -30.0),
                "spread": dict.fromkeys(TASKS, 15.0),
                "skew mean": 20.0,
            },
        ),
    }


@pytest.mark.parametrize("name", made_up())
def test_a_figure_draws_what_its_experiment_leaves(name):
    figure, arrays, settings = made_up()[name]
    result = Result(name=name, verdicts=[], arrays=arrays, settings=COMMON | settings)
    drawn = figure.draw(result)
    assert len(drawn.axes) >= 3
