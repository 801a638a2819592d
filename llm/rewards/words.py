"""Exact rewards of what a text says: patterns that match, words of a list, harbour preferences.

They are programs, so a gold reward can be one: whatever a learned proxy makes of a text, what the
text is really worth is counted.

Key to the axes: N responses of a prompt.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from llm.embedded.language import preference_named
from llm.rewards.contract import PerResponse, Written, one_by_one

WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
"""Letters and digits, with apostrophes and hyphens inside."""


@dataclass(frozen=True)
class OfText:
    """A reward that a function of (prompt, response) computes.

    Attributes:
        name: what it was asked for as.
        worth: the function.
    """

    name: str
    worth: Callable[[str, str], float]

    def __call__(self, groups: Sequence[Sequence[Written]]) -> list[PerResponse]:
        """The worth of every response."""
        return one_by_one(groups, lambda w: float(self.worth(w.prompt, w.response)))


def preference(name: str, which: str) -> OfText:
    """An exact preference of the built-in language, in words (``faithful``: a share).

    Raises:
        ValueError: if there is none of that name.
    """
    return OfText(name, preference_named(which).score)


def regex(name: str, pattern: str) -> OfText:
    """The number of matches in the response that do not overlap.

    Raises:
        ValueError: if the pattern is none.
    """
    compiled = compile_pattern(name, pattern)
    return OfText(name, lambda prompt, response: sum(1 for _ in compiled.finditer(response)))


def has_regex(name: str, pattern: str) -> OfText:
    """1 if the pattern matches somewhere in the response, else 0.

    Raises:
        ValueError: if the pattern is none.
    """
    compiled = compile_pattern(name, pattern)
    return OfText(name, lambda prompt, response: compiled.search(response) is not None)


def compile_pattern(name: str, pattern: str) -> re.Pattern[str]:
    """A regular expression of Python's; a ValueError says where it goes wrong."""
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"The pattern of the reward {name} is no regular expression: {error}. A character with "
            "a meaning of its own is written with a backslash before it."
        ) from None


def lexicon(name: str, file: str) -> OfText:
    """How many words of the response are in a file's list.

    Raises:
        ValueError: as ``read_words``.
        OSError: as ``read_words``.
    """
    listed = read_words(Path(file))
    return OfText(name, lambda prompt, response: count(listed, words(response)))


def lexicon_share(name: str, file: str) -> OfText:
    """Which share of the response's words is in a file's list; 0 for a response without words.

    Raises:
        ValueError: as ``read_words``.
        OSError: as ``read_words``.
    """
    listed = read_words(Path(file))

    def worth(prompt: str, response: str) -> float:
        said = words(response)
        return count(listed, said) / max(len(said), 1)

    return OfText(name, worth)


def words(text: str) -> list[str]:
    """The words of a text in any script, in lower case."""
    return WORD.findall(text.lower())


def count(listed: frozenset[str], said: Sequence[str]) -> int:
    """How many words are in a list; one that occurs twice counts twice."""
    return sum(word in listed for word in said)


def read_words(path: Path) -> frozenset[str]:
    """A file of words, separated by white space; case means nothing.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is not UTF-8, holds no word, or holds what can never be met in a text.
    """
    path = path.expanduser()
    try:
        found = path.read_text(encoding="utf-8").lower().split()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}): save it as such.") from None
    except OSError as error:
        raise OSError(
            f"The lexicon {path} cannot be read ({error.strerror}): give a file of words."
        ) from None
    if not found:
        raise ValueError(f"The lexicon {path} holds no word: write some, one to a line.")
    for word in found:
        if words(word) != [word]:
            raise ValueError(
                f"The lexicon {path} holds {word!r}, which is never met as one word in a text: "
                "leave out signs, and count phrases with regex:."
            )
    return frozenset(found)
