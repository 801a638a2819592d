"""How a number of ours is set beside one of theirs, and the figure of all of them."""

import numpy as np
import pytest

from experiments.bandit import calibration as experiment
from experiments.bandit.calibration import Number, Row
from experiments.results import Result
from figures import calibration as figure


def row(theirs, ours, *, error=0.01, group="1 token, offline", **number):
    return Row(group, Number("a run", 100, theirs, **number), ours, error, 10)


@pytest.mark.parametrize(
    ("ours", "met", "explained"), [(0.53, True, True), (0.55, False, True), (0.6, False, False)]
)
def test_a_stated_error_decides_whether_a_number_is_met(ours, met, explained):
    found = Row("g", Number("a run", 100, 0.5, 0.02), ours, 0.03, 10)
    assert (found.met, found.explained) == (met, explained)


def test_where_theirs_is_unknown_our_spread_stands_in_for_it():
    assert row(0.5, 0.519).met
    assert not row(0.5, 0.525).met
    assert row(0.5, 0.525, seeds=5).explained
    assert not row(0.5, 0.54, seeds=5).explained


def test_a_bound_is_met_from_above():
    assert row(0.994, 1.0, error=0.0, at_least=True).met
    assert not row(0.994, 0.9, error=0.001, at_least=True).met


def test_verdicts_name_the_groups_where_all_is_met_and_the_farthest_miss():
    rows = [row(0.5, 0.5), row(0.5, 0.9, group="10 tokens, offline")]
    met, explained = experiment.judge(rows)
    assert met.condition == explained.condition == "the group is 1 token, offline"
    assert "1 of 2" in met.evidence
    assert "ours 0.900" in met.evidence
    assert [v.outcome for v in experiment.judge(rows[:1])] == ["held", "held"]
    assert [v.outcome for v in experiment.judge(rows[1:])] == ["did not hold"] * 2


@pytest.mark.parametrize("make", [*experiment.ONE_TOKEN, *experiment.TEN_TOKENS])
def test_every_number_is_read_at_a_step_that_is_recorded(make):
    group = make()
    assert len(group.settings) == len(group.numbers)
    for number in (number for expected in group.numbers for number in expected):
        assert number.step % group.record_every == 0
        assert number.step <= group.steps


def test_the_figure_draws_both_worlds():
    count = 6
    arrays = {name: np.linspace(0, 1, count) for name in ("theirs", "ours")}
    arrays |= {"our_error": np.full(count, 0.1), "their_error": np.full(count, np.nan)}
    arrays |= {"met": np.arange(count) % 2 == 0, "explained": np.arange(count) % 3 > 0}
    settings = {"groups": ["1 token, a", "10 tokens, b"] * 3, "seeds": 10, "token_seeds": 3}
    result = Result(name="calibration", verdicts=[], arrays=arrays, settings=settings)
    assert len(figure.draw(result).axes) == 2
