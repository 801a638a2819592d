"""The study on reviews: what is computed, the decision rules on made-up results, the figures."""

import json
from dataclasses import replace

import numpy as np
import pytest

from experiments.results import Result, Size
from experiments.reviews import acquisition, authors, beyond, campaigns, online
from experiments.reviews.campaigns import (
    ROW,
    TUNING_SEED,
    Plan,
    budget_of,
    learning_rate,
    path_of,
    records,
    settings_of,
    tuning_plans,
    units_of,
)
from experiments.reviews.world import Judge
from figures import reviews_acquisition, reviews_beyond, reviews_online
from llm.intervals import Estimate
from modeseek.reproduce import tasks_of

SEEDS, ROUNDS = 5, 6
LABELS = 128 * np.arange(1, ROUNDS + 1)
QUICK, FULL = Size("quick", 2), Size("full", 5)


def rates(gain: float = 0.0, first: float = 0.0, seed: int = 0, spread: float = 0.004):
    """Win rates [seeds, rounds] that rise to 0.85, and more by a gain after the first round."""
    base = np.linspace(0.6, 0.85, ROUNDS)[None] + gain * (np.arange(ROUNDS) > 0) + 0 * first
    noise = np.random.default_rng(seed).normal(0, spread, (SEEDS, ROUNDS))
    return base + first * (np.arange(ROUNDS) == 0) + noise


def found(**gains: float) -> dict[str, np.ndarray]:
    return {
        name: rates(gains.get(name, 0.0), seed=number)
        for number, name in enumerate(acquisition.PLANS)
    }


def surprises(**shares: float) -> dict[str, np.ndarray]:
    noise = np.random.default_rng(1).normal(0, 0.01, (SEEDS, ROUNDS))
    return {name: shares.get(name, 0.4) + noise for name in acquisition.PLANS}


def test_a_function_that_is_better_at_every_number_of_labels_is_said_to_be():
    given = found(certainty=0.05, hybrid=-0.05, uncertainty=-0.1)
    verdicts = acquisition.judge(given, surprises(certainty=0.2), LABELS)
    certainty, hybrid, entropy, first, fewer, right, ablations, offline = verdicts
    assert certainty.outcome == "held"
    assert hybrid.outcome == "did not hold"
    assert entropy.outcome == "did not hold" and "(no difference)" in entropy.evidence
    assert first.outcome == "held" and fewer.outcome == "held" and right.outcome == "held"
    assert ablations.outcome == "held"
    assert offline.outcome == "did not hold"


def test_an_interval_that_includes_zero_is_called_no_difference():
    verdicts = acquisition.judge(found(), surprises(), LABELS)
    assert [v.outcome for v in verdicts[:3]] == ["did not hold"] * 3
    assert all("(no difference)" in verdict.evidence for verdict in verdicts[:3])
    assert acquisition.signed(acquisition.difference(np.arange(5.0), np.zeros(5))).startswith("+2")


def test_labels_to_reach_a_win_rate_are_found_on_the_line_between_rounds():
    curves = np.array([[0.5, 0.6, 0.8], [0.5, 0.55, 0.6], [0.8, 0.9, 0.9]])
    needed = acquisition.reached(curves, np.array([100, 200, 300]), 0.7)
    np.testing.assert_allclose(needed, [250, np.inf, 100])
    assert acquisition.median(needed) == "250" and acquisition.median(needed[1:2]) == "never"


def test_where_every_label_is_used_once_the_thirds_are_judged_apart():
    labels = 64 * np.arange(1, 13)
    flat = np.linspace(0.5, 0.8, 12)[None] + np.random.default_rng(0).normal(0, 0.005, (SEEDS, 12))
    early = flat + 0.1 * (np.arange(12) < 8)
    faster, fewer = online.judge({"random": flat, "certainty": np.minimum(early, 0.85)}, labels)
    assert faster.condition == "in the first third or second third"
    assert fewer.outcome == "held"


