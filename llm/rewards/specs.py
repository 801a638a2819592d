"""A reward by a short text: ``short``, ``mode-length:23``, ``0.5*kind + -0.1*min-length``.

A spec is a kind of reward, after a colon what that kind is told, and before a star a weight; specs
joined by `` + `` (with spaces) are added up. Everything that can be refused is refused when the
spec is read: unknown names, missing files, patterns that are none. Weights of large models are read
when they are first needed.

Key to the axes: N responses of a prompt.
"""

import hashlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from llm.embedded.language import PREFERENCES
from llm.rewards import functions, lengths, words
from llm.rewards.contract import PerResponse, Reward, RewardContext, Written
from llm.rewards.person import Person
from llm.rewards.settings import RewardSettings

TERM = re.compile(r"(?:([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*\*\s*|(-)\s*)?(.+)", re.S | re.I)
"""A weight and a star, or a minus, or neither; then a kind and what it is told."""

SUM = re.compile(r"\s\+\s")


class Asked(NamedTuple):
    """One term of a spec.

    Attributes:
        name: kind and argument, as written.
        argument: what stands after the colon; empty without one.
        settings: options of rewards.
        context: of the run.
    """

    name: str
    argument: str
    settings: RewardSettings
    context: RewardContext


@dataclass(frozen=True)
class Kind:
    """A kind of reward.

    Attributes:
        argument: what it must be told, in capitals; empty for nothing.
        meaning: what it rewards, in words, for help.
        make: makes it.
        depends_on: the file or folder that decides what it says beside its spec.
    """

    argument: str
    meaning: str
    make: Callable[[Asked], Reward]
    depends_on: Callable[[str], Path] | None = None


def make_mode_length(asked: Asked) -> Reward:
    """The length is part of the spec, so that it is recorded with the run."""
    if not asked.argument.isdecimal():
        raise ValueError(
            f"The reward {asked.name} names no length in tokens: write mode-length:23, for example."
        )
    return lengths.mode_length(asked.name, asked.context.tokenizer, int(asked.argument))


# What follows is imported when it is asked for: models and training settings need each other.
def make_model(asked: Asked) -> Reward:
    """A reward model."""
    from llm.rewards.bradley_terry import bradley_terry

    return bradley_terry(asked.name, asked.argument, asked.settings.max_tokens)


def model_path(argument: str) -> Path:
    """Folder of a reward model."""
    from llm.rewards.bradley_terry import find_reward_model

    return find_reward_model(argument)[0]


def make_classifier(whole: bool) -> Callable[[Asked], Reward]:
    """A classifier of the response, or of prompt and response."""

    def make(asked: Asked) -> Reward:
        from llm.rewards.classifier import sentiment

        return sentiment(asked.name, asked.argument, whole=whole)

    return make


def make_judge(asked: Asked) -> Reward:
    """A judge."""
    from llm.rewards import judge

    return judge.make_judge(asked.name, asked.argument, asked.settings.judge, asked.context)


def make_preference(asked: Asked) -> Reward:
    """A preference of the built-in language."""
    return words.preference(asked.name, asked.name)


KINDS: dict[str, Kind] = {
    **{name: Kind("", found.meaning, make_preference) for name, found in PREFERENCES.items()},
    "min-length": Kind("", "few tokens", lambda a: lengths.min_length(a.name, a.context.tokenizer)),
    "max-length": Kind(
        "", "many tokens", lambda a: lengths.max_length(a.name, a.context.tokenizer)
    ),
    "mode-length": Kind("TOKENS", "a length close to this one", make_mode_length),
    "regex": Kind("PATTERN", "matches of it", lambda a: words.regex(a.name, a.argument)),
    "has-regex": Kind("PATTERN", "any match of it", lambda a: words.has_regex(a.name, a.argument)),
    "lexicon": Kind("FILE", "its words", lambda a: words.lexicon(a.name, a.argument), Path),
    "lexicon-share": Kind(
        "FILE", "a share of its words", lambda a: words.lexicon_share(a.name, a.argument), Path
    ),
    "model": Kind("FOLDER", "what a trained reward model scores high", make_model, model_path),
    "classifier": Kind(
        "FOLDER", "responses of its positive class", make_classifier(whole=False), Path
    ),
    "classifier-whole": Kind(
        "FOLDER", "the same, of prompt and response", make_classifier(whole=True), Path
    ),
    "python": Kind(
        "MODULE:FUNCTION",
        "what a function of (prompts, responses) returns",
        lambda a: functions.python(a.name, a.argument),
    ),
    "judge": Kind("MODEL", "what a language model prefers, in pairs", make_judge),
    "person": Kind("", "what a person prefers, in `modeseek active`", lambda a: Person(a.name)),
}
"""Every kind of reward by name."""


