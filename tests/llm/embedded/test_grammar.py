"""A grammar's numbers against brute force on grammars small enough to write out."""

import math
from collections import Counter, defaultdict
from itertools import product

import numpy as np
import pytest

from llm.embedded.grammar import (
    distribution,
    draw,
    entropy,
    parses,
    read_grammar,
    spell,
    unspell,
)

TINY = """
# a comment
greeting:
  3 <hello.{mood}>, {name}!
  1 <hello.{mood}>, {name}. <more>
hello.glad:
  good <hour>
  2 hello
hello.cross:
  go away
hour:
  morning
  3 night
more:
  2 -
  how is <thing> and <thing>?
thing:
  Mary
  the cat
"""
GLAD = {"mood": "glad", "name": "old friend"}
AMBIGUOUS = """
text:
  <a> <b>
a:
  3 so
  so so
b:
  so
  4 so so
"""


def expansions(grammar, rule, slots):
    """Every reading of a rule, as words and a probability, the slow way."""
    for probability, parts in grammar.rules[rule.format_map(slots)]:
        choices = [
            list(expansions(grammar, part[1:-1], slots))
            if part[0] == "<"
            else [(slots[part[1:-1]].split() if part[0] == "{" else [part], 1.0)]
            for part in parts
        ]
        for chosen in product(*choices):
            words = [word for said, _ in chosen for word in said]
            yield words, probability * math.prod(p for _, p in chosen)


@pytest.fixture
def tiny():
    return read_grammar(TINY)


def test_a_text_has_the_probability_that_enumeration_gives(tiny):
    total = 0.0
    for words, probability in expansions(tiny, "greeting", GLAD):
        (reading,) = parses(tiny, "greeting", GLAD, words)
        assert reading.log_probability == pytest.approx(math.log(probability))
        total += probability
    assert total == pytest.approx(1)


def test_the_readings_of_an_ambiguous_text_add_up_to_its_probability():
    grammar = read_grammar(AMBIGUOUS)
    expected = defaultdict(float)
    for words, probability in expansions(grammar, "text", {}):
        expected[tuple(words)] += probability
    assert len(expected) == 3  # of four readings
    for words, probability in expected.items():
        found = parses(grammar, "text", {}, words)
        assert sum(math.exp(r.log_probability) for r in found) == pytest.approx(probability)


def test_words_outside_the_language_have_no_reading(tiny):
    for text in ("hello , old friend", "hello , young friend .", "go away , old friend !", ""):
        assert parses(tiny, "greeting", GLAD, text.split()) == []


def test_entropy_is_that_of_the_enumerated_readings(tiny):
    expected = -sum(p * math.log(p) for _, p in expansions(tiny, "greeting", GLAD))
    assert entropy(tiny, "greeting", GLAD) == pytest.approx(expected, rel=1e-12)


def test_the_distribution_of_a_sum_is_that_of_the_enumerated_readings(tiny):
    expected = defaultdict(float)
    for words, probability in expansions(tiny, "greeting", GLAD):
        expected[sum(map(len, words))] += probability
    found = distribution(tiny, "greeting", GLAD, len)
    assert list(found) == sorted(expected)
    assert found == pytest.approx(expected)


def test_texts_are_drawn_as_often_as_they_are_probable(tiny):
    generator, size = np.random.default_rng(0), 5000
    drawn = Counter(tuple(draw(tiny, "greeting", GLAD, generator)) for _ in range(size))
    expected = defaultdict(float)
    for words, probability in expansions(tiny, "greeting", GLAD):
        expected[tuple(words)] += probability
    assert set(drawn) <= set(expected)
    chi_square = sum((drawn[w] - size * p) ** 2 / (size * p) for w, p in expected.items())
    degrees = len(expected) - 1
    assert chi_square < degrees + 4 * math.sqrt(2 * degrees)


def test_spelling_puts_capitals_and_marks_where_they_belong_and_is_undone(tiny):
    words = ["how", "is", "Mary", "?", "hello", ",", "Mary", "."]
    assert spell(words) == "How is Mary? Hello, Mary."
    assert unspell(tiny, "How is Mary? Hello, Mary.") == words
    for misspelt in ("how is Mary?", "How is Mary ?", "How is  Mary?", "How is Mary?\n", "How%"):
        assert unspell(tiny, misspelt) is None


@pytest.mark.parametrize(
    ("notation", "complaint"),
    [
        ("  hello", "belongs to no rule"),
        ("greeting\n  hello", "with a colon"),
        ("greeting:\n  hello\ngreeting:\n  bye", "not yet defined"),
        ("greeting:\nhello:\n  hello", r"\['greeting'\] have no alternative"),
    ],
)
def test_a_notation_that_makes_no_sense_is_refused(notation, complaint):
    with pytest.raises(ValueError, match=complaint):
        read_grammar(notation)


def test_a_rule_that_is_missing_is_named():
    with pytest.raises(ValueError, match="no rule 'bye'"):
        entropy(read_grammar("greeting:\n  <bye>"), "greeting", {})
