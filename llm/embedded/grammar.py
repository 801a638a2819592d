"""Probabilistic grammars whose every number is exact.

A grammar is a set of rules; a rule is a few weighted alternatives; an alternative is a sequence of
words, other rules, and slots that the situation fills. Drawing an alternative of every rule draws a
text, and because no rule ever contains itself, whatever one wants to know about the distribution of
texts follows by recursion: the probability of a given text (add up its readings), the entropy (the
chain rule), the distribution of anything that words add up to, such as length.
"""

import math
import re
from bisect import bisect
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

import numpy as np

Slots = Mapping[str, str]

# A rule, a slot, a word, or a mark; a space before a mark means nothing.
PART = re.compile(r"<[^>]+>|\{\w+\}|[\w'-]+|[.,;:!?]")
MARKS = frozenset(".,;:!?")
ENDS = frozenset(".!?")


class Alternative(NamedTuple):
    """One way to expand a rule: its probability and its parts, in the grammar's notation."""

    probability: float
    parts: tuple[str, ...]


class Reading(NamedTuple):
    """How a rule was expanded: its name, and under it words and further readings."""

    rule: str
    log_probability: float
    children: tuple["str | Reading", ...]


@dataclass(frozen=True)
class Grammar:
    """Rules by name. Read one from its notation with ``read_grammar``."""

    rules: Mapping[str, tuple[Alternative, ...]]

    @cached_property
    def names(self) -> frozenset[str]:
        """Words that are spelled with a capital wherever they stand: "Monday", "I"."""
        parts = (part for rule in self.rules.values() for one in rule for part in one.parts)
        return frozenset(part for part in parts if part[0].isupper())

    @cached_property
    def thresholds(self) -> dict[str, tuple[float, ...]]:
        """Cumulative probabilities of every rule's alternatives but the last."""
        return {
            name: tuple(accumulate(one.probability for one in rule))[:-1]
            for name, rule in self.rules.items()
        }


def read_grammar(notation: str) -> Grammar:
    """Read a grammar from its notation.

    Args:
        notation: a line ``name:`` opens a rule and every indented line under it is an alternative,
            with an optional integer weight in front; ``-`` alone is the empty alternative;
            ``<name>`` is another rule and ``{name}`` a slot, also inside a rule's name; ``#``
            opens a comment. No rule may contain itself, not even through others.

    Raises:
        ValueError: if a line is neither, or a rule stands twice or has no alternative.
    """
    weighted: dict[str, list[tuple[int, tuple[str, ...]]]] = {}
    name = ""
    for number, line in enumerate(notation.splitlines(), start=1):
        text = line.partition("#")[0].rstrip()
        if not text:
            continue
        if not text[0].isspace():
            name = text.removesuffix(":")
            if name == text or name in weighted:
                raise ValueError(
                    f"line {number} of the grammar, {text!r}, must be the name of a rule that is "
                    "not yet defined, with a colon; alternatives are indented."
                )
            weighted[name] = []
        elif not name:
            raise ValueError(f"line {number} of the grammar, {text!r}, belongs to no rule.")
        else:
            first, _, rest = text.strip().partition(" ")
            weight, body = (int(first), rest) if first.isdigit() else (1, text.strip())
            parts = () if body.strip() == "-" else tuple(PART.findall(body))
            weighted[name].append((weight, parts))
    empty = [name for name, alternatives in weighted.items() if not alternatives]
    if empty:
        raise ValueError(f"the rules {empty} have no alternative; '-' is the empty one.")
    rules = {}
    for name, alternatives in weighted.items():
        total = sum(weight for weight, _ in alternatives)
        rules[name] = tuple(Alternative(weight / total, parts) for weight, parts in alternatives)
    return Grammar(rules)


def expand(grammar: Grammar, rule: str, slots: Slots) -> tuple[Alternative, ...]:
    """The alternatives of a rule whose name may hold slots.

    Raises:
        ValueError: if there is no such rule.
    """
    name = rule.format_map(slots)
    if name not in grammar.rules:
        raise ValueError(f"the grammar has no rule {name!r}; define it, or correct <{rule}>.")
    return grammar.rules[name]


def draw(grammar: Grammar, rule: str, slots: Slots, generator: np.random.Generator) -> list[str]:
    """The words of one text, drawn from the distribution that a rule defines."""
    name = rule.format_map(slots)
    alternatives = expand(grammar, rule, slots)
    chosen = alternatives[bisect(grammar.thresholds[name], generator.random())]
    words: list[str] = []
    for part in chosen.parts:
        if part[0] == "<":
            words += draw(grammar, part[1:-1], slots, generator)
        elif part[0] == "{":
            words += slots[part[1:-1]].split()
        else:
            words.append(part)
    return words


