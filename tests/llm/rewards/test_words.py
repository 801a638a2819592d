"""Rewards of words are counts that a reader could make by hand, for any text."""

import re

import pytest

from llm.embedded.language import PREFERENCES
from llm.rewards.words import words
from tests.llm.rewards.written import groups, numbers, reward


def test_a_regular_expression_counts_matches_that_do_not_overlap():
    assert numbers("regex:aa|b", "aaaab", "x", "") == [3, 0, 0]


def test_whether_a_pattern_matches_is_1_or_0():
    assert numbers("has-regex:^Yes", "Yes, yes", "No. Yes", "") == [1, 0, 0]


def test_a_pattern_may_hold_colons_stars_and_plus_signs():
    assert numbers(r"regex:a+:\*", "aa:*", "a:") == [1, 0]


def test_a_pattern_that_is_none_is_refused_with_its_fault():
    with pytest.raises(ValueError, match=r"regex:\(a.*no regular expression.*unterminated"):
        reward("regex:(a")


@pytest.fixture
def lexicon(tmp_path):
    path = tmp_path / "kind.txt"
    path.write_text("Lovely kind\nwell-meant\n\nfrère\n", encoding="utf-8")
    return path


def test_a_lexicon_counts_words_whole_and_in_any_case(lexicon):
    said = ("KIND, lovely... kind!", "kindly unkind", "a well-meant FRÈRE", "")
    assert numbers(f"lexicon:{lexicon}", *said) == [3, 0, 2, 0]


def test_a_share_of_words_does_not_grow_with_length(lexicon):
    said = ("kind", "kind kind", "be kind to all", "")
    assert numbers(f"lexicon-share:{lexicon}", *said) == [1, 1, 0.25, 0]


def test_a_word_that_no_text_can_hold_is_refused(lexicon):
    lexicon.write_text("kind c++\n")
    with pytest.raises(ValueError, match=r"'c\+\+'.*never met"):
        reward(f"lexicon:{lexicon}")


def test_a_lexicon_without_words_is_refused(lexicon):
    lexicon.write_text("\n")
    with pytest.raises(ValueError, match=r"holds no word"):
        reward(f"lexicon:{lexicon}")


def test_a_lexicon_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(OSError, match=r"nowhere\.txt cannot be read.*give a file of words"):
        reward(f"lexicon:{tmp_path / 'nowhere.txt'}")


def test_a_lexicon_of_another_encoding_is_refused(lexicon):
    lexicon.write_bytes("frère".encode("latin-1"))
    with pytest.raises(ValueError, match="not UTF-8"):
        reward(f"lexicon:{lexicon}")


def test_words_are_found_in_any_script():
    assert words("Don't; l’été - 3 кошки_да") == ["don't", "l’été", "3", "кошки", "да"]


@pytest.mark.parametrize("name", PREFERENCES)
def test_a_preference_of_the_harbour_is_its_own_score(name):
    asked = groups(["A gentle goat in the harbour.", "", "Silly mean pest!"])
    (found,) = reward(name)(asked)
    score = PREFERENCES[name].score
    assert found.tolist() == [score(w.prompt, w.response) for w in asked[0]]
    assert re.fullmatch("[a-z]+", reward(name).name)
