"""What a reward is: from the responses to some prompts to a float64 number for each of them.

Whatever a number comes from, a count of words or a model of a billion parameters, it is on its way
to a mean and a comparison, so it stays a float of full precision on the host; an integer buffer
would make 0.7 and 0.2 the same. Every text is legal, the empty one too, because a policy in
training writes everything sooner or later.

Key to the axes: N responses of a prompt, T tokens of a response.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Float64, Int32

PerResponse: TypeAlias = Float64[np.ndarray, " N"]
"""A number for every response of one prompt."""


@dataclass(frozen=True)
class Written:
    """A response as a reward sees it.

    Attributes:
        prompt: what it answers, as text to the letter: a reward model reads it as it was trained
            to, so white space at either end counts.
        response: the answer, likewise, without the stop token.
        tokens: of the answer, with the stop token that ended it.
        finished: whether it ended by itself and was not cut.
    """

    prompt: str
    response: str
    tokens: Int32[np.ndarray, " T"]
    finished: bool


@runtime_checkable
class Reward(Protocol):
    """Something that says what responses are worth."""

    @property
    def name(self) -> str:
        """What it was asked for as."""
        ...

    def __call__(self, groups: Sequence[Sequence[Written]]) -> list[PerResponse]:
        """One array per prompt, in order; higher is better.

        Raises:
            RewardError: if it cannot answer for good.
        """
        ...


def only_compares(reward: Reward) -> bool:
    """Whether a reward says which response of a prompt is better, and nothing of one alone."""
    parts = getattr(reward, "parts", ((1.0, reward),))
    return any(getattr(part, "compares", False) for _, part in parts)


def asks_once(reward: Reward) -> bool:
    """Whether one process has to ask for all, because what is asked is paid for and counted."""
    parts = getattr(reward, "parts", ((1.0, reward),))
    return any(getattr(part, "once", False) for _, part in parts)


def asks_person(reward: Reward) -> bool:
    """Whether a person is part of a reward."""
    parts = getattr(reward, "parts", ((1.0, reward),))
    return any(getattr(part, "person", False) for _, part in parts)


class RewardError(OSError):
    """A reward cannot answer: says why, what is kept of the answers, and how to go on."""


@dataclass(frozen=True)
class RewardContext:
    """What a reward may use of the run it serves.

    Attributes:
        tokenizer: gives the policy's, when it is first needed: what a reward refuses it refuses
            before there is a policy.
        cache: folder for answers that must never be asked for again.
        say: told what is worth knowing, a sentence at a time.
    """

    tokenizer: Callable[[], Any]
    cache: Path
    say: Callable[[str], None]


def one_by_one(
    groups: Sequence[Sequence[Written]], worth: Callable[[Written], float]
) -> list[PerResponse]:
    """The numbers of a reward that looks at each response alone."""
    return regrouped((worth(written) for group in groups for written in group), groups)


def regrouped(values: Iterable[float], groups: Sequence[Sequence[Written]]) -> list[PerResponse]:
    """Numbers of all responses, one after the other, as one array for each prompt."""
    flat = iter(values)
    return [np.array([next(flat) for _ in group], np.float64) for group in groups]
