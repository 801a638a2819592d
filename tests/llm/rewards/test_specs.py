"""A spec says which reward, and what says nothing known is refused with what there is."""

import numpy as np
import pytest

import llm.rewards.specs as specs
from llm.rewards import RewardError, asks_person, identity, only_compares
from llm.rewards.settings import JudgeSettings, RewardSettings
from tests.llm.rewards.written import groups, numbers, reward

ALONE = [name for name, kind in specs.KINDS.items() if not kind.argument and name != "person"]


@pytest.mark.parametrize("name", ALONE)
def test_every_reward_that_is_told_nothing_scores_every_text(name):
    said = ["", "word", " \n\t", "Ünïcödé 🐈", "a" * 500]
    found = reward(name)(groups(said))
    assert len(found) == 1 and np.isfinite(found[0]).all() and found[0].dtype == np.float64


@pytest.mark.parametrize(
    "spec", ["kind", "min-length", "mode-length:3", "regex:a", "0.5*kind + regex:b"]
)
def test_no_group_and_an_empty_group_are_rewarded_like_any_other(spec):
    assert reward(spec)([]) == []
    first, second = reward(spec)(groups([], ["a"]))
    assert first.shape == (0,) and second.shape == (1,)


def test_a_minus_turns_a_reward_round():
    assert numbers("-regex:a", "aa", "") == [-2, 0]


def test_a_weight_may_be_written_as_any_number():
    for weight, value in (("2", 2), ("-.5", -0.5), ("1e-1", 0.1), ("+3.", 3)):
        assert numbers(f"{weight}*regex:a", "a") == [pytest.approx(value)]


def test_rewards_are_added_up_with_their_weights():
    assert numbers("0.7*regex:a + 1.9*regex:b + -min-length", "ab", "b") == [4.6, 2.9]


def test_a_reward_of_weight_1_is_itself():
    assert reward("short").name == "short"
    assert reward(" 2*kind + short ").name == "2*kind + short"


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("kid", r"no reward 'kid'; there is kind, .*min-length.*regex:PATTERN.*judge:MODEL"),
        ("", "empty part"),
        ("kind + ", "no reward"),
        ("kind +  + short", "empty part"),
        ("kind:3", "write kind"),
        ("regex", "write regex:PATTERN"),
        ("model:", "write model:FOLDER"),
        ("0*kind", "must be a number that is not 0"),
        ("1e999*kind", "must be a number that is not 0"),
        ("concise", "no reward 'concise'"),
    ],
)
def test_a_spec_that_says_nothing_known_is_refused(spec, complaint):
    with pytest.raises(ValueError, match=complaint):
        reward(spec)


def test_the_identity_of_a_reward_follows_its_file_and_not_its_weight(tmp_path):
    file = tmp_path / "words.txt"
    file.write_text("one two")
    spec = f"lexicon:{file}"
    before = identity(spec)
    assert list(before) == [spec]
    assert identity(f"0.5*{spec} + kind") == before
    file.write_text("one three")
    assert identity(spec) != before
    assert identity("kind + regex:a") == {}


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"max_cost": 1.0}, "price_in and price_out"),
        ({"max_cost": 1.0, "price_in": 1.0}, "price_in and price_out"),
        ({"price_in": -1.0}, "0 or more dollars"),
        ({"criterion": "  "}, "a question"),
        ({"rounds": 0}, "at least 1"),
        ({"retries": -1}, "0 or more"),
        ({"concurrency": 0}, "at least 1"),
        ({"timeout": 0.0}, "greater than 0"),
        ({"base_url": "localhost:80"}, "must be an address"),
        ({"base_url": "http://me:secret@host/v1"}, "OPENAI_API_KEY"),
    ],
)
def test_settings_of_a_judge_that_cannot_be_are_refused(fields, complaint):
    with pytest.raises(ValueError, match=complaint) as error:
        JudgeSettings(**fields)
    assert "secret" not in str(error.value)


def test_a_batch_of_no_positions_is_refused():
    with pytest.raises(ValueError, match="at least 1 position"):
        RewardSettings(max_tokens=0)


def test_a_person_stands_where_a_reward_stands_and_cannot_be_called():
    person = reward("person")
    assert only_compares(person) and asks_person(person)
    assert asks_person(reward("0.5*person + short")) and not asks_person(reward("short"))
    with pytest.raises(RewardError, match="modeseek label"):
        person(groups(["a", "b"]))
