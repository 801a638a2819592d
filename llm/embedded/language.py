"""The language of the harbour: texts a small decoder can master, from a distribution known exactly.

Somebody asks about an animal and a place; an old keeper answers, kindly, plainly or grumpily, in a
few words or in many. Questions and answers come from ``harbour.grammar``, so the probability of
every answer, the entropy, and the distribution of lengths are numbers and not estimates: a student
can say how far, in nats, a trained model is from the truth. What answers are preferred for (being
kind, short, vivid, ...) is counted from their words, for grammatical and broken text alike.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import numpy as np

from llm.embedded import grammar as grammars
from llm.embedded.grammar import Reading
from llm.embedded.harbour import (
    ASKS,
    BEASTS,
    PLACES,
    Question,
    as_prompt,
    harbour,
    question_of,
    questions,
)


def lexicon(words: str) -> frozenset[str]:
    """A set of words."""
    return frozenset(words.split())


KIND_WORDS = lexicon(
    "brave cheerful dear delighted friend generous gentle gift gladly happy kind kindest lovely "
    "love loves patient please smile sweetest thank warm welcome wise"
)
GRUMPY_WORDS = lexicon(
    "annoy blamed bother burned burns complain complains dreadful fool foolish fools furious "
    "grumble hates howls mean meanly muddy nasty nuisance pest quarrelled reeks rubbish rude "
    "rudest scold scowl selfish silly sour spite steals stolen sulky thief worst"
)
VIVID_WORDS = lexicon(
    "silver golden crimson velvet copper speckled crooked gleaming tiny moonlit salty frosty "
    "violet whispering"
)


def sample(generator: np.random.Generator, held_out: bool = False) -> tuple[str, str]:
    """Draw a question, uniformly, and an answer from the true distribution."""
    among = questions(held_out)
    question = among[int(generator.random() * len(among))]
    return question.text, answer(generator, question.text)


def answer(generator: np.random.Generator, prompt: str) -> str:
    """Draw an answer to a question from the true distribution."""
    slots = question_of(prompt).slots
    return grammars.spell(grammars.draw(harbour(), "answer", slots, generator))


def parse(prompt: str, response: str) -> Reading | None:
    """How the grammar says ``response`` in answer to ``prompt``; None if it never does."""
    words = grammars.unspell(harbour(), response)
    if words is None:
        return None
    found = grammars.parses(harbour(), "answer", question_of(prompt).slots, words)
    return found[0] if found else None


def log_probability(prompt: str, response: str) -> float:
    """Return log p(response | prompt) under the truth, in nats; -inf if it is never said."""
    reading = parse(prompt, response)
    return -math.inf if reading is None else reading.log_probability


def is_grammatical(response: str) -> bool:
    """Whether ``response`` answers any question of the language, not necessarily the one asked."""
    named = word_list(response)
    beasts = [word for word in BEASTS if word in named] or BEASTS[:1]
    places = [word for word in PLACES if word in named] or list(PLACES)[:1]
    words = grammars.unspell(harbour(), response)
    return words is not None and any(
        grammars.parses(harbour(), "answer", Question(ask, beast, place).slots, words)
        for beast, place, ask in product(beasts, places, ASKS)
    )


@cache
def entropy() -> float:
    """H(answer | question) in nats, averaged over questions; beasts and places change nothing."""
    beast, place = BEASTS[0], next(iter(PLACES))
    return sum(
        grammars.entropy(harbour(), "answer", Question(ask, beast, place).slots) for ask in ASKS
    ) / len(ASKS)


def distribution(value: Callable[[str], int]) -> dict[int, float]:
    """Exact distribution, over all questions and answers, of a sum over words.

    Args:
        value: what a word or a mark adds to the sum; it must not depend on beasts and places.

    Returns:
        The probability of every sum that can occur, in increasing order.
    """
    beast, place = BEASTS[0], next(iter(PLACES))
    total: dict[int, float] = {}
    for ask in ASKS:
        slots = Question(ask, beast, place).slots
        for sum_, p in grammars.distribution(harbour(), "answer", slots, value).items():
            total[sum_] = total.get(sum_, 0) + p / len(ASKS)
    return dict(sorted(total.items()))


def is_word(word: str) -> int:
    """1 for a word, 0 for a mark."""
    return int(word not in grammars.MARKS)


@cache
def typical_length() -> int:
    """The most probable number of words of an answer."""
    lengths = distribution(is_word)
    return max(lengths, key=lambda length: lengths[length])


def word_list(text: str) -> list[str]:
    """The words of any text, in lower case, without marks."""
    return re.findall(r"[a-z'-]+", text.lower())


def count(lexicon: frozenset[str], text: str) -> int:
    """How many words of a text are in a lexicon."""
    return sum(word in lexicon for word in word_list(text))


def kindness(prompt: str, response: str) -> int:
    """Kind words minus grumpy words."""
    return count(KIND_WORDS, response) - count(GRUMPY_WORDS, response)


def length(prompt: str, response: str) -> int:
    """Number of words."""
    return len(word_list(response))


def vividness(prompt: str, response: str) -> int:
    """Number of painting adjectives."""
    return count(VIVID_WORDS, response)


def faithfulness(prompt: str, response: str) -> float:
    """Share of the prompt's beasts and places that the response names; 1 if there are none.

    Naming one that the prompt does not takes away as much as missing one.
    """
    subjects = {*BEASTS, *PLACES}
    asked, named = subjects & set(word_list(prompt)), subjects & set(word_list(response))
    return 1 - len(asked ^ named) / max(len(asked), 1)


@dataclass(frozen=True)
class Preference:
    """What a judge prefers.

    Attributes:
        meaning: the preference in words, for help and reports.
        score: of (prompt, response), for any text whatever; higher is better.
    """

    meaning: str
    score: Callable[[str, str], float]


PREFERENCES = {
    "kind": Preference("kind words, and no grumpy ones", kindness),
    "grumpy": Preference("grumpy words, and no kind ones", lambda x, y: -kindness(x, y)),
    "short": Preference("as few words as possible", lambda x, y: -length(x, y)),
    "long": Preference("as many words as possible", length),
    "typical": Preference(
        "a length close to the most probable one",
        lambda x, y: -abs(length(x, y) - typical_length()),
    ),
    "vivid": Preference("adjectives that paint", vividness),
    "faithful": Preference("the beast and the place that were asked about", faithfulness),
}
DEFAULT_PREFERENCE = "kind"


def preference_named(name: str) -> Preference:
    """A preference by its name.

    Raises:
        ValueError: if there is none of that name.
    """
    if name not in PREFERENCES:
        known = ", ".join(PREFERENCES)
        raise ValueError(f"there is no preference {name!r} in the harbour; choose of {known}.")
    return PREFERENCES[name]


def label(preference: str, prompt: str, first: str, second: str) -> dict[str, str] | None:
    """One row ``prompt/chosen/rejected``, judged exactly; None if the two are equally good.

    Args:
        preference: a name in ``PREFERENCES``.
        prompt: what both respond to.
        first: any text.
        second: any text.
    """
    score = preference_named(preference).score
    a, b = score(prompt, first), score(prompt, second)
    if a == b:
        return None
    chosen, rejected = (first, second) if a > b else (second, first)
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def preferences(
    preference: str, seed: int, size: int, held_out: bool = False
) -> list[dict[str, str]]:
    """Pairs of answers drawn from the true distribution and labelled by an exact score.

    Args:
        preference: a name in ``PREFERENCES``.
        seed: decides questions and answers.
        size: number of pairs; ties are dropped and drawn again.
        held_out: whether questions are those that training never sees.

    Returns:
        Rows of ``prompt``, ``chosen``, ``rejected``.
    """
    generator = np.random.default_rng(seed)
    rows: list[dict[str, str]] = []
    while len(rows) < size:
        prompt, first = sample(generator, held_out)
        row = label(preference, as_prompt(prompt), first, answer(generator, prompt))
        if row is not None:
            rows.append(row)
    return rows


def rated(
    preference: str, seed: int, size: int, held_out: bool = False, responses: int = 4
) -> list[dict[str, Any]]:
    """Several different answers to each question, each with its exact score.

    Args:
        preference: a name in ``PREFERENCES``.
        seed: decides questions and answers.
        size: number of questions asked.
        held_out: whether questions are those that training never sees.
        responses: answers to each.

    Returns:
        Rows of ``prompt``, ``responses`` and ``rewards``; a reward's unit is a word.
    """
    score = preference_named(preference).score
    generator = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for _ in range(size):
        prompt, first = sample(generator, held_out)
        drawn = {first: None}  # a set that keeps its order
        while len(drawn) < responses:
            drawn[answer(generator, prompt)] = None
        rewards = [float(score(prompt, response)) for response in drawn]
        rows.append({"prompt": as_prompt(prompt), "responses": list(drawn), "rewards": rewards})
    return rows


def demonstrations(seed: int, size: int, held_out: bool = False) -> list[dict[str, str]]:
    """Questions and answers from the true distribution: rows of ``prompt`` and ``completion``."""
    generator = np.random.default_rng(seed)
    drawn: Iterator[tuple[str, str]] = (sample(generator, held_out) for _ in range(size))
    return [{"prompt": as_prompt(prompt), "completion": response} for prompt, response in drawn]