def test_each_variant_is_judged_against_what_it_would_replace():
    gains = {"diverse": 0.05, "disagreement": 0.05, "small judge": -0.1}
    given = {
        name: rates(gains.get(name, 0.0), seed=number) for number, name in enumerate(beyond.PLANS)
    }
    seconds = dict.fromkeys(beyond.PLANS, np.arange(5.0))
    verdicts = beyond.judge(given, seconds)
    outcome = {one.name: v.outcome for one, v in zip(beyond.COMPARISONS, verdicts, strict=True)}
    assert outcome["diverse - certainty"] == "held"
    assert outcome["pruned - certainty"] == "did not hold"
    assert outcome["disagreement - certainty, adapters"] == "held"
    assert outcome["certainty, adapters - certainty"] == "held"  # hardly worse is enough
    assert outcome["small judge - certainty"] == "did not hold"


def test_the_authors_numbers_are_all_there():
    mean, error = authors.table()
    assert mean.shape == error.shape == (4, len(authors.LABELS))
    assert list(authors.WIN_RATES) == list(acquisition.PAPER)
    assert mean[2, 1] - mean[0, 1] == pytest.approx(0.0557)
    assert {len(curve) for curve in authors.ONLINE.values()} == {20}


@pytest.fixture
def nothing_made(tmp_path, monkeypatch):
    """A study without a world: judges and models have names and are not there."""
    monkeypatch.setenv("MODESEEK_CACHE", str(tmp_path))
    campaigns.folder.cache_clear()
    estimate = Estimate(0.9, 0.89, 0.91, 100, 100)
    monkeypatch.setattr(
        campaigns,
        "judge",
        lambda reviews, small=False: Judge(
            tmp_path / ("small" if small else "large"), estimate, estimate, 100
        ),
    )
    monkeypatch.setattr(campaigns, "reference", lambda reviews: tmp_path / "model")
    monkeypatch.setattr(
        campaigns, "prompts_file", lambda reviews, held_out=False: tmp_path / f"{held_out}.jsonl"
    )
    yield tmp_path
    campaigns.folder.cache_clear()


def keep(budget: campaigns.Budget, plan: Plan, rates: list[float]) -> None:
    path = path_of(budget, plan)
    path.parent.mkdir(parents=True, exist_ok=True)
    steps = [float(step) for step in range(len(rates))]
    curves = {"eval": {"step": steps, "win_rate": rates}}
    path.write_text(json.dumps({"curves": curves}))


def test_the_learning_rate_is_where_random_choice_is_nearest_to_the_authors(
    nothing_made,
):
    budget = budget_of(FULL)
    assert {plan.acquisition for plan in tuning_plans(budget)} == {"random"}
    assert {plan.seed for plan in tuning_plans(budget)} == {TUNING_SEED}
    theirs = [0.67, 0.76, 0.80, 0.846, 0.864, 0.882]
    for number, plan in enumerate(tuning_plans(budget)):
        keep(budget, plan, [0.5, *(rate + 0.02 * abs(number - 1) for rate in theirs)])
    assert learning_rate(budget) == budget.learning_rates[1]


def test_a_campaign_of_the_full_study_has_the_papers_settings(nothing_made):
    plan = Plan(acquisition="hybrid", learning_rate=1e-4)
    asked = settings_of(budget_of(FULL), plan, nothing_made / "out")
    assert (asked.rounds, asked.labels, asked.epochs, asked.batch) == (6, 128, 50, 64)
    assert asked.labels * asked.pool.pairs == 4096
    assert asked.labels * asked.pool.pairs * asked.pool.prompts == 32768
    assert (asked.pool.temperature, asked.contest.temperature) == (0.7, 0.25)
    assert (asked.pool.shortest, asked.sampling.max_new_tokens) == (16, 24)
    assert (asked.contest.prompts, asked.pool.samples, float(asked.objective.beta)) == (
        1024,
        8,
        0.2,
    )
    assert asked.restart and asked.learn == "all"
    phases = settings_of(budget_of(FULL), replace(plan, online=True), nothing_made / "out")
    assert (phases.rounds, phases.labels, phases.epochs, phases.learn) == (200, 64, 1, "newest")
    assert phases.pool.pairs == 8 and not phases.restart and phases.contest.every == 10
    small = settings_of(budget_of(FULL), replace(plan, small_judge=True), nothing_made / "out")
    assert small.reward.endswith("small") and small.gold.endswith("large")
    assert 3 * (17 + 2 * 24) > ROW > 3 * 53 and asked.packing.max_tokens >= 64 / 3 * ROW


