"""Who lives in the harbour, and what can be asked about them.

A question names one of sixteen beasts and one of twelve places and asks one of six things about
them. It fills the slots of the grammar, so every question has its own distribution of answers. The
pairs of beast and place that training never sees are what a model is tried on.
"""

from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np

from llm.embedded import grammar as grammars
from llm.embedded.grammar import Grammar

ASKS = ("who", "what", "why", "how", "keep", "may")
BEASTS = (
    *("otter", "heron", "badger", "fox", "hare", "owl", "goose", "toad"),
    *("mole", "crow", "hedgehog", "snail", "dormouse", "goat", "seal", "puffin"),
)
PLACES = {
    "lighthouse": "in",
    "mill": "at",
    "bridge": "under",
    "bakery": "in",
    "chapel": "behind",
    "orchard": "in",
    "ferry": "on",
    "well": "by",
    "library": "in",
    "pier": "under",
    "garden": "in",
    "island": "on",
}


@dataclass(frozen=True)
class Question:
    """What is asked (one of ``ASKS``), about which beast, in which place."""

    ask: str
    beast: str
    place: str

    @property
    def slots(self) -> dict[str, str]:
        """What the question decides in the grammar."""
        place = f"the {self.place}"
        where = f"{PLACES[self.place]} {place}"
        return {"ask": self.ask, "beast": self.beast, "place": place, "where": where}

    @property
    def text(self) -> str:
        """The question in words, such as "Who is the otter in the lighthouse?"."""
        return grammars.spell(grammars.draw(harbour(), "ask.{ask}", self.slots, UNUSED))


# A question has one wording, so drawing it takes no chance.
UNUSED = np.random.default_rng(0)


@cache
def harbour() -> Grammar:
    """The grammar."""
    notation = Path(__file__).with_name("harbour.grammar").read_text(encoding="utf-8")
    return grammars.read_grammar(notation)


@cache
def questions(held_out: bool = False) -> tuple[Question, ...]:
    """All questions of training, or all held-out ones.

    A twelfth of the pairs of a beast and a place are held out, whatever is asked about them. Every
    beast and every place occurs in training, so what is tested is putting them together.
    """
    return tuple(
        Question(ask, beast, place)
        for (i, beast), (j, place), ask in product(enumerate(BEASTS), enumerate(PLACES), ASKS)
        if ((i + j) % 12 == 0) == held_out
    )


@cache
def by_text() -> dict[str, Question]:
    """Every question by its wording."""
    return {question.text: question for question in (*questions(), *questions(held_out=True))}


def question_of(prompt: str) -> Question:
    """The question that a prompt asks.

    Raises:
        ValueError: if it is none of the language's.
    """
    if prompt.strip() not in by_text():
        example = questions()[0].text
        raise ValueError(
            f"{prompt.strip()!r} is not a question of the harbour; ask, for example, {example!r}."
        )
    return by_text()[prompt.strip()]


def as_prompt(question: str) -> str:
    """What a model is given: the question and a line break, as in the chat template."""
    return f"{question}\n"
