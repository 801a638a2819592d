"""A function of one's own is a reward as soon as it returns one finite number for every text."""

import sys

import numpy as np
import pytest

from tests.llm.rewards.written import groups, reward

MODULE = """
import jax.numpy as jnp
import numpy as np

def fractions(prompts, responses):
    return [0.7 if "b" in response else 1.9 for response in responses]

def lengths(prompts, responses):
    return np.array([len(p) + len(r) for p, r in zip(prompts, responses)], np.int16)

def halves(prompts, responses):
    return jnp.arange(len(responses)) / 2

def short(prompts, responses):
    return [1.0]

def text(prompts, responses):
    return ["1.0"] * len(responses)

def missing(prompts, responses):
    return [None if not response else 1.0 for response in responses]

def infinite(prompts, responses):
    return [float("nan")] * len(responses)

def nothing(prompts, responses):
    pass

def one(prompt):
    return 1.0

def broken(prompts, responses):
    raise KeyError("mine")

constant = 3
"""


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "own_rewards.py").write_text(MODULE)
    (tmp_path / "broken_rewards.py").write_text("import nothing_of_that_name")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "own_rewards", raising=False)


ASKED = groups(["b", "a"], [""])


def test_fractions_stay_what_they_are():
    first, second = reward("python:own_rewards:fractions")(ASKED)
    assert first.tolist() == [0.7, 1.9] and second.tolist() == [1.9]
    assert first.dtype == np.float64


def test_prompts_and_responses_arrive_side_by_side_and_arrays_are_numbers_too():
    first, second = reward("python:own_rewards:lengths")(ASKED)
    assert first.tolist() == [5, 5] and second.tolist() == [4]


def test_arrays_of_jax_are_numbers_too():
    assert [v.tolist() for v in reward("python:own_rewards:halves")(ASKED)] == [[0, 0.5], [1]]


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("short", "returned 1 numbers for 3 responses"),
        ("text", "returned '1.0' for the response 'b'"),
        ("missing", "returned None for the response ''.*the empty one too"),
        ("infinite", "returned nan for the response 'b'"),
        ("nothing", "returned a NoneType"),
    ],
)
def test_what_is_not_a_finite_number_for_each_is_refused_by_name(name, complaint):
    with pytest.raises(ValueError, match=f"python:own_rewards:{name} {complaint}"):
        reward(f"python:own_rewards:{name}")(ASKED)


def test_an_error_of_the_function_itself_keeps_its_trace():
    with pytest.raises(KeyError, match="mine"):
        reward("python:own_rewards:broken")(ASKED)


@pytest.mark.parametrize(
    ("place", "complaint"),
    [
        ("own_rewards", "names no function"),
        ("own_rewards:", "names no function"),
        ("own_rewards:shrt", "no function shrt; it has fractions, lengths"),
        ("own_rewards:constant", "no function constant"),
        ("own_rewards:one", r"cannot be called as one\(prompts, responses\)"),
        ("no_such_rewards:f", "no_such_rewards .* cannot be imported.*ModuleNotFoundError"),
        ("broken_rewards:f", "cannot be imported.*nothing_of_that_name"),
    ],
)
def test_what_is_no_function_of_two_lists_is_refused_at_once(place, complaint):
    with pytest.raises(ValueError, match=complaint):
        reward(f"python:{place}")