def test_records_are_a_twentieth_of_the_phases_apart():
    np.testing.assert_array_equal(records(budget_of(FULL)), 10 * np.arange(1, 21))
    np.testing.assert_array_equal(records(budget_of(QUICK)), [1, 2, 3, 4])


def test_every_campaign_waits_for_the_world_and_the_learning_rate(nothing_made):
    budget = budget_of(QUICK)
    units = units_of(budget, beyond.PLANS.values(), 2)
    names = [unit.name for unit in units]
    assert len(set(names)) == len(names) == 1 + len(budget.learning_rates) + 2 * len(beyond.PLANS)
    tuned = {plan.name for plan in tuning_plans(budget)}
    for unit in units[1 + len(tuned) :]:
        assert set(unit.after) == {"reviews", *tuned}
    tasks = tasks_of("reviews_acquisition", QUICK, nothing_made, ("svg",))
    assert tasks[-1].name == "reviews_acquisition"
    assert set(tasks[-1].after) == {task.name for task in tasks[:-1]}


def about() -> dict[str, object]:
    judge = {"texts": 1000, "accuracy": [0.9, 0.89, 0.91], "short_accuracy": [0.7, 0.69, 0.71]}
    return {
        "model": {"parameters": 500_000, "held_out_nats_per_token": 3.9},
        "judge": judge,
        "small_judge": judge,
        "learning_rate": 1e-3,
        "labels_per_round": 128,
        "rounds": ROUNDS,
        "epochs": 50.0,
        "pairs": 32,
        "prompts": 8,
        "samples": 8,
        "contest": 1024,
        "seeds": SEEDS,
        "costs": list(acquisition.COSTS),
    }


def compared(given: dict[str, np.ndarray]) -> Result:
    """Made-up win rates beside the authors'."""
    mean, error = authors.table()
    return Result(
        name="reviews_acquisition",
        verdicts=[],
        arrays={
            "labels": LABELS,
            "win_rate": np.stack(list(given.values())),
            "authors_labels": np.array(authors.LABELS),
            "authors_rounds": np.array(authors.ROUNDS),
            "authors_mean": mean,
            "authors_error": error,
        },
        settings={
            **about(),
            "functions": list(given),
            "authors_functions": list(authors.WIN_RATES),
        },
    )


def test_the_figures_draw_what_the_experiments_leave():
    result = compared(found(certainty=0.03))
    assert len(reviews_acquisition.draw(result).axes) == 4
    curves = np.stack([rates(), rates(0.05)])
    result = Result(
        name="reviews_online",
        verdicts=[],
        arrays={
            "labels": LABELS,
            "win_rate": curves,
            "authors_labels": 640 * np.arange(20),
            "authors": np.array([authors.ONLINE[name] for name in online.FUNCTIONS]),
        },
        settings={
            **about(),
            "functions": list(online.FUNCTIONS),
            "phases": 200,
            "labels_per_phase": 64,
            "online_pairs": 8,
        },
    )
    assert len(reviews_online.draw(result).axes) == 2
    variants = {name: rates(seed=number) for number, name in enumerate(beyond.PLANS)}
    result = Result(
        name="reviews_beyond",
        verdicts=[],
        arrays={
            "labels": LABELS,
            "win_rate": np.stack(list(variants.values())),
            "seconds": np.ones((len(variants), 5)),
        },
        settings={
            **about(),
            "variants": list(variants),
            "comparisons": [[one.variant, one.instead] for one in beyond.COMPARISONS],
            "rank": 8,
            "prune": 0.25,
            "share": 0.2,
        },
    )
    assert len(reviews_beyond.draw(result).axes) == 2


def test_the_table_has_ours_beside_the_authors():
    result = compared(found(certainty=0.05))
    lines = acquisition.table(result).splitlines()
    rows = {line.split("|")[1].strip(): line for line in lines[4:]}
    assert list(rows) == list(acquisition.PLANS)
    assert "0.816 ± 0.009" in rows["certainty"] and "(no difference)" not in rows["certainty"]
    assert "(no difference)" in rows["middle"]
    assert len({line.count("|") for line in lines[2:]}) == 1