class Term(NamedTuple):
    """One term of a spec: its weight, its kind, and what that is told."""

    weight: float
    name: str
    kind: Kind
    argument: str


@dataclass(frozen=True)
class Weighted:
    """A sum of rewards.

    Attributes:
        name: the spec.
        parts: each with its weight.
    """

    name: str
    parts: tuple[tuple[float, Reward], ...]

    def __call__(self, groups: Sequence[Sequence[Written]]) -> list[PerResponse]:
        """The weighted sum, response by response."""
        found = [(weight, reward(groups)) for weight, reward in self.parts]
        return [
            np.sum([weight * values[number] for weight, values in found], axis=0)
            for number in range(len(groups))
        ]


def read_reward(spec: str, settings: RewardSettings, context: RewardContext) -> Reward:
    """Make a reward from its spec.

    Args:
        spec: see the top of this file; ``KINDS`` lists what there is.
        settings: options of rewards that need some.
        context: what it may use of the run.

    Raises:
        ValueError: for a spec that says nothing that is known, and whatever does not fit.
        OSError: if a file or folder cannot be read.
    """
    parts = tuple(
        (term.weight, term.kind.make(Asked(term.name, term.argument, settings, context)))
        for term in parse(spec)
    )
    if len(parts) == 1 and parts[0][0] == 1.0:
        return parts[0][1]
    return Weighted(spec.strip(), parts)


def parse(spec: str) -> list[Term]:
    """The terms of a spec.

    Raises:
        ValueError: for an unknown kind, a missing argument, or a weight that is none.
    """
    return [parse_term(part, spec) for part in SUM.split(spec.strip())]


def parse_term(part: str, spec: str) -> Term:
    """One term; the whole spec is named in messages."""
    found = TERM.fullmatch(part.strip())
    if found is None:
        raise ValueError(f"The reward {spec!r} has an empty part; there is {listed()}.")
    weight = float(found[1] or (-1.0 if found[2] else 1.0))
    if not math.isfinite(weight) or weight == 0:
        raise ValueError(f"The weight {found[1]} in {spec!r} must be a number that is not 0.")
    name = found[3]
    word, _, argument = name.partition(":")
    kind = KINDS.get(word)
    if kind is None:
        raise ValueError(f"There is no reward {word!r}; there is {listed()}.")
    if bool(kind.argument) != bool(argument):
        wanted = f"{word}:{kind.argument}" if kind.argument else word
        raise ValueError(f"The reward {name!r} is not complete or too much: write {wanted}.")
    return Term(weight, name, kind, argument)


def listed() -> str:
    """Every kind of reward, as it is written."""
    return ", ".join(f"{n}:{kind.argument}" if kind.argument else n for n, kind in KINDS.items())


def identity(spec: str) -> dict[str, str]:
    """What a reward depends on beside its spec, so that a run can be held to it.

    Args:
        spec: of a reward that can be read.

    Returns:
        For each term with a file or folder behind it a fingerprint of what is in there.
    """
    return {
        term.name: fingerprint(term.kind.depends_on(term.argument).expanduser())
        for term in parse(spec)
        if term.kind.depends_on is not None
    }


def fingerprint(path: Path) -> str:
    """What tells a file, a model or a folder of small files from another."""
    from llm.reference import model_fingerprint

    if (path / "config.json").is_file():
        return model_fingerprint(path)
    files = [path] if path.is_file() else sorted(child for child in path.iterdir())
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
