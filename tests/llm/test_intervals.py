"""Intervals that count prompts: against scipy where it has them, by simulation where it has not."""

import numpy as np
import pytest
from scipy import stats

from llm.intervals import FEWEST, ratio, share, student


@pytest.mark.parametrize("freedom", [4, 5, 10, 30, 1000])
def test_students_point_is_that_of_scipy(freedom: int) -> None:
    assert student(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=3e-3)


@pytest.mark.parametrize(("right", "pairs"), [(0, 10), (3, 10), (50, 60), (60, 60)])
def test_a_share_of_single_pairs_has_wilsons_interval(right: int, pairs: int) -> None:
    values = np.concatenate([np.ones(right), np.zeros(pairs - right)])
    found = share(values, np.arange(pairs))
    wanted = stats.binomtest(right, pairs).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-9)
    assert (found.units, found.prompts) == (pairs, pairs)


def test_a_mean_of_single_units_has_students_interval() -> None:
    values = np.random.default_rng(0).normal(size=20)
    found = ratio(values, np.ones(20), np.arange(20))
    half = stats.t.ppf(0.975, 19) * values.std(ddof=1) / np.sqrt(20)
    assert found.value == pytest.approx(values.mean())
    assert found.high == pytest.approx(values.mean() + half, rel=1e-4)
    assert found.low == pytest.approx(values.mean() - half, rel=1e-4)


def test_saying_everything_twice_makes_nobody_surer() -> None:
    rng = np.random.default_rng(1)
    values, right = rng.normal(size=30), (rng.random(30) < 0.7).astype(float)
    prompt, twice = np.arange(30), np.repeat(np.arange(30), 2)
    once = ratio(values, np.ones(30), prompt)
    again = ratio(np.repeat(values, 2), np.ones(60), twice)
    assert again[:3] == pytest.approx(once[:3])
    once, again = share(right, prompt), share(np.repeat(right, 2), twice)
    assert again[:3] == pytest.approx(once[:3], abs=4e-3)


def test_a_mean_over_tokens_weighs_long_responses_more() -> None:
    found = ratio(np.array([10.0, 0.0] * 5), np.array([10.0, 30.0] * 5), np.arange(10))
    assert found.value == pytest.approx(0.25)
    assert found.units == 200


def test_a_few_prompts_have_no_interval() -> None:
    few = np.arange(FEWEST - 1)
    assert ratio(np.ones(len(few)), np.ones(len(few)), few)[1:3] == (None, None)
    assert share(np.ones(len(few)), few)[1:3] == (None, None)
    many = np.arange(FEWEST)
    assert share(np.ones(FEWEST), many).low is not None


def test_the_truth_is_inside_about_as_often_as_is_said() -> None:
    rng = np.random.default_rng(2)
    inside = {"ratio": 0, "share": 0}
    for _ in range(400):
        # Prompts differ in size and in what their pairs have in common.
        sizes = rng.integers(1, 6, 40)
        prompt = np.repeat(np.arange(40), sizes)
        level = np.repeat(rng.beta(3, 1, 40), sizes)
        right = (rng.random(len(prompt)) < level).astype(float)
        for name, found in (
            ("share", share(right, prompt)),
            ("ratio", ratio(right, np.ones_like(right), prompt)),
        ):
            assert found.low is not None and found.high is not None
            inside[name] += found.low <= 0.75 <= found.high
    assert 0.91 < inside["share"] / 400 < 0.99
    assert 0.90 < inside["ratio"] / 400 < 0.99
