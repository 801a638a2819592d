"""The length tasks count tokens, without the one that only says that the response has ended."""

import numpy as np
import pytest

from llm.rewards.contract import Written
from llm.rewards.lengths import length, stops_of, typical
from tests.llm.rewards.written import END, TOKENIZER, numbers, reward, written


def test_a_shorter_response_is_better_for_min_length_by_one_a_token():
    assert numbers("min-length", "four", "", "sixsix") == [-4, 0, -6]


def test_a_longer_response_is_better_for_max_length():
    assert numbers("max-length", "four", "", "sixsix") == [4, 0, 6]


def test_mode_length_falls_by_one_a_token_on_both_sides_of_its_constant():
    assert numbers("mode-length:5", "four", "fives", "sixsix", "") == [-1, 0, -1, -5]


def test_a_weight_changes_the_unit():
    assert numbers("0.1*min-length", "seven..") == [pytest.approx(-0.7)]


def test_a_response_that_was_cut_has_no_stop_token_to_leave_out():
    (found,) = reward("min-length")([[written("four", finished=False), written("four")]])
    assert found.tolist() == [-4, -4]


def test_a_stop_string_ends_a_response_without_a_token_that_is_left_out():
    whole = written("four", finished=False)
    stopped = Written("Q?\n", "four", whole.tokens, finished=True)
    assert length(stopped, stops_of(TOKENIZER)) == 4


def test_a_response_without_any_token_has_length_0():
    nothing = Written("Q?\n", "", np.zeros(0, np.int32), finished=False)
    (found,) = reward("mode-length:3")([[nothing]])
    assert found.tolist() == [-3]


def test_an_end_token_inside_a_cut_response_still_counts():
    tokens = np.array([END, 5, END], np.int32)
    assert length(Written("", "", tokens, finished=False), frozenset({END})) == 3


@pytest.mark.parametrize("spec", ["mode-length:many", "mode-length:-3", "mode-length:1.5"])
def test_a_mode_that_is_no_length_is_refused(spec):
    with pytest.raises(ValueError, match="mode-length:23"):
        reward(spec)


@pytest.mark.parametrize("seed", [1, 4, 6])  # the most frequent length is 13, 14 and 32
def test_the_typical_length_of_samples_is_the_peak_of_what_they_were_drawn_from(seed):
    # Skewed, so that the mean (30) is not the mode (20).
    lengths = np.random.default_rng(seed).gamma(3.0, 10.0, 400).astype(int) + 1
    samples = [
        [Written("", "", np.zeros(n, np.int32), finished=False) for n in some]
        for some in lengths.reshape(100, 4).tolist()
    ]
    found = typical(samples, TOKENIZER)
    assert found.samples == 400 and found.mean == pytest.approx(lengths.mean())
    assert abs(found.mode - 20) <= 1


def test_of_lengths_that_are_mostly_equal_the_typical_one_is_the_most_frequent():
    samples = [[written("x" * n) for n in (7, 7, 7, 7, 7, 2)]]
    assert typical(samples, TOKENIZER).mode == 7


def test_without_samples_there_is_no_typical_length():
    with pytest.raises(ValueError, match="no response"):
        typical([[]], TOKENIZER)