def readings(
    grammar: Grammar, rule: str, slots: Slots, words: Sequence[str], start: int = 0
) -> Iterator[tuple[int, Reading]]:
    """Every way in which a rule can yield some of the words from ``start`` on.

    Returns:
        Where each reading ends, and the reading. Those that end at ``len(words)`` read all of it.
    """
    for probability, parts in expand(grammar, rule, slots):
        for end, logp, children in sequences(grammar, parts, slots, words, start):
            yield end, Reading(rule.format_map(slots), math.log(probability) + logp, children)


def sequences(
    grammar: Grammar, parts: Sequence[str], slots: Slots, words: Sequence[str], start: int
) -> Iterator[tuple[int, float, tuple[str | Reading, ...]]]:
    """Every way in which parts can yield some of the words from ``start`` on, one after another."""
    if not parts:
        yield start, 0.0, ()
        return
    part, rest = parts[0], parts[1:]
    if part[0] == "<":
        for middle, reading in readings(grammar, part[1:-1], slots, words, start):
            for end, logp, children in sequences(grammar, rest, slots, words, middle):
                yield end, reading.log_probability + logp, (reading, *children)
        return
    said = slots[part[1:-1]].split() if part[0] == "{" else [part]
    middle = start + len(said)
    if list(words[start:middle]) == said:
        for end, logp, children in sequences(grammar, rest, slots, words, middle):
            yield end, logp, (*said, *children)


def parses(grammar: Grammar, rule: str, slots: Slots, words: Sequence[str]) -> list[Reading]:
    """All readings of exactly these words: none if they are not said, one if unambiguous."""
    found = readings(grammar, rule, slots, words)
    return [reading for end, reading in found if end == len(words)]


def entropy(grammar: Grammar, rule: str, slots: Slots) -> float:
    """Entropy, in nats, of the readings of a rule: that of its texts, if none is ambiguous.

    Drawing a text is drawing an alternative and then its parts, independently, so
    H(rule) = sum_a p_a (-log p_a + sum_part H(part)).
    """
    known: dict[str, float] = {}

    def of(rule: str) -> float:
        name = rule.format_map(slots)
        if name not in known:
            known[name] = sum(
                probability
                * (sum(of(part[1:-1]) for part in parts if part[0] == "<") - math.log(probability))
                for probability, parts in expand(grammar, rule, slots)
            )
        return known[name]

    return of(rule)


def distribution(
    grammar: Grammar, rule: str, slots: Slots, value: Callable[[str], int]
) -> dict[int, float]:
    """Exact distribution of a sum over the words of a text.

    Args:
        grammar: the grammar.
        rule: where texts start.
        slots: what fills the slots.
        value: what one word, or mark, adds to the sum.

    Returns:
        The probability of every sum that can occur, in increasing order.
    """
    known: dict[str, dict[int, float]] = {}

    def of(rule: str) -> dict[int, float]:
        name = rule.format_map(slots)
        if name not in known:
            total: defaultdict[int, float] = defaultdict(float)
            for probability, parts in expand(grammar, rule, slots):
                so_far = {0: probability}
                for part in parts:
                    so_far = convolve(so_far, added(part))
                for sum_, p in so_far.items():
                    total[sum_] += p
            known[name] = dict(sorted(total.items()))
        return known[name]

    def added(part: str) -> dict[int, float]:
        if part[0] == "<":
            return of(part[1:-1])
        said = slots[part[1:-1]].split() if part[0] == "{" else [part]
        return {sum(value(word) for word in said): 1.0}

    return of(rule)


def convolve(a: Mapping[int, float], b: Mapping[int, float]) -> dict[int, float]:
    """Distribution of the sum of two independent integers."""
    total: defaultdict[int, float] = defaultdict(float)
    for x, p in a.items():
        for y, q in b.items():
            total[x + y] += p * q
    return total


def spell(words: Sequence[str]) -> str:
    """Write words as text: marks close up to the word before, sentences open with a capital."""
    text = ""
    opens = True
    for word in words:
        written = word[0].upper() + word[1:] if opens else word
        text += written if word in MARKS or not text else f" {written}"
        opens = word in ENDS
    return text


def unspell(grammar: Grammar, text: str) -> list[str] | None:
    """The words whose spelling is ``text``, exactly; None if there are none."""
    words: list[str] = []
    opens = True
    for part in PART.findall(text):
        lower = part[0].lower() + part[1:]
        words.append(lower if opens and part not in grammar.names else part)
        opens = part in ENDS
    return words if spell(words) == text else None
