"""The length tasks: rewards whose peak a student can place relative to the reference.

Min Length puts the peak where the reference is thin, Mode Length where it is thick; Skew Length has
Min Length's reward, and what differs is the data, in which short responses are overrepresented. A
length is the number of response tokens without the stop token, so the unit of all three is a token.

Key to the axes: N responses of a prompt, T tokens of a response.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from llm.rewards.contract import PerResponse, Written, one_by_one


@dataclass(frozen=True)
class Length:
    """A reward that looks at nothing but the number of tokens.

    Attributes:
        name: what it was asked for as.
        worth: of a length in tokens.
        tokenizer: gives the policy's.

    Source: Tajwar et al. 2024, arXiv:2404.14367, section 5 (Min, Mode and Skew Length).
    Differs: the authors tokenize the decoded text again; here the tokens drawn are counted, so
        a policy cannot change its reward by spelling a text in other tokens.
    """

    name: str
    worth: Callable[[int], float]
    tokenizer: Callable[[], Any]

    @cached_property
    def stops(self) -> frozenset[int]:
        """Tokens that end a response and are not counted."""
        return stops_of(self.tokenizer())

    def __call__(self, groups: Sequence[Sequence[Written]]) -> list[PerResponse]:
        """The worth of every response's length, in tokens."""
        return one_by_one(groups, lambda written: self.worth(length(written, self.stops)))


def min_length(name: str, tokenizer: Callable[[], Any]) -> Length:
    """-tokens: the shorter the better; also the reward of Skew Length."""
    return Length(name, lambda tokens: -float(tokens), tokenizer)


def max_length(name: str, tokenizer: Callable[[], Any]) -> Length:
    """+tokens: the longer the better."""
    return Length(name, float, tokenizer)


def mode_length(name: str, tokenizer: Callable[[], Any], mode: int) -> Length:
    """-|tokens - mode|: the closer to a length the better.

    Args:
        name: of the reward.
        tokenizer: gives the policy's.
        mode: the length, in tokens: for Mode Length the reference's most probable one, which
            ``typical`` finds in samples.

    Raises:
        ValueError: if the length is negative.
    """
    if mode < 0:
        raise ValueError(f"The mode of {name} is {mode}; a length is 0 or more tokens.")
    return Length(name, lambda tokens: -float(abs(tokens - mode)), tokenizer)


def length(written: Written, stops: frozenset[int]) -> int:
    """Tokens of a response without the one that ended it; a stop string ends it without one."""
    ended = written.finished and len(written.tokens) > 0 and int(written.tokens[-1]) in stops
    return len(written.tokens) - ended


def stops_of(tokenizer: Any) -> frozenset[int]:
    """Every token that is no text: whichever ended a response is among them."""
    added = tokenizer.added_tokens_decoder.items()
    return frozenset((*tokenizer.all_special_ids, *(i for i, token in added if token.special)))


class Typical(NamedTuple):
    """How long samples of a reference are, in tokens.

    Attributes:
        mode: the most probable length.
        mean: the mean length.
        samples: how many there were.
    """

    mode: int
    mean: float
    samples: int


def typical(groups: Sequence[Sequence[Written]], tokenizer: Any) -> Typical:
    """The reference's most probable and mean length, from its samples.

    The most frequent of a few hundred lengths is mostly chance, so the histogram is smoothed first
    with a Gaussian of Silverman's width; of equally probable lengths the shortest counts.

    Args:
        groups: responses of the reference, uncut: a cap on their length would become the mode.
        tokenizer: the reference's.

    Raises:
        ValueError: if there is no response.
    Source: Silverman 1986, Density Estimation, equation 3.31.
    """
    stops = stops_of(tokenizer)
    lengths = np.array([length(written, stops) for group in groups for written in group])
    if not len(lengths):
        raise ValueError("there is no response to take a typical length of: give samples.")
    low, high = np.quantile(lengths, (0.25, 0.75))
    spread = min(float(lengths.std()), float(high - low) / 1.34)
    width = 0.9 * spread * len(lengths) ** -0.2
    found = Counter(lengths.tolist())
    grid = np.arange(min(found), max(found) + 1)
    density = np.zeros(len(grid))
    for at, many in found.items():
        if width > 0:
            density += many * np.exp(-0.5 * ((grid - at) / width) ** 2)
        else:
            density += many * (grid == at)
    return Typical(int(grid[density.argmax()]), float(lengths.mean()), len(lengths))
