"""The language of the harbour: exact numbers, honest scores, held-out questions."""

import math
import re
from collections import Counter
from itertools import product

import numpy as np
import pytest

from llm.embedded import language
from llm.embedded.grammar import parses, unspell
from llm.embedded.language import (
    ASKS,
    BEASTS,
    PLACES,
    PREFERENCES,
    Question,
    answer,
    distribution,
    entropy,
    harbour,
    is_grammatical,
    log_probability,
    preferences,
    questions,
    rated,
    sample,
    typical_length,
)

WHO = "Who is the otter in the lighthouse?"


@pytest.fixture(scope="module")
def drawn():
    """Eight hundred questions and answers."""
    generator = np.random.default_rng(0)
    return [sample(generator) for _ in range(800)]


def test_every_rule_is_used_and_none_is_missing():
    named = {
        part[1:-1]
        for alternatives in harbour().rules.values()
        for alternative in alternatives
        for part in alternative.parts
        if part[0] == "<"
    }
    used = {rule.format(ask=ask) for rule, ask in product(named, ASKS)}
    used |= {"answer"} | {f"ask.{ask}" for ask in ASKS}
    assert used == set(harbour().rules)


def test_slots_are_all_the_grammar_asks_for():
    slots = {
        slot
        for alternatives in harbour().rules.values()
        for alternative in alternatives
        for part in alternative.parts
        for slot in re.findall(r"\{(\w+)\}", part)
    }
    assert slots == set(Question("who", "otter", "mill").slots)


def test_what_is_drawn_is_grammatical_and_has_exactly_one_reading(drawn):
    for prompt, response in drawn[:300]:
        words = unspell(harbour(), response)
        assert words is not None, response
        slots = language.question_of(prompt).slots
        assert len(parses(harbour(), "answer", slots, words)) == 1, response


def test_the_mean_log_probability_is_minus_the_entropy(drawn):
    logp = np.array([log_probability(*pair) for pair in drawn])
    error = logp.std() / math.sqrt(len(logp))
    assert -logp.mean() == pytest.approx(entropy(), abs=4 * error)
    assert error < 0.04 * entropy()


def test_answers_are_drawn_as_often_as_they_are_probable():
    # The short ones repeat often enough to be counted.
    generator, size = np.random.default_rng(1), 6000
    counts = Counter(answer(generator, WHO) for _ in range(size))
    for text, count in counts.most_common(8):
        expected = size * math.exp(log_probability(WHO, text))
        assert abs(count - expected) < 4 * math.sqrt(expected), text


def test_exact_lengths_agree_with_drawn_ones(drawn):
    exact = distribution(language.is_word)
    assert sum(exact.values()) == pytest.approx(1)
    lengths = np.array([language.length(*pair) for pair in drawn])
    mean = sum(n * p for n, p in exact.items())
    assert lengths.mean() == pytest.approx(mean, abs=4 * lengths.std() / math.sqrt(len(lengths)))
    assert set(lengths) <= set(exact)


def test_lengths_have_a_mode_and_a_long_tail():
    exact = distribution(language.is_word)
    mean = sum(n * p for n, p in exact.items())
    assert 15 <= typical_length() < mean
    assert sum(p for n, p in exact.items() if n > 2 * mean) > 0.02
    assert min(exact) <= 3


def test_a_text_that_is_not_an_answer_has_probability_zero():
    answer = "The otter in the lighthouse mends nets."
    assert log_probability(WHO, answer) > -math.inf
    for wrong in (
        "The otter in the lighthouse mends nets",
        "The heron in the lighthouse mends nets.",
        "The otter in the lighthouse mends.",
        "the otter in the lighthouse mends nets.",
        "",
    ):
        assert log_probability(WHO, wrong) == -math.inf, wrong


def test_an_answer_to_another_question_is_grammatical_all_the_same():
    elsewhere = "The heron under the bridge mends nets. The tide turns at noon."
    assert is_grammatical(elsewhere)
    assert is_grammatical("Oh, bother.")
    assert not is_grammatical("The heron under the bridge mends mends nets.")
    assert not is_grammatical("The heron under the bridge mends nets. She sells plum jam at noon.")


def test_held_out_questions_put_known_words_together_for_the_first_time():
    training, held_out = questions(), questions(held_out=True)
    assert len(training) + len(held_out) == len(BEASTS) * len(PLACES) * len(ASKS)
    together = {(question.beast, question.place) for question in training}
    assert not together & {(question.beast, question.place) for question in held_out}
    assert {beast for beast, _ in together} == set(BEASTS)
    assert {place for _, place in together} == set(PLACES)


def test_a_seed_decides_every_pair():
    assert preferences("kind", 3, 20) == preferences("kind", 3, 20)
    assert preferences("kind", 3, 20) != preferences("kind", 4, 20)


@pytest.mark.parametrize("name", PREFERENCES)
def test_the_chosen_answer_scores_higher_and_both_come_from_the_language(name):
    score = PREFERENCES[name].score
    held_out = {question.text for question in questions(held_out=True)}
    for row in preferences(name, 0, 50, held_out=True):
        assert row["prompt"].removesuffix("\n") in held_out
        assert score(row["prompt"], row["chosen"]) > score(row["prompt"], row["rejected"])
        assert log_probability(row["prompt"], row["chosen"]) > -math.inf


def test_rated_answers_differ_and_are_rated_by_the_score():
    rows = rated("kind", 0, 30, responses=5)
    for row in rows:
        assert len(set(row["responses"])) == len(row["rewards"]) == 5
        scores = [language.kindness(row["prompt"], text) for text in row["responses"]]
        assert row["rewards"] == scores
    assert rows == rated("kind", 0, 30, responses=5)


def test_the_mood_of_an_answer_decides_the_sign_of_its_kindness(drawn):
    for prompt, response in drawn[:300]:
        reading = language.parse(prompt, response)
        assert reading is not None
        opening = reading.children[0]
        assert not isinstance(opening, str)
        mood = opening.rule.partition(".")[0]
        kindness = language.kindness(prompt, response)
        allowed = {"kind": kindness >= 0, "plain": kindness == 0, "grumpy": kindness <= 0}
        assert allowed[mood], response


def test_scores_mean_something_for_any_text_whatever():
    garbled = "dear DEAR otter otter, nuisance!! velvet lighthouse heron"
    assert language.kindness(WHO, garbled) == 1
    assert language.vividness(WHO, garbled) == 1
    assert language.length(WHO, garbled) == 8
    assert language.faithfulness(WHO, garbled) == 0.5
    assert language.faithfulness(WHO, "The otter keeps to the lighthouse.") == 1
    assert language.faithfulness(WHO, "") == 0
    for preference in PREFERENCES.values():
        assert math.isfinite(preference.score(WHO, ""))


def test_words_that_are_counted_are_words_that_are_said():
    said = {part for rule in harbour().rules.values() for one in rule for part in one.parts}
    for lexicon in (language.KIND_WORDS, language.GRUMPY_WORDS, language.VIVID_WORDS):
        assert lexicon <= said, sorted(lexicon - said)
    assert not language.KIND_WORDS & language.GRUMPY_WORDS


def test_a_question_from_elsewhere_and_an_unknown_preference_are_refused():
    with pytest.raises(ValueError, match="not a question of the harbour"):
        log_probability("What is the capital of France?", "Paris.")
    with pytest.raises(ValueError, match=r"no preference 'polite'.*kind"):
        preferences("polite", 0, 1)
